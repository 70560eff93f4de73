"""A node's own file: read as any, but that it may lack classes; and a server without a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.own import OWN_DATA, read_node, read_server
from data.readers import Columns
from data.sources import Splits
from fedpeptao.errors import InputError
from tests.small_runs import write_jsonl


def node(data: Path, validation: Path | None = None) -> Splits:
    evaluated = "" if validation is None else str(validation)
    return read_node(str(data), evaluated, task=None, columns=Columns(), validation_fraction=0.25, seed=0)


def file(path: Path, labels: str, **more: str) -> Path:
    return write_jsonl(path, [{"text": f"text {n}", "label": label, **more} for n, label in enumerate(labels)])


def test_one_class_is_enough_for_a_node_and_a_part_of_it_is_kept_to_evaluate_on(tmp_path: Path) -> None:
    found = node(file(tmp_path / "d.jsonl", "a" * 20))
    assert (len(found.train), len(found.validation), found.test) == (15, 5, None)
    assert not set(found.train["text"]) & set(found.validation["text"])
    assert found.name == OWN_DATA


def test_its_own_evaluation_examples_go_before_a_part(tmp_path: Path) -> None:
    found = node(file(tmp_path / "d.jsonl", "ab" * 5), file(tmp_path / "v.jsonl", "ba"))
    assert (len(found.train), len(found.validation)) == (10, 2)
    assert found.sha256 != node(file(tmp_path / "d.jsonl", "ab" * 5), file(tmp_path / "v.jsonl", "ab")).sha256


def test_what_nobody_could_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels that training does not have: c"):
        node(file(tmp_path / "d.jsonl", "ab" * 5), file(tmp_path / "v.jsonl", "c"))
    with pytest.raises(InputError, match="disagree on whether there is a second text"):
        node(file(tmp_path / "d.jsonl", "ab" * 5), file(tmp_path / "v.jsonl", "a", text_pair="b"))


def test_a_server_has_a_test_set_or_nothing(tmp_path: Path) -> None:
    nothing = read_server("", task=None, columns=Columns())
    assert (len(nothing.train), len(nothing.validation), nothing.test) == (0, 0, None)
    one = read_server(str(file(tmp_path / "t.jsonl", "ab")), task=None, columns=Columns())
    assert one.test is not None
    assert list(one.test["label"]) == ["a", "b"]
    assert one.sha256 != nothing.sha256

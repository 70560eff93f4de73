"""Every bad input ends a run before anybody trains, with one message that names key, value and mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AlbertConfig, AutoModelForSequenceClassification, DistilBertConfig

from fedpeptao.errors import InputError
from models.random_models import random_tokenizer
from tests.refusals import refused_run
from tests.small_runs import Flat, examples, write_jsonl

MakeFlat = Callable[..., Flat]
Rows = list[dict[str, Any]]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """A JSON lines file of 100 good rows, or of changed ones."""

    def write(change: Callable[[Rows], Rows] = lambda rows: rows, name: str = "mine.jsonl") -> str:
        return str(write_jsonl(tmp_path / name, change([dict(row) for row in examples(100)])))

    return write


def names(error: InputError, key: str, value: object, problem: str) -> None:
    assert (error.key, error.value) == (key, value)
    assert problem in error.problem
    assert error.mend
    text = str(error)
    assert text.startswith(f"{key} = {value!r}: ")
    assert text.endswith(f"{error.mend}.")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value", "problem", "mend"),
    [
        ("round", 3, "no such setting", "Did you mean rounds"),
        ("frobnicate", 1, "no such setting", "pyproject.toml lists every setting"),
        ("clients-per-round", 6, "there are only 5 clients", "Lower it, or raise clients"),
        ("ratio", 0.0, "above 0 and at most 1", "--run-config"),
        ("ratio", 1.5, "above 0 and at most 1", "--run-config"),
        ("learning-rate", -0.01, "above 0", "--run-config"),
        ("learning-rate", float("nan"), "above 0", "--run-config"),
        ("learning-rate", "fast", "above 0", "--run-config"),
        ("rounds", -1, "at least 0", "--run-config"),
        ("rounds", 2.5, "whole number", "--run-config"),
        ("drift-correction", "client", "one of none, server, device", "--run-config"),
        ("layers", "two", "auto, all, or a list of layers", "--run-config"),
        ("layers", "-1", "auto, all, or a list of layers", "--run-config"),
        ("layers", "1,2", "random:bert has layers 0 to 1", "Name layers among those"),
        ("runs-dir", "runs", "an absolute path", "--run-config"),
        ("validation", "valid.jsonl", "an absolute path", "--run-config"),
        ("run-name", "../elsewhere", "without slashes", "--run-config"),
        ("dataset", "texts.jsonl", "a name or an absolute path", "--run-config"),
        ("dataset", "stdlib-dogs", "no data set of this name", "Give stdlib-docs"),
        ("dataset", "/nowhere/texts.jsonl", "no such file", "Check the path"),
        ("model", "random:bart", "no such random family", "random:bert"),
        ("model", "./model", "a name or an absolute path", "--run-config"),
        ("model", "/nowhere/model", "no such folder", "config.json"),
        ("model", f"/{'x' * 300}", "cannot be looked for (File name too long)", "rights of its folders"),
        ("device", "abacus", "no such device", "cpu"),
        ("test-examples", 1, "fewer than one for each of 3 labels", "at least 3"),
        ("clients", 8, "too few for at least 8 and 1 each", "at most 7"),
        ("max-length", 600, "room for 509 tokens", "509 or less"),
        ("max-length", 2, "no room for text", "3 or more"),
        ("prompt-tokens", 512, "no position", "fewer than 512"),
        ("prompt-tokens", 600, "no position", "fewer than 512"),
    ],
)
def test_a_wrong_setting(make_flat: MakeFlat, key: str, value: Any, problem: str, mend: str) -> None:
    error = refused_run({**make_flat(), key: value})
    assert error.key == key
    assert error.value is value or error.value == value
    assert problem in error.problem
    assert mend in error.mend


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def at_row(number: int, **change: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, **(change if i == number else {})} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        (lambda rows: [], "dataset", "the file is empty"),
        (without("text"), "text-column", "no such column, but label"),
        (without("label"), "label-column", "no such column, but text"),
        (at_row(7, text="  "), "dataset", "line 8 has the text"),
        (at_row(7, text=None), "dataset", "line 8 has the text None"),
        (at_row(7, label=None), "dataset", "line 8 has the label None"),
        (lambda rows: [{**row, "label": "only"} for row in rows], "dataset", "have the label only"),
        (lambda rows: rows[:4], "dataset", "too few to split"),
        (lambda rows: rows[:30], "clients", "too few for at least 8"),
    ],
)
def test_a_wrong_data_file(
    make_flat: MakeFlat, file: Callable[..., str], change: Callable[[Rows], Rows], key: str, problem: str
) -> None:
    path = file(change)
    flat = make_flat(dataset=path)
    value = {"text-column": "text", "label-column": "label", "clients": 5}.get(key, path)
    names(refused_run(flat), key, value, problem)


def test_a_line_that_is_no_json(make_flat: MakeFlat, file: Callable[..., str]) -> None:
    path = file()
    Path(path).write_text("text,label\nhello,a\n", encoding="utf8")
    names(refused_run(make_flat(dataset=path)), "dataset", path, "line 1 is not JSON")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_training_does_not_have(make_flat: MakeFlat, file: Callable[..., str], split: str) -> None:
    path = file(at_row(5, label="minerals"), f"{split}.jsonl")
    names(refused_run(make_flat(**{split: path})), split, path, "labels that training does not have: minerals")


@pytest.mark.parametrize("given", ["stable,critical,gone", "critical,dead,gone"])
def test_a_label_that_the_task_does_not_know(
    make_flat: MakeFlat, file: Callable[..., str], tmp_path: Path, given: str
) -> None:
    task = tmp_path / "triage.yaml"
    task.write_text("labels: [stable, critical]\n", encoding="utf8")
    path = file(lambda rows: [{**row, "label": ("stable", "critical")[i % 2]} for i, row in enumerate(rows)])
    error = refused_run(make_flat(task=str(task), dataset=path, labels=given))
    names(error, "labels", given, "the task triage does not know")
    assert error.problem.endswith("know gone" if "stable" in given else "know dead, gone")
    assert error.mend == "Its labels are stable, critical"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_missing_file_beside_a_good_one(make_flat: MakeFlat, tmp_path: Path, split: str) -> None:
    path = str(tmp_path / "absent.jsonl")
    names(refused_run(make_flat(**{split: path})), split, path, "no such file")


def test_a_text_longer_than_the_positions_where_none_may_be_cut(make_flat: MakeFlat, file: Callable[..., str]) -> None:
    path = file(at_row(7, text="cat " * 200))
    error = refused_run(make_flat(dataset=path, max_length=0))
    names(error, "max-length", 0, "tokens, and the model has room for 509 beside the prompt")
    assert "509" in error.mend


def test_a_model_that_fails_the_probe(make_flat: MakeFlat, tmp_path: Path) -> None:
    """Its layers are one: prompts could not be told apart."""
    config = AlbertConfig(
        vocab_size=300, hidden_size=32, num_attention_heads=4, intermediate_size=64, embedding_size=16
    )
    folder = tmp_path / "albert"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    random_tokenizer("bert").save_pretrained(folder)
    error = refused_run(make_flat(model=str(folder)))
    names(error, "model", str(folder), "layers share one attention module")
    assert "BERT, RoBERTa, GPT-2 or Llama" in error.mend


def test_a_head_that_the_model_cannot_have(make_flat: MakeFlat, tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=300, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    random_tokenizer("bert").save_pretrained(tmp_path)
    error = refused_run(make_flat(model=str(tmp_path)))
    names(error, "head", "linear", "several parts (pre_classifier, classifier)")
    assert 'head = "model"' in error.mend


def test_a_language_models_head_without_label_words(make_flat: MakeFlat) -> None:
    names(refused_run(make_flat(model="random:bert", head="masked-lm")), "head", "masked-lm", "no label words")


def test_quantisation_without_its_library(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.quantisation.find_spec", lambda name: None)
    error = refused_run(make_flat(model="all-MiniLM-L6-v2", quantisation="int4"))
    names(error, "quantisation", "int4", "bitsandbytes is not installed")


def test_a_model_without_its_weights(make_flat: MakeFlat, tmp_path: Path) -> None:
    folder = tmp_path / "hollow"
    DistilBertConfig().save_pretrained(folder)
    names(refused_run(make_flat(model=str(folder))), "model", str(folder), "could not be loaded")


def test_a_runs_folder_that_cannot_be_written(make_flat: MakeFlat, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf8")
    assert refused_run(make_flat(runs_dir=str(tmp_path / "file" / "runs"))).key == "runs-dir"

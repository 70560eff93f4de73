import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from data import sources
from data.readers import Columns
from data.sources import load_splits, order_labels
from data.tasks import Task, load_task
from fedpeptao.errors import InputError


def write(path: Path, labels: list[Any], prefix: str = "text", **more: str) -> str:
    rows = [{"text": f"{prefix} {i}", "label": label} | more for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_labels_are_ordered_by_value_only_where_all_are_integers() -> None:
    assert order_labels(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert order_labels(["10", "9", "a"]) == ["10", "9", "a"]


def test_split_here_is_stratified_complete_and_disjoint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [0] * 160 + [1] * 40)
    splits = load_splits(path, validation_fraction=0.2, test_fraction=0.1)
    assert splits.test is not None
    tables = [splits.train, splits.validation, splits.test]
    assert [Counter(table["label"]) for table in tables] == [
        {"0": 112, "1": 28},
        {"0": 32, "1": 8},
        {"0": 16, "1": 4},
    ]
    texts = [text for table in tables for text in table["text"]]
    assert sorted(texts) == sorted(f"text {i}" for i in range(200))


def test_given_files_are_taken_as_they_are(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ["a", "b"] * 5)
    validation = write(tmp_path / "dev.jsonl", ["b", "a"], "dev")
    test = write(tmp_path / "test.jsonl", ["a"], "test")
    splits = load_splits(train, validation=validation, test=test)
    assert splits.train["text"] == [f"text {i}" for i in range(10)]
    assert splits.validation.to_dict() == {"text": ["dev 0", "dev 1"], "label": ["b", "a"]}
    assert splits.test is not None
    assert splits.test["text"] == ["test 0"]
    alone = load_splits(train, test=test, validation_fraction=0.2)
    assert (len(alone.train), len(alone.validation)) == (8, 2)


def test_same_seed_same_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [0, 1] * 50)
    first, again, other = (load_splits(path, seed=seed) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.train.to_dict() == again.train.to_dict()


def test_sha256_tells_rows_order_and_splits_apart() -> None:
    def table(*rows: str) -> Dataset:
        return Dataset.from_dict({"text": rows, "label": ["0"] * len(rows)})

    variants = [
        [table("a", "b"), table("c")],
        [table("b", "a"), table("c")],
        [table("a"), table("b", "c")],
        [table("a", "b"), table("c").add_column("text_pair", ["d"])],
    ]
    assert len({sources.rows_sha256(variant) for variant in variants}) == 4
    assert sources.rows_sha256(variants[0]) == sources.rows_sha256([table("a", "b"), table("c")])


def test_subsets_are_stratified_and_keep_every_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [0] * 300 + [1] * 96 + [2] * 4)
    splits = load_splits(path, train_examples=80, test_examples=20)
    count = Counter(splits.train["label"])
    assert count.total() == 80
    assert abs(count["0"] - 60) <= 2
    assert count["2"] >= 1
    assert splits.test is not None
    assert len(splits.validation) == len(splits.test) == round(0.15 * 117) < 20  # in proportion to 80 of train
    assert len(load_splits(path, test_examples=20).test or []) == 20


@pytest.mark.parametrize("wanted", [3, 17, 50, 83, 111, 200])
def test_a_subset_has_just_as_many_as_asked_for(tmp_path: Path, wanted: int) -> None:
    splits = load_splits(write(tmp_path / "a.jsonl", [0] * 300 + [1] * 96 + [2] * 4), train_examples=wanted)
    assert len(splits.train) == wanted


def test_hub_validation_stands_in_for_an_absent_test(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Dataset.from_dict({"text": [f"t{i}" for i in range(20)], "label": ["0", "1"] * 10})
    dev = Dataset.from_dict({"text": ["d"], "label": ["1"]})
    monkeypatch.setattr(sources, "read_hub", lambda name, columns, splits: {"train": train, "validation": dev})
    splits = load_splits("nyu-mll/glue:sst2")
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), splits.test["text"]) == (17, 3, ["d"])


def test_hub_splits_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = {
        split: Dataset.from_dict({"text": [split, split + "!"], "label": ["0", "1"]})
        for split in ("train", "validation", "test")
    }
    monkeypatch.setattr(sources, "read_hub", lambda name, columns, splits: dict(tables))
    splits = load_splits("owner/name")
    assert [splits.train[0]["text"], splits.validation[0]["text"]] == ["train", "validation"]
    own = load_splits("owner/name", test=write(tmp_path / "own.jsonl", [0], "own"))
    assert own.test is not None
    assert (own.test["text"], own.validation["text"][0]) == (["own 0"], "validation")


def test_embedded_set_is_split_here() -> None:
    splits = load_splits("stdlib-docs")
    assert splits.test is not None
    total = len(splits.train) + len(splits.validation) + len(splits.test)
    assert abs(len(splits.train) / total - 0.7) < 0.01
    assert set(splits.validation["label"]) == set(splits.train["label"]) == set(splits.test["label"])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"validation_fraction": 0.0}, "validation-fraction"),
        ({"validation_fraction": float("nan")}, "validation-fraction"),
        ({"test_fraction": 1.0}, "test-fraction"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "validation-fraction"),
        ({"train_examples": -1}, "train-examples"),
        ({"test_examples": -1}, "test-examples"),
        ({"train_examples": 1}, "train-examples"),
        ({"dataset": "train.jsonl"}, "dataset"),
        ({"dataset": "./data/train"}, "dataset"),
        ({"dataset": "data/train.jsonl"}, "dataset"),
        ({"dataset": "~/train.jsonl"}, "dataset"),
        ({"dataset": "stdlib"}, "dataset"),
        ({"dataset": ""}, "dataset"),
        ({"validation": "dev.jsonl"}, "validation"),
        ({"test": "/no/such/file.jsonl"}, "test"),
    ],
)
def test_bad_settings_name_their_key(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    good = {"dataset": write(tmp_path / "a.jsonl", [0, 1] * 10)}
    with pytest.raises(InputError) as caught:
        load_splits(**(good | settings))
    assert caught.value.key == key


@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_that_training_lacks_is_named(tmp_path: Path, split: str) -> None:
    train, other = write(tmp_path / "a.jsonl", [0, 1] * 10), write(tmp_path / "b.jsonl", [0, 7])
    settings: dict[str, Any] = {split: other}
    with pytest.raises(InputError, match=f"{split} has labels that training does not have: 7") as caught:
        load_splits(train, **settings)
    assert (caught.value.key, caught.value.value) == (split, other)


def test_one_label_and_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have the label 5"):
        load_splits(write(tmp_path / "a.jsonl", [5] * 10))
    with pytest.raises(InputError, match="3 examples of 2 labels are too few"):
        load_splits(write(tmp_path / "b.jsonl", [0, 1, 1]))


def test_pairs_in_one_file_only_are_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [0, 1] * 10, text_pair="second")
    with pytest.raises(InputError, match="test and train disagree") as caught:
        load_splits(train, test=write(tmp_path / "b.jsonl", [0, 1]))
    assert caught.value.key == "text-pair-column"
    splits = load_splits(train)
    assert set(splits.validation["text_pair"]) == {"second"}


@pytest.mark.parametrize("task", ["sst2", "rte"])
def test_real_task(task: str) -> None:
    folder = os.environ.get("FEDPEPTAO_TASKS")
    if not folder:
        pytest.skip("FEDPEPTAO_TASKS names no folder of real tasks (<task>.train.jsonl, <task>.dev.jsonl)")
    root = Path(folder).absolute()
    splits = load_splits(str(root / f"{task}.train.jsonl"), test=str(root / f"{task}.dev.jsonl"), train_examples=400)
    assert len(splits.train) == 400
    assert order_labels(splits.train["label"]) == ["0", "1"]
    assert ("text_pair" in splits.train.column_names) == (task == "rte")


def task(name: str) -> Task:
    found = load_task(name)
    assert found is not None
    return found


def test_a_task_names_the_labels_and_refuses_others(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "a.jsonl", [0, 1, "pos", "neg"] * 5), write(tmp_path / "b.jsonl", ["pos", 2])
    assert set(load_splits(train, task=task("mr")).train["label"]) == {"negative", "positive"}
    with pytest.raises(InputError, match="example 2 has the label '2', which the task mr does not know") as caught:
        load_splits(train, test=dev, task=task("mr"))
    assert (caught.value.key, caught.value.value) == ("test", dev)


def test_a_task_of_pairs_needs_pairs_and_one_of_texts_takes_the_first(tmp_path: Path) -> None:
    single = write(tmp_path / "a.jsonl", [0, 1] * 10)
    with pytest.raises(InputError, match="the task rte is about pairs"):
        load_splits(single, task=task("rte"))
    pairs = write(tmp_path / "b.jsonl", [0, 1] * 10, text_pair="second")
    assert load_splits(pairs, task=task("sst2")).train.column_names == ["text", "label"]


def test_a_task_alone_loads_its_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read_hub(name: str, columns: Columns, splits: dict[str, str]) -> dict[str, Dataset]:
        asked.append((name, columns, splits))
        rows = {"text": ["t"] * 20, "text_pair": ["u"] * 20, "label": ["entailment", "neutral"] * 10}
        return {"train": Dataset.from_dict(rows)}

    monkeypatch.setattr(sources, "read_hub", read_hub)
    splits = load_splits("stdlib-docs", task=task("mnli"))
    assert asked == [
        ("nyu-mll/glue:mnli", Columns("premise", "hypothesis", "label"), {"validation": "validation_matched"})
    ]
    assert splits.name == "nyu-mll/glue:mnli"
    with pytest.raises(InputError, match="names no set on a hub"):
        load_splits("stdlib-docs", task=replace(task("sst2"), hub=""))


@pytest.mark.parametrize("name", ["sst2", "mr", "mrpc", "rte", "cola"])
def test_real_files_are_understood_by_their_tasks(name: str) -> None:
    folder = os.environ.get("FEDPEPTAO_TASKS")
    if not folder:
        pytest.skip("FEDPEPTAO_TASKS names no folder of real tasks (<task>.train.jsonl, <task>.dev.jsonl)")
    root, one = Path(folder).absolute(), task(name)
    dev = str(root / f"{name}.dev.jsonl")
    splits = load_splits(dev, task=one, train_examples=100)
    assert Counter(splits.train["label"]).keys() == set(one.labels)
    majority = {"sst2": "positive", "mr": "negative", "mrpc": "equivalent", "rte": "entailment", "cola": "acceptable"}
    values = [str(json.loads(line)["label"]) for line in Path(dev).read_text(encoding="utf8").splitlines()]
    assert Counter(one.named(values, "test", dev)).most_common(1)[0][0] == majority[name]

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from data import readers
from data.readers import Columns, read_hub, read_jsonl
from data.tables import read_file
from fedpeptao.errors import InputError


def write(path: Path, *lines: object) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return str(path)


def test_reads_text_and_label_as_strings(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", {"text": "one", "label": 1, "extra": []}, "", {"text": "zwölf\u2028", "label": "b"}
    )
    table = read_jsonl(path, Columns(), "dataset")
    assert table.to_dict() == {"text": ["one", "zwölf\u2028"], "label": ["1", "b"]}


def test_reads_pairs_and_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"p": "one", "h": "two", "gold": True})
    table = read_jsonl(path, Columns("p", "h", "gold"), "dataset")
    assert table.to_dict() == {"text": ["one"], "label": ["True"], "text_pair": ["two"]}


@pytest.mark.parametrize("end", ["\r\n", "\n\n"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, end: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + end.join(['{"text": "a", "label": 0}'] * 2).encode())
    assert len(read_jsonl(str(file), Columns(), "dataset")) == 2


GOOD = {"text": "good", "label": 0}


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("{", "line 2 is not JSON"),
        ("[1, 2]", "line 2 is JSON but not an object"),
        ("[" * 100_000, "line 2 is not JSON"),
        ({"text": "x"}, "line 2 has no column label, but text"),
        ({"label": 1}, "line 2 has no column text, but label"),
        ({}, "line 2 has no column text, but none at all"),
        ({"text": "", "label": 1}, "line 2 has the text ''"),
        ({"text": " \n", "label": 1}, r"line 2 has the text ' \\n'"),
        ({"text": None, "label": 1}, "line 2 has the text None"),
        ({"text": 7, "label": 1}, "line 2 has the text 7"),
        ({"text": "x", "label": None}, "line 2 has the label None"),
        ({"text": "x", "label": ""}, "line 2 has the label ''"),
        ({"text": "x", "label": [1]}, "line 2 has the label"),
        ('{"text": "\\ud800", "label": 1}', "not valid Unicode"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, second: object, says: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, second)
    with pytest.raises(InputError, match=says) as caught:
        read_jsonl(path, Columns(), "validation")
    assert (caught.value.key, caught.value.value) == ("validation", path)


@pytest.mark.parametrize("pair", [{}, {"text_pair": None}])
def test_a_pair_must_be_in_all_lines(tmp_path: Path, pair: dict[str, None]) -> None:
    path = write(tmp_path / "a.jsonl", GOOD | {"text_pair": "b"}, GOOD | pair)
    with pytest.raises(InputError, match="line 2"):
        read_jsonl(path, Columns(), "dataset")


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        (Columns(text="sentence"), "text-column"),
        (Columns(label="gold"), "label-column"),
        (Columns(text_pair="second"), "text-pair-column"),
    ],
)
def test_missing_column_lists_those_present(tmp_path: Path, columns: Columns, key: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(InputError, match="no such column, but text, label") as caught:
        read_jsonl(path, columns, "dataset")
    assert caught.value.key == key


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("key", ["dataset", "validation", "test"])
def test_files_that_the_user_may_not_reach_or_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    path = write(tmp_path / name, GOOD)

    def closed(path: Path, **how: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=rf"^{key} = .*{name}.*the file may not be read. Check its rights"):
        read_file(path, Columns(), key)
    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(InputError, match=rf"^{key} = .*{name}.*looked for \(Permission denied\). Check the path and"):
        read_file(path, Columns(), key)


def test_bad_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jsonl").write_text(" \n\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9", "label": 1}\n')
    write(tmp_path / "here.jsonl", GOOD)
    monkeypatch.chdir(tmp_path)
    cases = {
        "here.jsonl": "relative",
        str(tmp_path / "none.jsonl"): "no such file",
        str(tmp_path): "not a file",
        str(tmp_path / "empty.jsonl"): "empty",
        str(tmp_path / "latin.jsonl"): "not UTF-8",
    }
    for path, says in cases.items():
        with pytest.raises(InputError, match=says) as caught:
            read_jsonl(path, Columns(), "test")
        assert (caught.value.key, caught.value.value) == ("test", path)


def hub(monkeypatch: pytest.MonkeyPatch, **splits: Dataset) -> list[tuple[str, str | None]]:
    calls: list[tuple[str, str | None]] = []

    def load(path: str, configuration: str | None) -> DatasetDict:
        calls.append((path, configuration))
        return DatasetDict(splits)

    monkeypatch.setattr(readers, "load_dataset", load)
    return calls


def glue(columns: dict[str, list[str]], labels: list[int]) -> Dataset:
    features = Features(dict.fromkeys(columns, Value("string")) | {"label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict(columns | {"label": labels}, features=features)


def test_hub_set_like_sst2_needs_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    train = glue({"sentence": ["a", "b", "c"]}, [0, 1, -1])
    calls = hub(monkeypatch, train=train, validation=train, test=glue({"sentence": ["d"]}, [-1]))
    tables = read_hub("nyu-mll/glue:sst2", Columns(), {})
    assert calls == [("nyu-mll/glue", "sst2")]
    assert sorted(tables) == ["train", "validation"]
    assert tables["train"].to_dict() == {"text": ["a", "b"], "label": ["negative", "positive"]}


@pytest.mark.parametrize("names", [("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence")])
def test_hub_pairs_are_found(monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]) -> None:
    hub(monkeypatch, train=glue({names[0]: ["a"], names[1]: ["b"]}, [1]))
    table = read_hub("owner/name", Columns(), {})["train"]
    assert table.to_dict() == {"text": ["a"], "label": ["positive"], "text_pair": ["b"]}


def test_hub_columns_by_settings_and_plain_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Dataset.from_dict({"sentence": ["x"], "title": ["a"], "coarse": [3]})
    hub(monkeypatch, train=train, validation_matched=train)
    tables = read_hub("owner/name", Columns(text="title", label="coarse"), {})
    assert tables["validation"].to_dict() == {"text": ["a"], "label": ["3"]}
    with pytest.raises(InputError, match="no such column, but sentence, title, coarse") as caught:
        read_hub("owner/name", Columns(), {})
    assert caught.value.key == "label-column"


def test_hub_without_train_and_bad_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Dataset.from_dict({"text": ["a", ""], "label": [0, 1]})
    hub(monkeypatch, test=table)
    with pytest.raises(InputError, match="no split train, but test"):
        read_hub("owner/name", Columns(), {})
    hub(monkeypatch, train=table)
    with pytest.raises(InputError, match="row 1 has the text ''"):
        read_hub("owner/name", Columns(), {})


def test_unreachable_hub_says_how_to_give_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, configuration: str | None) -> DatasetDict:
        raise ConnectionError("Couldn't reach it\nmore")

    monkeypatch.setattr(readers, "load_dataset", load)
    with pytest.raises(InputError, match=r"Couldn't reach it\).*absolute path of a \.jsonl file"):
        read_hub("owner/name", Columns(), {})

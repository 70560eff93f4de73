"""Texts from files and standard input, by the file's ending; what cannot be used is named by its line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fedpeptao.errors import InputError
from fedpeptao.texts import Texts, read_texts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            '{"text": "one\u2028line", "label": 3}\n\n{"text": "two"}\n',
            Texts(["one\u2028line", "two"], None),
        ),
        ("a.jsonl", '{"text": "one", "text_pair": "uno"}', Texts(["one"], ["uno"])),
        ("a.csv", 'label,text\nx,"one, ""and""\nmore"\ny,two\n', Texts(['one, "and"\nmore', "two"], None)),
        ("a.tsv", "text\ttext_pair\r\none\tuno\r\n", Texts(["one"], ["uno"])),
        ("a.tsv", 'text\ttext_pair\n"one\tuno\ntwo"\tdue\n', Texts(['"one', 'two"'], ["uno", "due"])),
        ("a.tsv", 'text\n"one\nmore"\ntwo\n', Texts(["one\nmore", "two"], None)),
        ("a.txt", "\ufeffone\n\n two \r\n", Texts(["one", " two "], None)),
        ("a", "one\tuno\ntwo\tdue\n", Texts(["one", "two"], ["uno", "due"])),
    ],
)
def test_a_file_by_its_ending(tmp_path: Path, name: str, content: str, expected: Texts) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read_texts(str(tmp_path / name), "text", "text_pair") == expected


def test_columns_have_the_names_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("premise,text,answer\na,b,c\n", encoding="utf8")
    assert read_texts(str(tmp_path / "a.csv"), "premise", "answer") == Texts(["a"], ["c"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [("one\ntwo\n", Texts(["one", "two"], None)), ('\n {"text": "one"}\n', Texts(["one"], None))],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: str, expected: Texts) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert read_texts("-", "text", "text_pair") == expected


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', r"line 2 has no text in the column 'text' \(its columns: txt\)"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}', "line 2 has no text"),
        ("a.jsonl", '{"text": "a", "text_pair": "b"}\n{"text": "c"}', "line 2 has no text in the column 'text_pair'"),
        ("a.jsonl", '{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is no JSON object"),
        ("a.jsonl", "\n", "no texts"),
        ("a.csv", "text,label\na,1\n ,2\n", "line 3 has no text"),
        ("a.csv", "text,label\n", "no texts"),
        ("a.csv", "text,label\na,1\nb, c,2\n", "line 3 has 3 fields, and the first line 2"),
        ("a.txt", "a\nb\tc\n", "text 2 has a tab"),
        ("a.txt", "a\tb\nc\n", "text 2 has no tab"),
        ("a.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("a.txt", " \n", "no texts"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=problem) as caught:
        read_texts(str(tmp_path / name), "text", "text_pair")
    assert (caught.value.key, caught.value.value) == ("--file", str(tmp_path / name))
    assert caught.value.mend


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_texts(str(tmp_path / "a.txt"), "text", "text_pair")
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(str(tmp_path), "text", "text_pair")

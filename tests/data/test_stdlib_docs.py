import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from data import stdlib_docs as module
from data.stdlib_docs import MODULES_BY_CLASS, first_paragraphs, source_files, stdlib_docs
from fedpeptao.errors import InputError

DROPPED_IN_3_12 = {"asynchat", "asyncore", "distutils", "imp", "smtpd"}
DROPPED_IN_3_13 = {
    *("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "mailcap", "msilib", "nis", "nntplib"),
    *("lib2to3", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"),
}
PACKED_APART = {"ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtle", "turtledemo", "venv"}


def test_seven_classes_none_a_quarter() -> None:
    count = Counter(stdlib_docs()["label"])
    assert sorted(count) == ["concurrency", "files", "internet", "language", "numbers", "testing", "text"]
    assert 3000 <= count.total() <= 6000
    assert max(count.values()) < count.total() / 4
    assert min(count.values()) > count.total() / 15


def test_texts_are_unique_folded_and_long_enough() -> None:
    texts = list(stdlib_docs()["text"])
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.split()) and len(text.split()) >= 5 for text in texts)


def test_known_docstrings_are_in_their_class() -> None:
    label_of = dict(zip(stdlib_docs()["text"], stdlib_docs()["label"], strict=True))
    assert label_of["A class that represents a thread of control."] == "concurrency"
    assert label_of["Create an archive file (eg. zip or tar)."] == "files"
    assert label_of["Restore the mock object to its initial state."] == "testing"


def test_modules_are_in_every_build_and_in_one_class() -> None:
    modules = [module for names in MODULES_BY_CLASS.values() for module in names.split()]
    assert len(set(modules)) == len(modules)
    assert not set(modules) & (DROPPED_IN_3_12 | DROPPED_IN_3_13 | PACKED_APART)
    assert set(modules) <= sys.stdlib_module_names


def test_nothing_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MODULES_BY_CLASS", {"one": "harmful", "two": "other"})
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "harmful.py").write_text('"""One two three four five."""\nraise SystemExit(1)\n')
    (tmp_path / "other.py").write_text('"""Six seven eight nine ten."""\n')
    assert stdlib_docs.__wrapped__()["label"] == ["one", "two"]


def test_rules_of_the_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "MODULES_BY_CLASS", {"b": "late", "a": "zeta package"})
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "late.py").write_text(
        '"""Shared by both of the classes."""\nclass C:\n    """Only here, in class b."""\n'
    )
    (tmp_path / "zeta.py").write_text(
        'def f():\n    """First   paragraph of\n    function f.\n\n    Second paragraph of function f."""\n'
        '    def g():\n        """Deep inside of function f."""\n'
        'async def h():\n    """Only four words here."""\n'
        'def i():\n    """Shared by both of the classes."""\n'
        'def j():\n    """Deep inside of function f."""\n'
    )
    for name in ("package", "package/test", "package/part"):
        (tmp_path / name).mkdir()
    (tmp_path / "package/__init__.py").write_text('"""Comes first within class a."""\n')
    (tmp_path / "package/test/case.py").write_text('"""A test that must not count."""\n')
    (tmp_path / "package/part/one.py").write_text('"""Comes second within class a."""\n')
    rows = stdlib_docs.__wrapped__()
    assert list(zip(rows["text"], rows["label"], strict=True)) == [
        ("Comes first within class a.", "a"),
        ("Comes second within class a.", "a"),
        ("First paragraph of function f.", "a"),
        ("Deep inside of function f.", "a"),
        ("Only here, in class b.", "b"),
    ]


def test_first_paragraphs_come_in_source_order(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(
        'class A:\n    def f(self):\n        """One is the first one."""\nclass B:\n    """Two is the second one."""\n'
    )
    assert list(first_paragraphs(file)) == ["One is the first one.", "Two is the second one."]


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source of its module asyncio"):
        source_files(tmp_path, "asyncio")


def test_parsed_once_per_process() -> None:
    assert stdlib_docs() is stdlib_docs()

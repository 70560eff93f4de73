"""The embedded set `stdlib-docs`: what a docstring of Python's standard library is about.

Real English text that every machine with Python already has: no hub, no download, no copy in this repository.
Files are parsed and never imported, so that no module's side effects run.
"""

from __future__ import annotations

import ast
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from datasets import Dataset

from fedpeptao.errors import InputError

MINIMUM_WORDS = 5
NOT_CODE_OF_THE_PACKAGE = frozenset({"test", "tests", "idle_test", "__pycache__"})

# class -> modules, each with Python source in every build of CPython 3.11, 3.12 and 3.13: nothing that 3.12 or
# 3.13 dropped, nothing that Debian packs apart, nothing that a platform lacks. A package stands for all its
# modules, tests apart (pathlib and zipfile became packages on the way).
MODULES_BY_CLASS = {
    "concurrency": (
        "_threading_local asyncio concurrent multiprocessing queue sched selectors signal subprocess threading"
    ),
    "files": (
        "_compression bz2 filecmp fileinput fnmatch genericpath glob gzip lzma ntpath os pathlib "
        "posixpath shelve shutil stat tarfile tempfile zipapp zipfile"
    ),
    "internet": (
        "ftplib http imaplib ipaddress mailbox mimetypes netrc poplib smtplib socket socketserver ssl "
        "urllib webbrowser wsgiref xmlrpc"
    ),
    "language": (
        "_collections_abc abc ast code codeop collections contextlib copy copyreg dataclasses dis enum "
        "functools importlib inspect linecache modulefinder operator pkgutil pyclbr runpy symtable "
        "tokenize types typing weakref zipimport"
    ),
    "numbers": ("_pydecimal _strptime calendar colorsys datetime fractions numbers random secrets statistics zoneinfo"),
    "testing": "bdb cProfile doctest pdb profile pstats timeit trace traceback tracemalloc unittest warnings",
    "text": (
        "base64 codecs configparser csv difflib email encodings gettext html json locale plistlib pprint "
        "quopri re reprlib shlex string stringprep textwrap tomllib xml"
    ),
}


@cache
def stdlib_docs() -> Dataset:
    """All examples of the running Python: columns text and label (str), in the order (class, module, position).

    An example is the first paragraph of a docstring of a module, a class or a function, whitespace folded, of
    MINIMUM_WORDS words or more. A text appears once; one that two classes share says nothing about either and is
    left out. Parsed once per process.

    Raises:
        InputError: the running Python is without the source of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    labels: dict[str, str | None] = {}  # text -> class, None where classes disagree; a dict keeps the first position
    for label in sorted(MODULES_BY_CLASS):
        for module in sorted(MODULES_BY_CLASS[label].split()):
            for path in source_files(root, module):
                for text in first_paragraphs(path):
                    labels[text] = label if labels.get(text, label) == label else None
    rows = [(text, label) for text, label in labels.items() if label is not None]
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def source_files(root: Path, module: str) -> list[Path]:
    """The files of one top-level module under the library's folder, sorted; of a package all, tests apart."""
    single = root / f"{module}.py"
    if single.is_file():
        return [single]
    package = root / module
    files = [
        path
        for path in package.rglob("*.py")
        if not NOT_CODE_OF_THE_PACKAGE.intersection(path.relative_to(package).parts)
    ]
    if not files:
        raise InputError(
            "dataset",
            "stdlib-docs",
            f"this Python has no source of its module {module} under {root}",
            "Use a CPython 3.11 to 3.13 with its standard library, or a .jsonl file of your own",
        )
    return sorted(files, key=lambda path: path.relative_to(package).as_posix())


def first_paragraphs(path: Path) -> Iterator[str]:
    """First paragraphs of all docstrings in one file, in source order, whitespace folded."""
    with tokenize.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of the library's own literals: not the user's concern
        tree = ast.parse(file.read())
    for docstring in docstrings(tree):
        words = docstring.partition("\n\n")[0].split()
        if len(words) >= MINIMUM_WORDS:
            yield " ".join(words)


def docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a tree in source order: the node's own, then those of what is defined inside, however deep."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    for child in ast.iter_child_nodes(node):
        yield from docstrings(child)

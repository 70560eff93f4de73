"""What a task is beside its rows: a template, label words, a metric, and where a hub keeps it.

data/tasks.yaml lists those that come with the application; a user's own is a file with one entry of the same form. All of it
is checked here, before any data are read.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from data.endings import TASKS
from data.readers import Columns, absolute_file
from fedpeptao.errors import InputError

METRICS = ("accuracy", "matthews", "f1", "accuracy-and-f1")
MASK = "[MASK]"
_LIST = Path(__file__).with_name("tasks.yaml")
_KEYS = {"name", "hub", "configuration", "columns", "splits", "template", "causal_template", "metric", "labels"}


@dataclass(frozen=True)
class Task:
    """One task (section 2.7 of docs/ALGORITHMS.md).

    Attributes:
        name: in the list, or a file's stem.
        template: with the places {a}, {b} and [MASK]; "" for a task that fills in none.
        causal_template: for decoders: the label word follows it.
        words: label -> label word, in the order of the classes; empty: the task has none.
        metric: one of METRICS.
        labels: in the order of the classes.
        values: what a label is called in data -> label; the label itself is among them.
        columns: of the hub's set.
        splits: train, validation, test -> what the hub calls it, where that is not found by itself.
        hub, configuration: name of the hub's set; "" where there is none.
    """

    name: str
    template: str
    causal_template: str
    words: Mapping[str, str]
    metric: str
    labels: tuple[str, ...]
    values: Mapping[str, str]
    columns: Columns = field(default_factory=Columns)
    splits: Mapping[str, str] = field(default_factory=dict)
    hub: str = ""
    configuration: str = ""

    @property
    def dataset(self) -> str:
        """The hub's name as the setting dataset has it."""
        return self.hub + (f":{self.configuration}" if self.configuration else "")

    @property
    def pairs(self) -> bool:
        """Whether an example is two texts."""
        return bool(self.columns.text_pair)

    def named(self, values: Sequence[str], key: str, path: str) -> list[str]:
        """The labels that these values of a label column stand for.

        Raises:
            InputError: under `key` with the value `path`: a value that the task does not know.
        """
        for row, value in enumerate(values, start=1):
            if value not in self.values:
                problem = f"example {row} has the label {value!r}, which the task {self.name} does not know"
                raise InputError(
                    key, path, problem, f"Use {', '.join(self.values)}, or add it to a task file of your own"
                )
        return [self.values[value] for value in values]


def load_task(place: str) -> Task | None:
    """The task of this name, or of the .yaml file at this absolute path; None for "".

    Raises:
        InputError: no such task or file, or an entry with something wrong in it.
    """
    if not place:
        return None
    if place.endswith(TASKS) or "/" in place or "\\" in place:
        return _own(place)
    known = listed()
    if place not in known:
        close = difflib.get_close_matches(place.lower(), known, n=1)
        guess = f"Did you mean {close[0]}? " if close else ""
        mend = f"{guess}There are {', '.join(known)}; your own is the absolute path of a .yaml file"
        raise InputError("task", place, "there is no such task", mend)
    return parse_task(place, known[place], place)


@lru_cache(maxsize=1)
def listed() -> dict[str, Any]:
    """The entries of data/tasks.yaml by name."""
    entries: dict[str, Any] = yaml.safe_load(_LIST.read_text(encoding="utf8"))
    return entries


def _own(path: str) -> Task:
    file = absolute_file(path, "task")
    try:
        entry = yaml.safe_load(file.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError("task", path, f"the file is not YAML ({reason})", "Mend it: docs/TASKS.md has one") from error
    name = entry.get("name", file.stem) if isinstance(entry, dict) else file.stem
    return parse_task(str(name), entry, path)


def parse_task(name: str, entry: object, place: str) -> Task:
    """A task from its entry; place: the value of the setting, for messages.

    Raises:
        InputError: an unknown or missing key, a template without its places, label words missing or equal.
    """
    if not isinstance(entry, dict):
        raise _wrong(place, "the file does not hold the keys of one task", "Begin it with template: and labels:")
    if unknown := [str(key) for key in entry if key not in _KEYS]:
        raise _wrong(place, f"there is no key {unknown[0]}", f"The keys are {', '.join(sorted(_KEYS))}")
    labels, words, values = _labels(entry.get("labels"), place)
    columns = _columns(entry.get("columns", {}), str(entry.get("template", "")), place)
    template, causal = _templates(entry, bool(columns.text_pair), bool(words), place)
    metric = entry.get("metric", "accuracy")
    if metric not in METRICS:
        raise _wrong(place, f"there is no metric {metric}", f"Give one of {', '.join(METRICS)}")
    return Task(
        name=name,
        template=template,
        causal_template=causal,
        words=words,
        metric=metric,
        labels=labels,
        values=values,
        columns=columns,
        splits=_texts(entry.get("splits", {}), "splits", ("train", "validation", "test"), place),
        hub=str(entry.get("hub", "")),
        configuration=str(entry.get("configuration", "")),
    )


def _labels(entry: object, place: str) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """Labels, words, and values -> labels, from `labels: {name: {word, values}}` or `labels: [name, ..]`."""
    if isinstance(entry, list):
        entry = dict.fromkeys(entry)
    if not isinstance(entry, dict) or len(entry) < 2:
        raise _wrong(place, "labels does not hold at least two labels", "Give each as name: {word: .., values: [..]}")
    words: dict[str, str] = {}
    values: dict[str, str] = {}
    for key, about in entry.items():
        label, about = _text(key, "a label", place), about or {}
        if not isinstance(about, dict) or set(about) - {"word", "values"}:
            raise _wrong(place, f"label {label} is not of the form {{word: .., values: [..]}}", "Mend it")
        if "word" in about:
            words[label] = _text(about["word"], f"the word of label {label}", place)
        also = about.get("values", [])
        for value in map(str, [label, *(also if isinstance(also, list) else [also])]):
            if values.setdefault(value, label) != label:
                raise _wrong(place, f"the value {value} stands for {values[value]} and for {label}", "Keep one of them")
    labels = tuple(map(str, entry))
    if words and (missing := [label for label in labels if label not in words]):
        raise _wrong(place, f"the label {missing[0]} has no word", "Give every label a word, or none")
    if len(set(words.values())) < len(words):
        twice = next(word for word in words.values() if list(words.values()).count(word) > 1)
        raise _wrong(place, f"the word {twice} stands for two labels", "Give each label a word of its own")
    return labels, words, values


def _columns(entry: object, template: str, place: str) -> Columns:
    names = _texts(entry, "columns", ("text", "text_pair", "label"), place)
    pair = names.get("text_pair", Columns.text_pair if "{b}" in template else "")
    return Columns(names.get("text", Columns.text), pair, names.get("label", Columns.label))


def _templates(entry: Mapping[str, Any], pairs: bool, words: bool, place: str) -> tuple[str, str]:
    """Both templates; none are needed where the task has no label words."""
    default = "{a} {b} They are" if pairs else "{a} It was"
    masked, causal = entry.get("template", ""), entry.get("causal_template", default)
    wanted = {"{a}": 1, "{b}": int(pairs)}
    if masked or words:
        _check_places(masked, "template", {**wanted, MASK: 1}, place)
    _check_places(causal, "causal_template", {**wanted, MASK: 0}, place)
    return masked, causal


def _check_places(template: object, key: str, wanted: Mapping[str, int], place: str) -> None:
    found = str(template)
    for name, times in wanted.items():
        if found.count(name) != times:
            what = {"{a}": "the text", "{b}": "the second text", MASK: "the label word"}[name]
            problem = f"{key} {found!r} has {found.count(name) or 'no'} {name}, the place of {what}"
            raise _wrong(place, problem, f"Write it {'once' if times else 'without it'}")


def _texts(entry: object, key: str, known: Sequence[str], place: str) -> dict[str, str]:
    if not isinstance(entry, dict) or set(entry) - set(known):
        raise _wrong(place, f"{key} is not a mapping of {', '.join(known)}", "Mend or remove it")
    return {str(name): _text(value, f"{key}: {name}", place) for name, value in entry.items()}


def _text(value: object, what: str, place: str) -> str:
    """YAML reads an unquoted Yes or No as true or false."""
    if isinstance(value, bool) or value is None or not str(value).strip():
        raise _wrong(place, f"{what} is {value!r}, not a text", 'Put it in quotation marks: "Yes", "No"')
    return str(value)


def _wrong(place: str, problem: str, mend: str) -> InputError:
    return InputError("task", place, problem, mend)

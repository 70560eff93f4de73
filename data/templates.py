"""Texts filled into a template, and shortened there without a token of the template lost.

The filled-in string is tokenised as a whole, so that its pieces are those that the tokenizer gives for it: leading spaces
and merges need no rules of our own. Where each piece lies in the string then tells what may be cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import BatchEncoding

from data.tasks import MASK, Task
from fedpeptao.errors import InputError

_PLACES = re.compile(r"(\{a\}|\{b\}|\[MASK\])")


@dataclass(frozen=True)
class Filled:
    """A filled-in template: the string, where the texts lie in it [start, stop), and the character that decides."""

    text: str
    spans: tuple[tuple[int, int], ...]
    answer: int


@dataclass(frozen=True)
class Pieces:
    """One text's tokens; answer: the index of the token whose output decides; cut: whether the text was shortened."""

    ids: list[int]
    types: list[int] | None
    answer: int
    cut: bool


def fill(template: str, a: str, b: str | None, mask: str) -> Filled:
    """The template with its places filled; without a mask its last character decides."""
    text, spans, answer = "", {}, -1
    for part in _PLACES.split(template):
        value = {"{a}": a, "{b}": b or "", MASK: mask}.get(part, part)
        if part in ("{a}", "{b}"):
            spans[part] = (len(text), len(text) + len(value))
        elif part == MASK:
            answer = len(text)
        text += value
    return Filled(text, tuple(spans[place] for place in sorted(spans)), len(text) - 1 if answer < 0 else answer)


def template_of(task: Task, style: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The template of a style ("mask" or "causal"), and what fills its mask.

    Raises:
        InputError: the tokenizer has no mask, or cannot tell where its pieces lie.
    """
    if not tokenizer.is_fast:
        problem = "its tokenizer cannot tell where in a text its pieces lie, which a template needs"
        raise InputError(
            "model", tokenizer.name_or_path, problem, "Set head to linear, or take a model with a fast tokenizer"
        )
    if style == "causal":
        return task.causal_template, ""
    if tokenizer.mask_token is None:
        problem = f"its tokenizer has no mask, and the template of the task {task.name} needs one"
        raise InputError(
            "model", tokenizer.name_or_path, problem, "Set head to linear, or take a masked language model"
        )
    return task.template, tokenizer.mask_token


def tokenise(filled: Sequence[Filled], tokenizer: PreTrainedTokenizerBase, max_length: int, key: str) -> list[Pieces]:
    """Tokens of filled-in templates, shortened to max_length (0: never) in the texts alone, the longer of two first.

    Raises:
        InputError: under `key`: template and special tokens leave no room for a token of text.
    """
    encoding = tokenizer([one.text for one in filled], truncation=False, padding=False, verbose=False)
    return [_pieces(encoding, row, one, max_length, key) for row, one in enumerate(filled)]


def _pieces(encoding: BatchEncoding, row: int, filled: Filled, max_length: int, key: str) -> Pieces:
    ids: list[int] = encoding["input_ids"][row]
    types = encoding["token_type_ids"][row] if "token_type_ids" in encoding else None
    answer = encoding.char_to_token(row, filled.answer)
    if answer is None:  # a tokenizer that drops the character, such as a space at the end
        answer = max(place for place, word in enumerate(encoding.word_ids(row)) if word is not None)
    if not 0 < max_length < len(ids):
        return Pieces(ids, types, answer, False)
    gone = _too_much(encoding, row, filled, len(ids) - max_length, key, max_length)
    kept = [place for place in range(len(ids)) if place not in gone]
    return Pieces(
        [ids[place] for place in kept],
        None if types is None else [types[place] for place in kept],
        kept.index(answer),
        True,
    )


def _too_much(encoding: BatchEncoding, row: int, filled: Filled, excess: int, key: str, max_length: int) -> set[int]:
    """The tokens to leave out: from the ends of the texts, the longer one first."""
    inside = [_tokens_of(encoding, row, filled, span) for span in filled.spans]
    room = sum(map(len, inside)) - excess
    if room < 1:
        problem = f"template and special tokens take {max_length - room} tokens, which leaves no room for text"
        raise InputError(key, max_length, problem, f"Give {max_length - room + 1} or more, or 0 to cut none")
    gone: set[int] = set()
    for own, keep in zip(inside, shares([len(tokens) for tokens in inside], room), strict=True):
        gone.update(own[keep:])
    return gone


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of one or two texts fits: the longer loses first, and of two that are as long as each other the second."""
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    if min(lengths) * 2 >= room:
        return [(room + 1) // 2, room // 2]
    return [first, room - first] if first < second else [room - second, second]


def _tokens_of(encoding: BatchEncoding, row: int, filled: Filled, span: tuple[int, int]) -> list[int]:
    """Tokens that lie in a text; the first may also hold the blank before it."""
    low, high = span

    def inside(start: int, stop: int) -> bool:
        if start == stop:  # a blank by itself, of which RoBERTa's tokenizer says only where it ends
            return low < start <= high
        return low < stop <= high and not filled.text[start:low].strip()

    marks = zip(encoding[row].offsets, encoding.word_ids(row), strict=True)
    return [place for place, (offsets, word) in enumerate(marks) if word is not None and inside(*offsets)]

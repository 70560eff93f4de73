"""Every way to choose the parts of the method by settings: which ones go together, and small sets that stand for all of them.

A covering set holds each pair of values, of any two settings, that occurs in a valid combination at all: faults of one part or of
two that meet are found by some twenty runs instead of thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations, groupby, product
from pathlib import Path

from federation.settings import Scalar, defaults, parse
from fedpeptao.errors import InputError
from tests.small_runs import Flat, small

Parts = dict[str, Scalar]
Values = Mapping[str, tuple[Scalar, ...]]

BLOCKS: tuple[Values, ...] = (
    {
        "variant": ("fedpeptao", "released", "released-aliased"),
        "drift-correction": ("none", "server", "device"),
        "device-optimizer": ("adam", "sgd"),
        "device-second-moment": ("local", "shared"),
        "restart-moments": (True, False),
        "step-normalised": (False, True),
        "server-optimizer": ("none", "momentum", "heavy-ball", "adam", "yogi", "adagrad"),
        "proximal": (0.0, 0.1),
    },
    {"layers": ("auto", "all"), "ratio": (0.5, "eigengap", "plateau")},
    {"unselected-prompts": ("local", "none")},
    {"precision": ("float32", "float16", "int8")},
    {"server-ema": (0.0, 0.9)},
)
"""All settings that choose a part; values of different blocks never exclude each other (a test asks for each combination)."""

INSIDE_ONE_PROCESS = ("server-optimizer", "step-normalised", "proximal", "server-ema")
"""Settings that change no shape of a message or file: a factor or a formula between the last reply and the next message, or
between a client's first step and its last. What Ray does (processes, messages, arrival, files, caches that live on) cannot meet
them."""

TINY: Parts = {
    "prompt-tokens": 1,
    "clients": 4,
    "clients-per-round": 2,
    "rounds": 3,
    "warmup-rounds": 1,
    "curvature-steps": 4,
    "curvature-probes": 1,
    "curvature-examples": 2,
    "server-learning-rate": 0.1,
}


def everything() -> Iterator[Parts]:
    """The whole product, valid or not."""
    return _products([_product(block) for block in BLOCKS])


@cache
def valid() -> tuple[Parts, ...]:
    """The combinations that the settings accept: of each block those that are accepted beside the other blocks' first values."""
    first = {key: values[0] for block in BLOCKS for key, values in block.items()}
    base = {**defaults(), **first}
    return tuple(_products([[parts for parts in _product(block) if _accepted({**base, **parts})] for block in BLOCKS]))


@cache
def covering() -> tuple[Parts, ...]:
    """A small part of `valid`: next is always the first of those with the most pairs that are still missing."""
    numbers: dict[object, int] = {}
    masks = [sum(1 << numbers.setdefault(pair, len(numbers)) for pair in pairs(parts)) for parts in valid()]
    missing, chosen = (1 << len(numbers)) - 1, []
    while missing:
        best = max(range(len(masks)), key=lambda number: (masks[number] & missing).bit_count())
        chosen.append(valid()[best])
        missing &= ~masks[best]
    return tuple(chosen)


@cache
def for_ray() -> tuple[Parts, ...]:
    """All that differ for Ray: each combination of the settings not INSIDE_ONE_PROCESS, once, with values of those in turn."""

    def kept(parts: Parts) -> str:
        return name({key: value for key, value in parts.items() if key not in INSIDE_ONE_PROCESS})

    groups = [list(group) for _, group in groupby(sorted(valid(), key=kept), kept)]
    return tuple(group[number % len(group)] for number, group in enumerate(groups))


def pairs(parts: Parts) -> Iterator[tuple[tuple[str, Scalar], tuple[str, Scalar]]]:
    """Each two settings with their values."""
    return combinations(parts.items(), 2)


def name(parts: Parts) -> str:
    """A combination in one word, fit for a folder."""
    return "_".join(str(value) for value in parts.values())


def run_config(data: Path, folder: Path, parts: Parts) -> Flat:
    """A run of three tiny rounds, the first of them a warm-up where the ratio is estimated, in a folder `run` there."""
    return {**small(data, folder), **TINY, "run-name": "run", **parts}


def _product(values: Values) -> list[Parts]:
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def _products(blocks: Iterable[list[Parts]]) -> Iterator[Parts]:
    for chosen in product(*blocks):
        yield {key: value for block in chosen for key, value in block.items()}


def _accepted(flat: Flat) -> bool:
    try:
        parse(flat)
    except InputError:
        return False
    return True

"""Whole runs small enough for a test: a random model, a hundred short texts, and a record of every message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file
from torch import Tensor

from client_app.app import app
from federation import evaluation, resources
from federation.grids import ClientCall, InProcessGrid
from federation.settings import Scalar, Settings, defaults, parse
from fedpeptao.loaded import open_model
from models.layout import Layout
from models.tuned_model import TunedModel
from server_app.run import run
from server_app.run_folder import read_history
from strategies.selection import travelling_names

Flat = dict[str, Scalar]
WORDS = {
    "animals": ["cat", "dog", "cow", "owl"],
    "colours": ["red", "blue", "teal", "pink"],
    "verbs": ["run", "sit", "eat", "go"],
}
SMALL: Flat = {
    # the published method: each further part where a test asks for it
    "drift-correction": "device",
    "label-prior": "none",
    "learning-rate": 0.01,
    "own-learning-rate": 1.0,
    "model": "random:bert",
    "prompt-tokens": 3,
    "validation-fraction": 0.2,
    "test-fraction": 0.2,
    "clients": 5,
    "clients-per-round": 3,
    "rounds": 2,
    "local-epochs": 1,
    "score-batches": 1,
    "test-every": 1,
}


def examples(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of text and label, no two texts alike, the three labels in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = sorted(WORDS)[number % 3]
        words = [str(word) for word in rng.choice([*WORDS[label], "the", "a"], size=rng.integers(1, 5))]
        rows.append({"text": " ".join([*words, str(number)]), "label": label})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@dataclass(frozen=True)
class Passed:
    """One message as the other end got it, or as it was sent."""

    way: str  # down | up
    kind: str  # query.roll_call | train | evaluate
    node: int
    content: RecordDict

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Record -> name -> shape."""
        return {
            record: {name: tuple(array.shape) for name, array in arrays.items()}
            for record, arrays in self.content.array_records.items()
        }


@dataclass
class Watched:
    """A client app that keeps every message, both ways; `instead` may answer in its place."""

    instead: Callable[[Message, Context], Message | None] = lambda message, context: None
    passed: list[Passed] = field(default_factory=list)

    def __call__(self, message: Message, context: Context) -> Message:
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        self.passed.append(Passed("down", kind, node, message.content))
        reply = self.instead(message, context) or app(message, context)
        if reply.has_content():
            self.passed.append(Passed("up", kind, node, reply.content))
        return reply

    def of(self, kind: str, way: str = "down") -> list[Passed]:
        return [passed for passed in self.passed if (passed.kind, passed.way) == (kind, way)]


@dataclass(frozen=True)
class Ran:
    """What a run leaves."""

    settings: Settings
    summary: Mapping[str, Any]
    folder: Path

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.summary["labels"])

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.summary["layers"])

    @property
    def parameters(self) -> dict[str, Tensor]:
        return load_file(self.folder / "parameters.safetensors")

    @property
    def parameter_bytes(self) -> bytes:
        return (self.folder / "parameters.safetensors").read_bytes()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return read_history(self.folder)

    def lines_without(self, *parts: str) -> list[dict[str, Any]]:
        """The lines but for the figures with one of these parts in their names."""
        return [{k: v for k, v in line.items() if not any(part in k for part in parts)} for line in self.lines]


def small(data: Path, folder: Path, /, **overrides: Scalar) -> Flat:
    """A complete run-config over a data file; overrides with underscores for hyphens."""
    given = {key.replace("_", "-"): value for key, value in overrides.items()}
    return {**defaults(), **SMALL, "dataset": str(data), "runs-dir": str(folder), **given}


def go(flat: Flat, nodes: int = 2, client_app: ClientCall = app) -> Ran:
    """A run in this process."""
    settings = parse(flat)
    summary = run(InProcessGrid(client_app, flat, nodes), settings)
    return Ran(settings, summary, Path(str(summary["paths"]["run_folder"])))


def model_of(
    settings: Settings, layers: tuple[int, ...], labels: int | Sequence[str]
) -> tuple[TunedModel, Layout, Tensor]:
    """The process's model, the layout of what travels, and the initial values of that, [R]."""
    names = [str(label) for label in range(labels)] if isinstance(labels, int) else labels
    model = resources.tuned(settings, layers, names)
    layout = model.layout.select(travelling_names(model.layout, layers))
    row = model.layout.unflatten(model.initial(settings.federation.seed, settings.model.prompt_init_std))
    return model, layout, layout.flatten({name: row[name] for name in layout.names})


def shared_row(ran: Ran, model: TunedModel) -> Tensor:
    """The shared model [1, R] of a run: its parameters, and initial values where nothing was trained."""
    initial = model.layout.unflatten(model.initial(ran.settings.federation.seed, ran.settings.model.prompt_init_std))
    return model.layout.flatten({**initial, **ran.parameters})[None]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """The same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def opens_again(ran: Ran) -> None:
    """From the folder, and from an export of it, the run's own scores."""
    rows = resources.splits(ran.settings).test
    assert rows is not None
    loaded = open_model(ran.folder)
    scores = loaded.logits(list(rows["text"]))
    wanted = evaluation.targets(loaded.encode(list(rows["text"]), labels=list(rows["label"])), loaded.labels)
    found = float(loaded.model.loss_of(scores, wanted))
    assert abs(found - ran.summary["final"]["global_loss"]) <= 1e-5
    loaded.save(ran.folder / "out")
    assert torch.equal(open_model(ran.folder / "out").logits(list(rows["text"])), scores)

"""A run's model again: labels and probabilities out of texts.

A run's folder holds what travelled; the rest follows from the run's seed, and what a client keeps from its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from client_app.disk_store import peek
from client_app.state import DITTO, LOG_PRIOR
from data.batches import Encoded
from federation import resources
from federation.evaluation import scored
from federation.resuming import FACTS
from federation.run_paths import CLIENTS
from federation.settings import Scalar
from fedpeptao.errors import InputError
from fedpeptao.saved import EXPORTED, Saved, read_run
from models.export import save_parameters, to_peft
from models.tuned_model import TunedModel
from server_app.run_folder import METRICS, PARAMETERS, SETTINGS, SUMMARY, read_history, write_json

ADAPTER = "adapter"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters, ready for texts; made by `open_model`.

    Attributes:
        saved: the folder it comes from.
        client: whose own model it is; None: the shared model.
        row: [R] float32.
        log_prior: what a client adds to the class scores, [classes] in nats; None without.
        remarks: what a user should know, a line each.
    """

    saved: Saved
    client: int | None
    row: Tensor
    log_prior: Tensor | None
    remarks: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs."""
        return self.saved.labels

    @property
    def model(self) -> TunedModel:
        """The process's model; asked for each time, since another folder's may have taken its place."""
        return resources.tuned(self.saved.settings, self.saved.layers, self.labels)

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, labels: Sequence[str] | None = None
    ) -> Encoded:
        """Token ids as the run's own texts got them.

        Raises:
            InputError: second texts that the run does not have, or lacks; a text that is empty, or too long where none is cut.
        """
        self._check(texts, pairs)
        columns = {"text": list(texts), "label": list(labels or [self.labels[0]] * len(texts))}
        if pairs is not None:
            columns["text_pair"] = list(pairs)
        return resources.encoded(self.saved.settings, Dataset.from_dict(columns))

    def scores(self, encoded: Encoded) -> Tensor:
        """Class scores [n, classes], float32 on the CPU, in batches of similar length."""
        found = torch.empty(len(encoded), len(self.labels))
        model, size = self.model, self.saved.settings.run.evaluation_batch_size
        device = model.backbone.device
        prior = None if self.log_prior is None else self.log_prior[None].to(device)
        model.bind(self.row[None].to(device), log_prior=prior)
        try:
            for rows, logits in scored(model, encoded, size):
                found[rows] = logits.cpu()
        finally:
            model.unbind()
        return found

    def loss(self, scores: Tensor, labels: Sequence[str]) -> float:
        """Mean loss in nats of class scores [n, classes], as the run measures it."""
        wanted = torch.tensor([self.labels.index(label) for label in labels])
        return float(self.model.loss_of(scores, wanted))

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Class scores [n, classes], float32; errors: see encode."""
        return self.scores(self.encode(texts, pairs))

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Probabilities [n, classes], float32; errors: see encode."""
        return self.logits(texts, pairs).softmax(dim=1)

    def save(self, folder: Path) -> str | None:
        """Writes all values in a folder that `open_model` reads, and PEFT's adapter in it as far as PEFT can hold it.

        Returns:
            None, or a line that says what PEFT cannot hold.

        Raises:
            InputError: the folder is there and not empty, or cannot be written.
        """
        _claim(folder)
        model, saved = self.model, self.saved
        note = to_peft(model, self.row, folder / ADAPTER, self.labels)
        save_parameters(folder / PARAMETERS, model.layout, self.row)
        write_json(folder / SETTINGS, saved.settings.flat())
        write_json(folder / FACTS, saved.facts)
        origin: dict[str, Any] = {"status": EXPORTED, "run": saved.name, "client": self.client}
        if self.log_prior is not None:
            origin["log_prior"] = self.log_prior.tolist()
            without = (
                "the client's label prior is not in the adapter: add log_prior of summary.json to its class scores"
            )
            note = without if note is None else f"{note}; {without}"
        write_json(folder / SUMMARY, {**origin, "labels": self.labels, "layers": saved.layers, "adapter_note": note})
        return note

    def _check(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        wanted = (self.saved.facts.get("data") or {}).get("pairs")  # None: a run of an earlier version
        if wanted is True and pairs is None:
            raise InputError("--pair", None, "the run's examples are pairs of texts", "Give the second text too")
        if wanted is False and pairs is not None:
            raise InputError("--pair", pairs[0], "the run's examples are single texts", "Leave the second text out")
        for column in (texts, pairs or ()):
            for place, text in enumerate(column, start=1):
                if not text.strip():
                    raise InputError("--text", text, f"text {place} is empty", "Give it words, or leave it out")


def open_model(
    run: str | Path,
    *,
    client: int | None = None,
    state_dir: Path | None = None,
    overriding: Mapping[str, Scalar] | None = None,
) -> LoadedModel:
    """The shared model of a run, or a client's personalised one: what stayed with it beside what is shared.

    Args:
        run: see `read_run`, as for overriding.
        client: its number; None: the shared model.
        state_dir: on a client's node, the node's own `state-dir`; None: the client's state lies in the run's folder.
        overriding: settings such as device, for another machine than the run's.

    Raises:
        InputError: no such run, no finished round in it, no such client, or a model that cannot be loaded.
    """
    saved = read_run(run, overriding)
    own, remarks = ({}, ()) if client is None else _own_parameters(saved, client, state_dir)
    model = resources.tuned(saved.settings, saved.layers, saved.labels)
    settings = saved.settings
    initial = model.layout.unflatten(model.initial(settings.federation.seed, settings.model.prompt_init_std))
    prior = own.get(LOG_PRIOR)
    if prior is None and (kept := saved.summary.get("log_prior")):
        prior = torch.tensor(kept)
    second = {name: own[DITTO + name] for name in initial if DITTO + name in own}
    own = {**{name: value for name, value in own.items() if name in initial}, **second}
    try:
        row = model.layout.flatten({**initial, **saved.parameters, **own})
    except ValueError as error:
        mend = "Give the settings that made them"
        raise InputError("parameters", str(saved.folder / PARAMETERS), str(error), mend) from error
    if client is None:
        client = saved.summary.get("client")
    found, known = model.backbone.fingerprint, (saved.facts.get("model") or {}).get("fingerprint")
    if known not in (None, found):
        fingerprints = f"fingerprint {found[:8]}, then {str(known)[:8]}"
        remarks = (*remarks, f"{model.backbone.name} is not bit for bit the model of the run ({fingerprints})")
    return LoadedModel(saved, client, row, prior, (*saved.remarks, *remarks))


def _own_parameters(saved: Saved, client: int, state_dir: Path | None) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """What a client has of its own, and remarks: what its final epochs made, else the prompts of its last accepted round."""
    if saved.summary.get("status") == EXPORTED:
        mend = "Give the run's folder, or leave the client out"
        raise InputError("--client", client, "this folder holds one model, and no clients", mend)
    clients = saved.settings.federation.clients
    if not 0 <= client < clients:
        raise InputError("--client", client, "there is no such client", f"The run has clients 0 to {clients - 1}")
    finally_trained = saved.settings.local.final_local_epochs > 0 and saved.summary.get("status") == "completed"
    personal = saved.settings.personal
    something = personal.personal_head or personal.ditto or resources.adds_prior(saved.settings)
    something = something or saved.settings.model.travelling_matrix == "A"  # its own B
    if not (finally_trained or something) and saved.settings.selection.unselected_prompts == "none":
        return {}, (
            f'unselected-prompts = "none": client {client} has no prompts of its own, this is the shared model',
        )
    folder = saved.folder / CLIENTS if state_dir is None else state_dir.expanduser() / saved.name / CLIENTS
    made = saved.settings.federation.rounds + 1 if finally_trained else last_accepted(saved.folder, client)
    if not made:
        return {}, (f"client {client} never took part: what stays with it is still what it began with",)
    state = peek(folder, saved.name, client, made)
    if state is None:
        there = sorted(path.name for path in (folder / f"client-{client}").glob("*.safetensors"))
        other = f", only {' and '.join(there)} of another round, run or version, or damaged" if there else ""
        problem = f"its state of round {made}, its last, is not in {folder}{other}"
        mend = "On the client's node give --state-dir, the folder clients in the --state of the node"
        raise InputError("--client", client, problem, mend)
    if finally_trained:
        return state.local, ()
    return {name: value for name, value in state.local.items() if name not in saved.parameters}, ()


def last_accepted(folder: Path, client: int) -> int:
    """The last round whose reply from this client was used; 0 if there was none."""
    if not (folder / METRICS).exists():
        mend = "Give a whole run's folder"
        raise InputError("RUN", str(folder), f"without {METRICS} it is not known when client {client} took part", mend)
    return max((line["round"] for line in read_history(folder) if _accepted(line, client)), default=0)


def _accepted(line: Mapping[str, Any], client: int) -> bool:
    asked = client in (line.get("clients") or []) and not line.get("void")
    return asked and str(client) not in (line.get("failed") or {}) and client not in (line.get("missing") or [])


def _claim(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError("--to", str(folder), reason, "Name a folder that you can write to") from error
    if taken:
        raise InputError("--to", str(folder), "this folder is not empty", "Name a new one")

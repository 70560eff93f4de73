"""Where a client goes on from in a round: what it received, and what it kept of the last round that was accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client_app.state import DITTO, ClientState, StateStore
from data.batches import Encoded
from federation import resources
from federation.messages import Ask
from federation.settings import Settings
from models.layout import Layout
from models.tuned_model import TunedModel
from strategies.selection import travelling_names


@dataclass(frozen=True)
class Start:
    """Where a client goes on from: the model, its rows, and the state of the last accepted round.

    Attributes:
        model: with prompts on all layers that this client has some on.
        layout: the model's parameters, those that travel first.
        shared: R_s, how many travel.
        row: x_i, [R] float32, where training starts.
        personal: the client's own model, [R] float32: `row`, but for Ditto's.
        log_prior: of its labels, [1, classes] float32; None without.
        initial: the shared model: what was received, and the common initial values elsewhere, [R] float32.
        control: c_i, [R_s]; zeros where there is none of this epoch.
        moments: Adam's m and v, [2, R], to go on with; None to start anew.
        moments_steps: optimiser steps behind them.
        state_round: the round of that state; 0 for a new one.
        residual: r_i, [R_s]; zeros where there is none.
        kept: all that the state holds by name.
    """

    model: TunedModel
    layout: Layout
    shared: int
    row: Tensor
    personal: Tensor
    log_prior: Tensor | None
    initial: Tensor
    control: Tensor
    moments: Tensor | None
    moments_steps: int
    state_round: int
    residual: Tensor
    kept: Mapping[str, Tensor]

    def of_model(self) -> Tensor:
        """x_i in the order of `model.layout`, [R]."""
        return self.model.layout.flatten(self.layout.unflatten(self.row))


def start(settings: Settings, ask: Ask, client: int, accepted: int, store: StateStore, commit: bool = True) -> Start:
    """Two-phase: the store commits or drops what is pending, as the server's last accepted round says.

    commit: not to evaluate: the server may not have kept yet what it tells.
    """
    model = resources.tuned(settings, ask.layers, ask.labels)
    layout = model.layout.first(travelling(settings, model.layout, ask.layers))
    values = model.layout.unflatten(model.initial(settings.federation.seed, settings.model.prompt_init_std))
    received = travelling_layout(settings, ask.layers, ask.labels).unflatten(ask.shared)
    kept = store.resume(client, accepted) if commit else store.look(client, accepted)
    state = kept or ClientState(0, ask.epoch, {})
    own = {name: value for name, value in state.local.items() if name in layout.names}
    second = {name: state.local[DITTO + name] for name in layout.names if DITTO + name in state.local}
    mine = {**values, **own, **received}
    control = state.control if state.epoch == ask.epoch else None
    goes_on = state.warm_up == ask.warm_up
    return Start(
        model=model,
        layout=layout,
        shared=len(ask.shared),
        row=layout.flatten(mine),
        personal=layout.flatten({**mine, **second}),
        log_prior=log_prior(settings, client, ask.labels),
        initial=layout.flatten({**values, **received}),
        control=torch.zeros(len(ask.shared)) if control is None else control,
        moments=state.moments if goes_on else None,
        moments_steps=state.steps,
        state_round=state.round,
        residual=state.residual if goes_on and state.residual is not None else torch.zeros(len(ask.shared)),
        kept=state.local,
    )


def travelling_layout(settings: Settings, layers: tuple[int, ...], labels: Sequence[str]) -> Layout:
    """The parameters that travel, in the order of x."""
    model = resources.tuned(settings, layers, labels)
    return model.layout.select(travelling(settings, model.layout, layers))


def travelling(settings: Settings, layout: Layout, layers: tuple[int, ...]) -> list[str]:
    """Names of the parameters that travel, by the settings."""
    return travelling_names(layout, layers, not settings.personal.personal_head, settings.model.travelling_matrix)


def log_prior(settings: Settings, client: int, labels: Sequence[str]) -> Tensor | None:
    """log p_i(y) of a client's training labels, one counted more of each class, [1, classes]; None where none is added.

    With it in the loss the scores are trained as if labels were balanced (balanced softmax, arXiv 2007.10740; for label skew
    between clients arXiv 2209.00189): the shared model learns p(text | label), each client knows its own p(label).
    """
    if not resources.adds_prior(settings):
        return None
    counts = Counter(shard_of(settings, client)[0].labels)
    frequency = torch.tensor([[counts[label] + 1.0 for label in labels]])
    return (frequency / frequency.sum()).log().to(resources.backbone(settings).device)


def shard_of(settings: Settings, client: int) -> tuple[Encoded, Encoded]:
    """A client's training and evaluation examples."""
    data, rows = resources.tokenised(settings), resources.shards(settings)
    return data.train.select(rows.train[client]), data.validation.select(rows.validation[client])

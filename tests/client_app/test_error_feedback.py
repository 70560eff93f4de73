"""What rounding took from an update goes into the client's next one, in two phases like all that a client keeps (section 2.8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from client_app import host
from client_app.state import ClientState, MemoryStore
from federation.channels import Channel, make_channels
from federation.messages import Ask, TrainReply
from federation.settings import Scalar, Settings, parse
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
CLIENT, LABELS = 2, ("animals", "colours", "verbs")


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat(update_precision="int8", batch_size=4))


def ask_for(settings: Settings, server_round: int, layers: tuple[int, ...] = (1,), warm_up: bool = False) -> Ask:
    _, _, shared = model_of(settings, layers, len(LABELS))
    return Ask("run", server_round, LABELS, layers, (CLIENT,), (0,), 0, warm_up, shared, torch.zeros_like(shared))


def channel(settings: Settings) -> Channel:
    return make_channels(settings, host.travelling_layout(settings, (1,), LABELS)).update


def kept(store: MemoryStore, server_round: int) -> ClientState:
    state = store.resume(CLIENT, server_round)
    assert state is not None
    return state


def sent(reply: TrainReply) -> Tensor:
    assert reply.delta is not None
    return reply.delta


def exact(settings: Settings, ask: Ask, state: ClientState | None = None) -> Tensor:
    """Delta_i before rounding, of a client that goes on from this state."""
    store, plain = MemoryStore(), replace(settings, server=replace(settings.server, update_precision=""))
    if state is not None:
        store.keep(CLIENT, replace(state, residual=None))
    return sent(host.train(plain, ask, CLIENT, 0 if state is None else state.round, store))


def test_what_is_lost_is_kept_and_added_to_the_next_update(settings: Settings) -> None:
    store, one, two = MemoryStore(), ask_for(settings, 1), ask_for(settings, 2)
    first = sent(host.train(settings, one, CLIENT, 0, store))
    due = exact(settings, one)
    assert torch.equal(first, channel(settings).as_sent(due, CLIENT, 1))
    state = kept(store, 1)
    assert state.residual is not None
    assert torch.equal(state.residual, due - first)
    assert 0 < float(state.residual.abs().max()) < float(due.abs().max()) / 63
    second = sent(host.train(settings, two, CLIENT, 1, store))
    due = exact(settings, two, state) + state.residual
    assert torch.equal(second, channel(settings).as_sent(due, CLIENT, 2))
    after = kept(store, 2).residual
    assert after is not None
    assert torch.equal(after, due - second)


def test_c_i_takes_the_update_as_it_travels(settings: Settings) -> None:
    """C takes the same, so that C = sum n_i c_i stays true."""
    store = MemoryStore()
    reply = host.train(settings, ask_for(settings, 1), CLIENT, 0, store)
    state = kept(store, 1)
    assert state.control is not None
    assert torch.equal(state.control, sent(reply) / (reply.steps * settings.local.learning_rate))


def test_a_lost_reply_neither_loses_nor_doubles_its_residual(settings: Settings) -> None:
    store, straight = MemoryStore(), MemoryStore()
    for one in (store, straight):
        host.train(settings, ask_for(settings, 1), CLIENT, 0, one)
    for attempt in (2, 3):  # never accepted
        host.train(settings, ask_for(settings, attempt), CLIENT, 1, store)
    again, wanted = (host.train(settings, ask_for(settings, 4), CLIENT, 1, one) for one in (store, straight))
    assert torch.equal(sent(again), sent(wanted))
    a, b = kept(store, 4).residual, kept(straight, 4).residual
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)


@pytest.mark.parametrize("before", ["a lost disk", "a warm-up", "no error feedback"])
def test_it_starts_anew_where_there_is_none_to_go_on_with(settings: Settings, before: str) -> None:
    store = MemoryStore()
    if before == "a warm-up":
        host.train(settings, ask_for(settings, 1, (0, 1), warm_up=True), CLIENT, 0, store)
    elif before == "no error feedback":
        off = replace(settings, server=replace(settings.server, error_feedback=False))
        host.train(off, ask_for(settings, 1), CLIENT, 0, store)
    begun = host.start(settings, ask_for(settings, 2), CLIENT, 1, store)
    assert torch.equal(begun.residual, torch.zeros(len(ask_for(settings, 2).shared)))


def test_a_new_epoch_of_the_control_variates_leaves_it(settings: Settings) -> None:
    """It is a part of x that is still owed, not of c."""
    store = MemoryStore()
    host.train(settings, ask_for(settings, 1), CLIENT, 0, store)
    begun = host.start(settings, replace(ask_for(settings, 2), epoch=1), CLIENT, 1, store)
    assert torch.equal(begun.residual, kept(store, 1).residual)
    assert float(begun.control.abs().max()) == 0 < float(begun.residual.abs().max())


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "float16"}, {"precision": "int8", "error_feedback": False}], ids=str
)
def test_nothing_is_kept_where_nothing_is_fed_back(make_flat: MakeFlat, changes: dict[str, Scalar]) -> None:
    settings, store = parse(make_flat(**changes)), MemoryStore()
    host.train(settings, ask_for(settings, 1), CLIENT, 0, store)
    assert kept(store, 1).residual is None


def test_it_lies_on_what_travels_alone(settings: Settings) -> None:
    store = MemoryStore()
    host.train(settings, ask_for(settings, 1), CLIENT, 0, store)
    residual = kept(store, 1).residual
    assert residual is not None
    assert residual.shape == ask_for(settings, 1).shared.shape

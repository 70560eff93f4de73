"""What a client goes on with besides its prompts: Adam's moments where they do not restart, all prompts after a warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from client_app import host
from client_app.local_update import SharedAdam
from client_app.optimizers import device_optimizer
from client_app.state import ClientState, MemoryStore
from federation.messages import Ask
from federation.settings import Settings, parse
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
CLIENT, LABELS = 2, ("animals", "colours", "verbs")


def ask_for(settings: Settings, server_round: int, layers: tuple[int, ...] = (1,), warm_up: bool = False) -> Ask:
    _, _, shared = model_of(settings, layers, len(LABELS))
    return Ask("run", server_round, LABELS, layers, (CLIENT,), (0,), 0, warm_up, shared)


def train(settings: Settings, store: MemoryStore, *asks: Ask) -> list[Tensor]:
    """Delta_i of rounds whose replies are all accepted."""
    accepted, deltas = 0, []
    for ask in asks:
        reply = host.train(settings, ask, CLIENT, accepted, store)
        assert reply.delta is not None
        deltas.append(reply.delta)
        accepted = ask.round
    return deltas


def kept(store: MemoryStore, server_round: int) -> ClientState:
    state = store.resume(CLIENT, server_round)
    assert state is not None
    return state


@pytest.fixture
def flat(make_flat: MakeFlat) -> Flat:
    return make_flat(local_epochs=2, batch_size=4)


def test_moments_restart_by_default_and_are_not_kept(flat: Flat) -> None:
    settings, store = parse(flat), MemoryStore()
    train(settings, store, ask_for(settings, 1))
    assert kept(store, 1).moments is None


@pytest.mark.parametrize("moment", ["local", "shared"])
def test_moments_that_do_not_restart_go_on_where_they_were(flat: Flat, moment: str) -> None:
    """Against a fresh start from the same parameters, prompts and batches: only m and v differ."""
    settings, store = parse({**flat, "restart-moments": False, "device-second-moment": moment}), MemoryStore()
    (_, later) = train(settings, store, ask_for(settings, 1), ask_for(settings, 2))
    state = kept(store, 2)
    steps = settings.local.steps(host.roll_call(settings, CLIENT, score=False).examples)
    assert state.steps == 2 * steps
    assert state.moments is not None
    assert state.moments.shape[0] == 2
    forgetful = MemoryStore()
    train(settings, forgetful, ask_for(settings, 1))
    first = kept(forgetful, 1)
    forgetful.keep(CLIENT, replace(first, round=1, moments=None, steps=0))
    reply = host.train(settings, ask_for(settings, 2), CLIENT, 1, forgetful)
    assert reply.delta is not None
    assert not torch.allclose(reply.delta, later, atol=1e-5)


def test_a_lost_reply_takes_its_moments_with_it(flat: Flat) -> None:
    settings, store = parse({**flat, "restart-moments": False}), MemoryStore()
    train(settings, store, ask_for(settings, 1))
    host.train(settings, ask_for(settings, 2), CLIENT, 1, store)  # never accepted
    again = host.train(settings, ask_for(settings, 3), CLIENT, 1, store)
    straight = MemoryStore()
    _, wanted = train(settings, straight, ask_for(settings, 1), ask_for(settings, 3))
    assert again.delta is not None
    assert torch.equal(again.delta, wanted)


def test_a_proximal_term_holds_back_what_is_shared(flat: Flat) -> None:
    plain, held = (
        train(settings, MemoryStore(), ask_for(settings, 1))[0]
        for settings in (
            parse({**flat, "device-optimizer": "sgd", "learning-rate": 0.05, "proximal": mu}) for mu in (0.0, 15.0)
        )
    )
    assert 0 < float(held.norm()) < 0.8 * float(plain.norm())


# -- the warm-up ---------------------------------------------------------------------------------------------


def test_after_a_warm_up_round_all_prompts_are_kept(flat: Flat) -> None:
    settings, store = parse(flat), MemoryStore()
    ask = ask_for(settings, 1, (0, 1), warm_up=True)
    (delta,) = train(settings, store, ask)
    state = kept(store, 1)
    assert sorted(state.local) == ["prompt.0", "prompt.1"]
    assert state.control is None
    _, layout, _ = model_of(settings, (0, 1), len(LABELS))
    ended = layout.unflatten(ask.shared - delta)
    for name, value in state.local.items():
        torch.testing.assert_close(value, ended[name], rtol=0, atol=1e-6)


def test_after_the_selection_its_own_prompts_go_on_outside_s_alone(flat: Flat) -> None:
    settings, store = parse(flat), MemoryStore()
    train(settings, store, ask_for(settings, 1, (0, 1), warm_up=True))
    own, ask = kept(store, 1).local, ask_for(settings, 2)
    begun = host.start(settings, ask, CLIENT, 1, store)
    values = begun.layout.unflatten(begun.row)
    assert torch.equal(values["prompt.0"], own["prompt.0"])
    assert not torch.equal(values["prompt.1"], own["prompt.1"])
    assert torch.equal(begun.row[: begun.shared], ask.shared)
    host.train(settings, ask, CLIENT, 1, store)
    assert sorted(kept(store, 2).local) == ["prompt.0"]


def test_in_a_warm_up_all_that_travels_is_as_received(flat: Flat) -> None:
    """Plain averaging on all layers: what a client kept from the warm-up round before plays no part."""
    settings, store = parse(flat), MemoryStore()
    train(settings, store, ask_for(settings, 1, (0, 1), warm_up=True))
    ask = ask_for(settings, 2, (0, 1), warm_up=True)
    assert torch.equal(host.start(settings, ask, CLIENT, 1, store).row[: len(ask.shared)], ask.shared)


def test_a_warm_up_knows_no_second_moments_and_no_proximal_term(flat: Flat) -> None:
    plain = parse(flat)
    settings = parse({**flat, "device-second-moment": "shared", "proximal": 20.0})
    ask = ask_for(settings, 1, (0, 1), warm_up=True)
    reply = host.train(settings, ask, CLIENT, 0, MemoryStore())
    assert reply.second_moments is None
    assert reply.delta is not None
    assert torch.equal(reply.delta, train(plain, MemoryStore(), ask)[0])


def test_moments_of_the_warm_up_end_with_it(flat: Flat) -> None:
    settings, store = parse({**flat, "restart-moments": False}), MemoryStore()
    train(settings, store, ask_for(settings, 1, (0, 1), warm_up=True))
    warm = host.start(settings, ask_for(settings, 2, (0, 1), warm_up=True), CLIENT, 1, store)
    after = host.start(settings, ask_for(settings, 2), CLIENT, 1, store)
    assert warm.moments is not None
    assert after.moments is None


def test_without_prompts_elsewhere_nothing_of_the_warm_up_stays(flat: Flat) -> None:
    settings, store = parse({**flat, "unselected-prompts": "none"}), MemoryStore()
    train(settings, store, ask_for(settings, 1, (0, 1), warm_up=True))
    begun = host.start(settings, ask_for(settings, 2), CLIENT, 1, store)
    assert begun.layout.names == ("prompt.1", *[name for name in begun.layout.names if name.startswith("head")])
    host.train(settings, ask_for(settings, 2), CLIENT, 1, store)
    assert not kept(store, 2).local


# -- control variates and shared second moments ------------------------------------------------------------


def test_a_step_is_corrected_by_c_less_its_own(flat: Flat) -> None:
    """One step of SGD without a clip: c_i counts with its sign, next to the same step without correction."""
    settings = parse({**flat, "device-optimizer": "sgd", "clip-norm": 1e9, "local-epochs": 1, "batch-size": 1000})
    store, ask = MemoryStore(), ask_for(settings, 1)
    own = torch.linspace(-1, 1, len(ask.shared))
    store.keep(CLIENT, ClientState(1, 0, {}, control=own))
    c = torch.full_like(own, 0.25)
    corrected = host.train(settings, replace(ask, round=2, control=c), CLIENT, 1, store)
    plain = host.train(settings, replace(ask, round=2), CLIENT, 1, store)
    assert corrected.delta is not None
    assert plain.delta is not None
    wanted = settings.local.learning_rate * (c - own)
    torch.testing.assert_close(corrected.delta - plain.delta, wanted, rtol=0, atol=1e-6)


def test_a_control_variate_goes_on_in_the_epoch_that_made_it(flat: Flat) -> None:
    settings, store = parse(flat), MemoryStore()
    ask = replace(ask_for(settings, 1), epoch=3)
    host.train(settings, replace(ask, control=torch.zeros_like(ask.shared)), CLIENT, 0, store)
    here, elsewhere = (host.start(settings, replace(ask, epoch=e), CLIENT, 1, store).control for e in (3, 0))
    assert float(here.abs().max()) > 0.1
    assert float(elsewhere.abs().max()) == 0


def test_each_block_has_its_own_second_moment(flat: Flat) -> None:
    settings = parse({**flat, "device-second-moment": "shared"})
    ask = replace(ask_for(settings, 1), second_moments=torch.tensor([4.0, 9.0, 16.0, 25.0]))
    _, layout, _ = model_of(settings, (1,), len(LABELS))
    optimizer = device_optimizer(settings, ask, layout.blocks, torch.device("cpu"))
    assert isinstance(optimizer, SharedAdam)
    for block, root in zip(layout.blocks, (2, 3, 4, 5), strict=True):
        assert (optimizer.root[block] == root).all()
    assert optimizer.root.shape == ask.shared.shape

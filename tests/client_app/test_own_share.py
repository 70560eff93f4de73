"""A client's own share of what it updates (section 3 of docs/ALGORITHMS.md): when it is estimated, at what, and what it masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app import host, own_share
from client_app.curvature import Curvature, spectrum_of
from client_app.start import Start, shard_of, start
from client_app.state import FISHER, UPDATE_SHARE, ClientState, MemoryStore
from federation.evaluation import losses_on
from federation.messages import Ask
from federation.settings import Settings, parse
from models.technique_names import matrix_of
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
CLIENT, LABELS = 2, ("animals", "colours", "verbs")
GIVEN: dict[str, Any] = {
    **{"tuned": "lora", "lora_rank": 8, "layers": "1", "drift_correction": "none", "server_optimizer": "none"},
    **{"curvature_examples": 5, "curvature_steps": 8, "batch_size": 4},
}


def ask_of(settings: Settings, server_round: int, accepted: int, layers: tuple[int, ...] = (1,)) -> Ask:
    _, _, shared = model_of(settings, layers, LABELS)
    return Ask("run", server_round, LABELS, layers, (CLIENT,), (accepted,), 0, False, shared)


def moved(settings: Settings) -> dict[str, Tensor]:
    """Values of all that is tuned, with B as it may be after some rounds."""
    _, layout, row = model_of(settings, (0, 1), LABELS)
    rng = torch.Generator().manual_seed(1)
    return {
        name: 0.3 * torch.randn(value.shape, generator=rng) if matrix_of(name) == "B" else value
        for name, value in layout.unflatten(row).items()
    }


def begun_at(settings: Settings, ask: Ask, values: dict[str, Tensor]) -> tuple[Ask, Start]:
    """A client that kept these values where they do not travel, and is sent the others."""
    _, layout, _ = model_of(settings, ask.layers, LABELS)
    store = MemoryStore()
    store.keep(CLIENT, ClientState(1, 0, {name: values[name] for name in values if name not in layout.names}))
    asked = replace(ask, shared=layout.flatten({name: values[name] for name in layout.names}))
    return asked, start(settings, asked, CLIENT, 1, store)


def share_at(settings: Settings, values: dict[str, Tensor]) -> float | None:
    asked, begun = begun_at(settings, ask_of(settings, 2, 1), values)
    shard, _ = shard_of(settings, CLIENT)
    outside = [name for name in values if name.startswith("lora.0.")]
    return own_share.update_share(settings, asked, CLIENT, begun, shard, outside)


def state_after(settings: Settings, store: MemoryStore, server_round: int) -> ClientState:
    host.train(settings, ask_of(settings, server_round, server_round - 1), CLIENT, server_round - 1, store)
    state = store.look(CLIENT, server_round)
    assert state is not None
    return state


# -- the estimate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["eigengap", "plateau"])
def test_it_is_the_ratios_estimate_at_what_the_client_trains(make_flat: MakeFlat, estimator: str) -> None:
    """The same values, all of them sent by a server that asks for the ratio."""
    settings = parse(make_flat(**GIVEN, update_share=estimator))
    values = moved(settings)
    whole = parse(make_flat(**{**GIVEN, "layers": "auto"}, ratio=estimator, warmup_rounds=1))
    everything, _ = begun_at(whole, ask_of(whole, 2, 1, (0, 1)), values)
    reply = spectrum_of(whole, everything, CLIENT, 0, MemoryStore())
    assert share_at(settings, values) == pytest.approx(reply.ratio, rel=1e-6)
    other = share_at(settings, {name: 2 * value for name, value in values.items()})
    assert other is not None
    assert 0 < other <= 1


def test_a_number_is_for_all_and_nothing_is_estimated(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_share, "curvature", None)
    settings = parse(make_flat(**GIVEN, update_share=0.3))
    assert share_at(settings, moved(settings)) == 0.3


def test_nothing_is_estimated_while_a_b_outside_the_selection_is_0(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(**GIVEN, update_share="plateau"))
    values = moved(settings)
    assert share_at(settings, {**values, "lora.0.query.B": torch.zeros_like(values["lora.0.query.B"])}) is None
    assert share_at(settings, {**values, "lora.1.query.B": torch.zeros_like(values["lora.1.query.B"])}) is not None


@pytest.mark.parametrize("prior", ["none", "client"])
def test_the_loss_is_the_one_that_the_client_trains(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, prior: str
) -> None:
    settings = parse(make_flat(**{**GIVEN, "label_prior": prior}, update_share="plateau"))
    values, seen = moved(settings), []
    real = own_share.curvature

    def noting(*given: Any) -> Curvature:
        _, _, _, _, _, losses, row, _ = given
        seen.append((float(losses(row[None], [0, 1, 2])), row))
        return real(*given)

    monkeypatch.setattr(own_share, "curvature", noting)
    share_at(settings, values)
    _, begun = begun_at(settings, ask_of(settings, 2, 1), values)
    shard, _ = shard_of(settings, CLIENT)
    trained = losses_on(begun.model, shard, LABELS, begun.layout, begun.log_prior)
    ((loss, row),) = seen
    assert loss == pytest.approx(float(trained(begun.row[None], [0, 1, 2])), rel=1e-6)
    assert {name: value.sum() for name, value in begun.model.layout.unflatten(row).items()} == {
        name: value.sum() for name, value in values.items()
    }


# -- what it masks -----------------------------------------------------------------------------------------


def test_all_moves_on_the_first_visit_and_the_clients_share_from_the_second_on(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, store, asked = parse(make_flat(**GIVEN, update_share="plateau")), MemoryStore(), []
    real = own_share.curvature
    monkeypatch.setattr(own_share, "curvature", lambda *given: asked.append(1) or real(*given))
    model, _, _ = model_of(settings, (1,), LABELS)
    before = model.layout.unflatten(model.initial(settings.federation.seed))
    for server_round in (1, 2, 3):
        state = state_after(settings, store, server_round)
        assert len(asked) == (0 if server_round == 1 else 1)
        assert (UPDATE_SHARE in state.local) is (server_round > 1)
        for name in (name for name in state.local if name in before):
            rows = state.local[name].ne(before[name])
            rows = rows if matrix_of(name) == "B" else rows.T
            share = float(state.local.get(UPDATE_SHARE, torch.ones(1)))
            assert 0 < share < (1 if server_round > 1 else 2)
            assert int(rows.any(dim=1).sum()) == math.ceil(share * len(rows) - 1e-6), name
        before = {**before, **{name: value for name, value in state.local.items() if name in before}}


def test_the_share_is_estimated_after_the_warm_up_not_in_it(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a warm-up all layers travel, so that nothing is outside: it says nothing of how much of that should move."""
    estimated: dict[str, Any] = {"layers": "auto", "ratio": "plateau", "warmup_rounds": 1}
    settings, store = parse(make_flat(**{**GIVEN, **estimated}, update_share="plateau")), MemoryStore()
    monkeypatch.setattr(own_share, "_estimated", lambda *given: 0.25)
    host.train(settings, replace(ask_of(settings, 1, 0, (0, 1)), warm_up=True), CLIENT, 0, store)
    warm = store.look(CLIENT, 1)
    assert warm is not None
    assert UPDATE_SHARE not in warm.local
    assert float(state_after(settings, store, 2).local[UPDATE_SHARE]) == 0.25


@pytest.mark.parametrize("shares", [(0.25, 1.0), (1.0, 0.25), (0.25, 0.5)], ids=str)
def test_clients_of_any_shares_train_in_one_stack_as_alone(make_flat: MakeFlat, shares: tuple[float, float]) -> None:
    settings, clients, accepted = parse(make_flat(**GIVEN, update_share="plateau")), (1, 2), {1: 1, 2: 1}
    values, stores = moved(settings), (MemoryStore(), MemoryStore())
    outside = {name: value for name, value in values.items() if name.startswith("lora.0.")}
    for client, share in zip(clients, shares, strict=True):
        for store in stores:
            store.keep(client, ClientState(1, 0, {**outside, UPDATE_SHARE: torch.tensor([share])}))
    ask = replace(ask_of(settings, 2, 1), clients=clients, accepted=(1, 1))
    for reply in host.train_together(settings, ask, clients, accepted, stores[0]):
        alone = host.train(settings, ask, reply.client, 1, stores[1])
        assert reply.delta is not None
        assert reply.delta.norm() > 0.01
        torch.testing.assert_close(reply.delta, alone.delta, rtol=1e-3, atol=1e-5)
        ends = [store.look(reply.client, 2) for store in stores]
        for name, was in outside.items():
            together, by_itself = (end.local[name] for end in ends if end is not None)
            assert torch.equal(together != was, by_itself != was), name
            torch.testing.assert_close(together, by_itself, rtol=1e-3, atol=1e-5)


def test_with_no_gap_all_of_it_moves_and_no_information_is_gathered(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_app.curvature.lipschitz", lambda *given: 1e9)
    settings, store = parse(make_flat(**GIVEN, update_share="eigengap")), MemoryStore()
    state_after(settings, store, 1)
    monkeypatch.setattr("client_app.work.information", None)
    state = state_after(settings, store, 2)
    assert float(state.local[UPDATE_SHARE]) == 1.0
    assert not any(name.startswith(FISHER) for name in state.local)

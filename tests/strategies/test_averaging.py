"""The moving average beside x: its value by hand, and that it changes nothing of the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from experiments.quadratics import Federation, four_clients, settings
from federation import records
from federation.settings import Scalar
from strategies.averaging import Averaged
from strategies.build import build_warm_up
from tests.small_runs import Flat, go
from tests.strategies.test_shell import one_each, strategy

MakeFlat = Callable[..., Flat]
SERVERS: dict[str, dict[str, Scalar]] = {
    "momentum, corrected on the server": {"drift_correction": "server", "server_momentum": 0.5},
    "corrected on the devices": {"drift_correction": "device"},
    "adam": {"server_optimizer": "adam", "server_learning_rate": 0.1},
    "released": {
        **{"variant": "released", "drift_correction": "none", "server_optimizer": "none"},
        **{"device_optimizer": "adam", "restart_moments": False},
    },
}


def weighted_mean(xs: np.ndarray, decay: float) -> np.ndarray:
    """sum_s d^(t-s) x_s / sum_s d^(t-s), term by term."""
    weights = decay ** np.arange(len(xs) - 1, -1, -1)
    return weights @ xs / weights.sum()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("server", SERVERS)
def test_it_is_the_weighted_mean_of_x_over_the_updates(server: str, decay: float) -> None:
    plain = Federation(four_clients(), settings(**SERVERS[server]), per_round=2)
    averaged = Federation(four_clients(), settings(server_ema=decay, **SERVERS[server]), per_round=2)
    xs = []
    for _ in range(12):
        plain.round()
        averaged.round()
        assert torch.equal(averaged.state.x, plain.state.x)  # what is averaged is never fed back
        xs.append(plain.state.x.numpy())
        np.testing.assert_allclose(averaged.state.model, weighted_mean(np.stack(xs), decay), rtol=1e-12)
    assert torch.equal(plain.state.model, plain.state.x)
    assert not torch.allclose(averaged.state.model, averaged.state.x, rtol=1e-6)


def test_three_updates_by_hand() -> None:
    """d = 1/2: (x1 + 2 x2 + 4 x3)/7."""
    algorithm = Averaged(build_warm_up(), 0.5)
    state, found = algorithm.initial(("x",), torch.tensor([9.0])), []
    for x in (1.0, 2.0, 6.0):
        total = algorithm.begin(state)
        total.displacement, total.examples, total.replies = state.x - x, 1, [(0, 1)]
        state = algorithm.step(state, total)
        found.append(state.model.item())
    assert found == pytest.approx([1, 5 / 3, 29 / 7], rel=1e-14)


def test_a_round_without_a_reply_averages_nothing() -> None:
    federation = Federation(four_clients(), settings(server_ema=0.5))
    federation.run(2)
    before = federation.state
    federation.round(arrives=lambda client: False)
    assert federation.state.round == before.round + 1
    assert federation.state.average is before.average


def test_it_goes_on_when_a_client_joins() -> None:
    federation = Federation(four_clients(), settings(server_ema=0.9), known=(0, 1, 2))
    xs = list(federation.run(3).numpy())
    federation.join(3)
    grown, _ = federation.algorithm().grow(federation.state, federation.cohort)
    assert isinstance(grown, Averaged)
    assert grown.decay == 0.9
    xs += list(federation.run(2).numpy())
    np.testing.assert_allclose(federation.state.model, weighted_mean(np.stack(xs), 0.9), rtol=1e-12)


def test_clients_train_from_x_and_evaluate_the_average() -> None:
    own = strategy(server_ema=0.9)
    for server_round in (1, 2):
        own.close_round(server_round, one_each(range(4), server_round))
    assert own.state.average is not None
    assert not torch.equal(own.state.average.float(), own.state.x.float())
    assert torch.equal(shared(own.train_messages(3)), own.state.x.float())
    assert torch.equal(shared(own.evaluate_messages()), own.state.average.float())
    (value, *_) = own.layout.unflatten(own.state.average.float()).values()
    np.testing.assert_array_equal(next(iter(own.arrays().values())).numpy(), value)


def shared(messages: list[Message]) -> torch.Tensor:
    return records.decode_ask(messages[0].content, strategy().channels).shared


# -- whole runs --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
def test_a_run_evaluates_and_gives_out_the_average(make_flat: MakeFlat, tmp_path: Path) -> None:
    flat = make_flat(evaluate_every=1, test_every=1, drift_correction="server", precision="float32", learning_rate=0.05)
    by_rounds = [
        go({**flat, "rounds": rounds, "run-name": f"{rounds}"}).parameters for rounds in (1, 2, 3)
    ]  # the same rounds, ended there
    plain, averaged = (
        go({**flat, "rounds": 3, "run-name": f"ema-{decay}", "server-ema": decay}) for decay in (0.0, 0.8)
    )
    for name, value in averaged.parameters.items():
        x = np.stack([parameters[name].double().flatten().numpy() for parameters in by_rounds])
        np.testing.assert_allclose(value.flatten(), weighted_mean(x, 0.8), rtol=1e-5, atol=1e-7)
    for one, other in zip(plain.lines[1:], averaged.lines[1:], strict=True):
        for key in (
            "train_loss",
            "update_norm",
            "cumulative_bytes",
            "evaluation_bytes",
            "clients",
            "personalised_loss",
        ):
            assert one[key] == other[key], key
    losses = [[line["global_loss"] for line in ran.lines] for ran in (plain, averaged)]
    assert losses[0][:2] == losses[1][:2]  # before training, and after one update: a_1 = x_1
    assert all(one != other for one, other in zip(losses[0][2:], losses[1][2:], strict=True))


@pytest.mark.usefixtures("no_plots")
def test_after_a_warm_up_it_begins_anew(make_flat: MakeFlat) -> None:
    changes: Flat = {"ratio": "plateau", "warmup_rounds": 2, "curvature_steps": 4, "curvature_examples": 4}
    flat = make_flat(rounds=3, server_ema=0.9, **changes)
    one, plain = go({**flat, "run-name": "a"}), go({**flat, "run-name": "b", "server-ema": 0.0})
    assert one.parameter_bytes == plain.parameter_bytes  # one round after the warm-up: a_1 = x_1
    longer = {**flat, "rounds": 4}
    one, plain = go({**longer, "run-name": "c"}), go({**longer, "run-name": "d", "server-ema": 0.0})
    assert one.parameter_bytes != plain.parameter_bytes


def test_a_state_without_one_has_x_as_its_model() -> None:
    state = Federation(four_clients(), settings()).state
    assert state.model is state.x
    assert replace(state, average=state.x + 1).model is not state.x

"""Both ends agree on the control variates, whatever becomes of messages and disks (sections 2.5 and 5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client_app.disk_store import DiskStore
from client_app.state import MemoryStore, StateStore
from experiments.quadratics import Federation, four_clients, settings

MakeStore = Callable[[Path], StateStore]


def on_disk(folder: Path) -> DiskStore:
    return DiskStore(folder, "run", "quadratics")


STORES = pytest.mark.parametrize("make_store", [lambda folder: MemoryStore(), on_disk], ids=["memory", "disk"])
FATES = ("accepted", "accepted", "lost on the way back", "never arrived there", "delivered twice")


def control_of_server(federation: Federation) -> Tensor:
    """c = C/n."""
    assert federation.state.drift.control is not None
    return federation.state.drift.control / sum(federation.problem.examples)


def device_federation(max_lost_share: float = 0.0) -> Federation:
    """Device correction on the quadratics, all clients each round, settled at the optimum."""
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction="device", max_lost_share=max_lost_share))
    end = federation.run(150)[-1]
    assert torch.allclose(end, problem.optimum(), atol=1e-9)
    return federation


@pytest.mark.parametrize("precision", ["float16", "int8"])
@STORES
def test_c_is_the_weighted_mean_of_the_c_i_after_a_hundred_faulty_rounds(
    make_store: MakeStore, tmp_path: Path, precision: str
) -> None:
    """Rounded messages; replies lost, late or doubled; now and then the server resumes from the round before."""
    problem = four_clients()
    setup = settings(drift_correction="device", learning_rate=0.05, precision=precision)
    federation = Federation(problem, setup, 3, exact=False, store=make_store(tmp_path))
    fates, accepted = np.random.default_rng(5), 0
    for _ in range(100):
        before = federation.state
        asked = [int(client) for client in fates.choice(4, size=3, replace=False)]
        fate = {client: str(fates.choice(FATES)) for client in asked}
        for client in asked:
            if fate[client] == "delivered twice":
                federation.train(client)
        reached = [client for client in asked if fate[client] != "never arrived there"]
        federation.round(reached, arrives=lambda client, fate=fate: fate[client] != "lost on the way back")  # type: ignore[misc]
        accepted += sum(federation.state.accepted.get(client) == federation.state.round for client in asked)
        if fates.random() < 0.1:
            federation.state = before
    c = control_of_server(federation)
    assert accepted > 100
    assert federation.state.drift.epoch == 0
    assert max(float(federation.control(client).norm()) for client in range(4)) > 0.5
    assert float((c - federation.mean_control()).abs().max()) < 2e-5  # the devices' float32 rounding, 200 times


@STORES
def test_a_disk_loss_starts_an_epoch_and_both_ends_agree_again(make_store: MakeStore, tmp_path: Path) -> None:
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction="device"), 2, exact=False, store=make_store(tmp_path))
    federation.run(20)
    federation.lose(3)
    assert float((control_of_server(federation) - federation.mean_control()).abs().max()) > 0.01
    federation.run(20)
    assert federation.state.drift.epoch == 1
    assert float((control_of_server(federation) - federation.mean_control()).abs().max()) < 1e-5


@pytest.mark.parametrize("client", [0, 3])
def test_a_lost_control_variate_moves_the_end_by_its_share(client: int) -> None:
    """By -H^-1 (n_i/n) c_i_old, as long as max-lost-share lets it wait."""
    federation = device_federation(max_lost_share=1.0)
    problem, old = federation.problem, federation.control(client)
    federation.lose(client)
    end = federation.run(250)[-1]
    shift = -torch.linalg.solve(problem.hessian(), problem.shares[client] * old)
    assert float(shift.norm()) > 0.1
    assert torch.allclose(end, problem.optimum() + shift, atol=1e-9)
    assert federation.state.drift.epoch == 0
    assert federation.state.drift.lost_examples == problem.examples[client]  # counted once, not in each later round


def test_the_epoch_rule_undoes_a_loss() -> None:
    """Early, while c is still far from 0: at the optimum it vanishes by itself."""
    federation = Federation(four_clients(), settings(drift_correction="device"))
    federation.run(2)
    assert float(control_of_server(federation).norm()) > 0.1
    federation.lose(0)
    federation.round()
    assert federation.state.drift.epoch == 1
    assert float(control_of_server(federation).norm()) == 0
    assert all(float(federation.control(client).norm()) == 0 for client in federation.clients)
    assert torch.allclose(federation.run(150)[-1], federation.problem.optimum(), atol=1e-9)
    assert federation.state.drift.epoch == 1  # one loss, one epoch


def test_losses_wait_until_their_share_is_too_large() -> None:
    """Shares of n: 10/150 and 25/150, together above .2; after the new epoch the count starts anew."""
    federation = device_federation(max_lost_share=0.2)
    federation.lose(0)
    federation.round()
    assert (federation.state.drift.epoch, federation.state.drift.lost_examples) == (0, 10)
    federation.round()
    assert (federation.state.drift.epoch, federation.state.drift.lost_examples) == (0, 10)
    federation.lose(1)
    federation.round()
    assert (federation.state.drift.epoch, federation.state.drift.lost_examples) == (1, 0)


def test_a_share_of_exactly_the_limit_still_waits() -> None:
    federation = device_federation(max_lost_share=0.5)
    federation.lose(3)  # 75 of 150
    federation.round()
    assert (federation.state.drift.epoch, federation.state.drift.lost_examples) == (0, 75)


def test_a_loss_from_an_older_epoch_starts_no_other() -> None:
    """Client 3 was last accepted before the epoch began: C holds no share of its c_i, so nothing is lost with it."""
    federation = device_federation()
    federation.lose(0)
    federation.run(3, among=(0, 1, 2))
    assert federation.state.drift.epoch == 1
    federation.lose(3)
    federation.round()
    assert federation.state.drift.epoch == 1
    assert torch.allclose(control_of_server(federation), federation.mean_control(), atol=1e-12)
    federation.round()
    federation.lose(3)  # now it has a share
    federation.round()
    assert federation.state.drift.epoch == 2


def test_a_loss_in_the_round_that_ended_an_epoch_starts_no_other() -> None:
    """What its clients made in that round is of the old epoch; C holds nothing of it."""
    federation = device_federation()
    federation.lose(0)
    federation.round()
    assert (federation.state.drift.epoch, federation.state.accepted[3]) == (1, federation.state.round)
    federation.lose(3)
    federation.round()
    assert federation.state.drift.epoch == 1


def test_a_device_that_slept_through_an_epoch_starts_from_zero() -> None:
    federation = device_federation()
    federation.lose(0)
    federation.run(3, among=(0, 1, 2))
    kept = federation.store.resume(3, federation.state.accepted[3])
    assert kept is not None
    assert kept.epoch == 0
    assert float(kept.control.norm()) > 0.1
    federation.round()  # starts from 0, though it has a c_i of the older epoch
    assert federation.state.drift.epoch == 1
    assert torch.allclose(control_of_server(federation), federation.mean_control(), atol=1e-12)
    assert torch.allclose(federation.run(150)[-1], federation.problem.optimum(), atol=1e-9)


def test_a_loss_whose_reply_is_lost_too_is_noticed_later() -> None:
    federation = device_federation()
    federation.lose(2)
    federation.round(arrives=lambda client: client != 2)
    assert federation.state.drift.epoch == 0
    federation.round()
    assert federation.state.drift.epoch == 1


def test_a_device_that_joins_late_is_no_loss() -> None:
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction="device"))
    federation.run(30, among=(0, 1, 2))
    path = federation.run(200)
    assert federation.state.drift.epoch == 0
    assert torch.allclose(path[-1], problem.optimum(), atol=1e-9)


def test_a_server_that_resumes_the_round_before_finds_the_devices_with_it() -> None:
    """The same rounds again give the same bits, and no device counts as having lost anything."""
    federation = device_federation()
    before = federation.state
    federation.round()
    once = federation.state
    federation.state = before
    federation.round()
    assert torch.equal(federation.state.x, once.x)
    assert federation.state.drift.epoch == 0
    assert federation.state.drift.control is not None
    assert once.drift.control is not None
    assert torch.equal(federation.state.drift.control, once.drift.control)

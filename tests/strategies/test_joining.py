"""Clients that join and leave (section 2.5 of docs/ALGORITHMS.md): what is a mean over all known clients stays one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.quadratics import Federation, distance, four_clients, jitter, settings
from federation.channels import make_channels
from models.layout import Entry, Layout
from strategies.build import build
from strategies.client_rows import MemoryRows
from strategies.roster import Cohort, Roster
from strategies.shell import SelectiveStrategy

LATE = 3
"""The client that joins: half of all examples are its own."""
BEGIN = (0, 1, 2)


def kept(federation: Federation) -> Tensor:
    assert federation.state.drift.control is not None
    return federation.state.drift.control


def weighted_rows(federation: Federation, plain: bool = False) -> Tensor:
    """sum (n_i/n) of what the server keeps per client, over all known; plain: sum over N."""
    problem = federation.problem
    weights = torch.tensor([1.0 if plain else problem.examples[c] for c in federation.clients], dtype=torch.float64)
    rows = []
    for client in federation.clients:
        row = federation.rows.read(client, federation.state.accepted.get(client, 0))
        rows.append(torch.zeros_like(federation.state.x) if row is None else row.to(torch.float64))
    return torch.stack(rows).T @ (weights / weights.sum())


def test_a_cohort_is_summed_over_all_that_are_known() -> None:
    assert Cohort.of({0: (10, 6), 1: (25, 1), 7: (40, 3)}) == Cohort(3, 75, (60 + 25 + 120) / 75)


# -- the moment of joining ---------------------------------------------------------------------------------


def test_c_shrinks_by_the_share_of_who_joins_with_zero() -> None:
    federation = Federation(four_clients(), settings(drift_correction="device"), known=BEGIN)
    federation.run(5)
    before, total = federation.algorithm().downlink(federation.state), kept(federation)
    federation.join(LATE)
    after = federation.algorithm().downlink(federation.state)
    assert before is not None
    assert after is not None
    assert torch.equal(kept(federation), total)
    assert torch.allclose(after, before * 75 / 150, rtol=1e-14)
    assert torch.allclose(after, federation.mean_control(), rtol=1e-12)


def test_u_shrinks_by_the_share_of_who_joins_with_zero() -> None:
    federation = Federation(four_clients(), settings(drift_correction="server"), known=BEGIN)
    federation.run(5)
    before = kept(federation)
    federation.join(LATE)
    assert torch.equal(kept(federation), before * 0.5)
    assert torch.allclose(kept(federation), weighted_rows(federation), rtol=1e-12)


def test_c_of_the_released_arithmetic_is_a_plain_mean() -> None:
    problem = replace(four_clients(), steps=(2, 2, 2, 2))
    setup = settings(
        variant="released",
        drift_correction="none",
        server_optimizer="none",
        device_optimizer="adam",
        restart_moments=False,
        learning_rate=0.01,
        server_learning_rate=0.05,
    )
    federation = Federation(problem, setup, known=BEGIN)
    federation.run(4)
    assert torch.allclose(kept(federation), weighted_rows(federation, plain=True), rtol=1e-10)
    federation.join(LATE)
    assert torch.allclose(kept(federation), weighted_rows(federation, plain=True), rtol=1e-10)
    federation.run(4)
    assert torch.allclose(kept(federation), weighted_rows(federation, plain=True), rtol=1e-10)


def test_x_moments_and_rounds_go_on() -> None:
    federation = Federation(four_clients(), settings(drift_correction="device", server_momentum=0.9), known=BEGIN)
    federation.run(5)
    before = federation.state
    federation.join(LATE)
    assert replace(federation.state, drift=before.drift) == before


def test_kbar_is_over_all_that_are_known() -> None:
    federation = Federation(four_clients(), settings(drift_correction="none", step_normalised=True), known=BEGIN)
    grown, _ = federation.algorithm().grow(federation.state, Cohort(4, 150, 2.37))
    assert grown.mean_steps == 2.37  # type: ignore[attr-defined]
    plain, _ = (
        Federation(four_clients(), settings(), known=BEGIN).algorithm().grow(federation.state, Cohort(4, 150, 2.37))
    )
    assert plain.mean_steps is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["none", "server", "device"])
def test_what_grew_is_what_would_be_built_anew(part: str) -> None:
    """A run that goes on builds it from all that are known."""
    federation = Federation(four_clients(), settings(drift_correction=part, step_normalised=True), known=BEGIN)
    cohort = Cohort.of({c: (federation.problem.examples[c], federation.problem.steps[c]) for c in (*BEGIN, LATE)})
    grown, _ = federation.algorithm().grow(federation.state, cohort)
    federation.join(LATE)
    anew = federation.algorithm()
    assert grown.mean_steps == anew.mean_steps  # type: ignore[attr-defined]
    assert getattr(grown.drift, "examples", 0) == getattr(anew.drift, "examples", 0)  # type: ignore[attr-defined]


# -- where it settles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("joins_at", [1, 40])
def test_device_correction_settles_where_all_from_the_start_settle(beta: float, joins_at: int) -> None:
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction="device", server_momentum=beta), known=BEGIN)
    federation.run(joins_at)
    federation.join(LATE)
    path = federation.run(550)
    assert distance(path[-1], problem.optimum()) < 1e-9
    assert jitter(path) < 1e-10
    assert torch.allclose(kept(federation) / 150, federation.mean_control(), atol=1e-12)


@pytest.mark.parametrize("joins_at", [1, 40])
def test_server_correction_settles_where_all_from_the_start_settle(joins_at: int) -> None:
    """With two of them sampled in a round: it takes u, u_i and n to be of one set of clients."""
    problem = four_clients()
    setup = settings(drift_correction="server", server_learning_rate=0.5)
    federation = Federation(problem, setup, 2, known=BEGIN)
    federation.run(joins_at)
    federation.join(LATE)
    path = federation.run(700)
    assert distance(path[-1], problem.averaging_point(problem.shares, 0.15)) < 1e-9
    assert jitter(path) < 1e-10


@pytest.mark.parametrize("part", ["device", "server"])
def test_who_is_away_for_a_while_changes_no_end_point(part: str) -> None:
    """It keeps its c_i, or u_i, and its share of the mean."""
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction=part, server_learning_rate=0.5))
    federation.run(30)
    federation.run(30, among=(0, 1, 3))
    path = federation.run(500)
    wanted = problem.optimum() if part == "device" else problem.averaging_point(problem.shares, 0.15)
    assert distance(path[-1], wanted) < 1e-9


@pytest.mark.parametrize("part", ["device", "server"])
@pytest.mark.parametrize("seed", range(10))
def test_whoever_comes_and_goes_the_books_balance(part: str, seed: int) -> None:
    """Random joins, absences, lost replies: C/n, or u, is the weighted mean over all that are known, in every round."""
    rng = np.random.default_rng(seed)
    federation = Federation(four_clients(), settings(drift_correction=part, server_learning_rate=0.5), known=(0,))
    for _ in range(40):
        if len(federation.clients) < 4 and rng.random() < 0.15:
            federation.join(int(rng.choice(sorted(set(range(4)) - set(federation.clients)))))
        asked = [client for client in federation.clients if rng.random() < 0.6]
        lost = {client for client in asked if rng.random() < 0.2}
        federation.round(asked, arrives=lambda client, lost=lost: client not in lost)  # type: ignore[misc]
        if part == "device":
            n = federation.cohort.examples
            assert torch.allclose(kept(federation) / n, federation.mean_control(), atol=1e-12)
        else:
            assert torch.allclose(kept(federation), weighted_rows(federation), atol=1e-12)
    assert len(federation.clients) == 4


# -- whom the strategy asks --------------------------------------------------------------------------------

LAYOUT = Layout((Entry("head.w", None, (2, 3)),))
EXAMPLES = {0: 10, 1: 25, 2: 40, 3: 75}
STEPS = {0: 6, 1: 1, 2: 3, 3: 2}


def strategy(known: tuple[int, ...] = (0, 1, 2), per_round: int = 2) -> SelectiveStrategy:
    setup = settings(drift_correction="device")
    channels, roster = make_channels(setup, LAYOUT), roster_of(known, known, per_round)
    algorithm = build(setup, Cohort.of(roster.agreed), channels.control, MemoryRows)
    return SelectiveStrategy(algorithm, algorithm.initial(LAYOUT.names, torch.ones(LAYOUT.size)), roster, channels)


def roster_of(known: tuple[int, ...], there: tuple[int, ...], per_round: int = 2) -> Roster:
    return Roster(
        "run",
        3,
        {client: EXAMPLES[client] for client in known},
        {client: 100 + client for client in there},
        ("no", "yes"),
        (),
        per_round,
        steps={client: STEPS[client] for client in known},
    )


def test_only_those_that_are_there_are_sampled_and_evaluated() -> None:
    one = strategy((0, 1, 2, 3))
    assert (one.roster.present, one.roster.absent) == ([0, 1, 2, 3], [])
    one.meet(roster_of((0, 1, 2, 3), (0, 3)))
    assert (one.roster.present, one.roster.absent, one.clients) == ([0, 3], [1, 2], [0, 3])
    assert all(set(one.sampled(t)) == {0, 3} for t in range(1, 30))
    assert sorted(message.metadata.dst_node_id for message in one.evaluate_messages()) == [100, 103]


def test_who_is_away_is_still_in_n() -> None:
    one, x = strategy((0, 1, 2, 3)), torch.arange(6, dtype=torch.float64)
    one.state = replace(one.state, drift=replace(one.state.drift, control=x))
    one.meet(roster_of((0, 1, 2, 3), (0, 3)))
    c = one.algorithm.downlink(one.state)
    assert c is not None
    assert torch.equal(c, x / 150)


def test_who_joins_is_in_n_and_can_be_sampled() -> None:
    one, x = strategy(), torch.arange(6, dtype=torch.float64)
    one.state = replace(one.state, drift=replace(one.state.drift, control=x))
    one.meet(roster_of((0, 1, 2, 3), (0, 1, 3)))  # while another is away
    c = one.algorithm.downlink(one.state)
    assert c is not None
    assert torch.equal(c, x / 150)
    assert {client for t in range(1, 30) for client in one.sampled(t)} == {0, 1, 3}
    assert one.state.accepted == {}

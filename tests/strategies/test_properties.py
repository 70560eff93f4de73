"""Whatever becomes of messages, disks and the server itself, the books stay in order, and no fault leaves a trace.

Random algorithms and histories. The suite draws few, always the same; with FEDPEPTAO_EXAMPLES=2000 in the environment it draws so
many new ones.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from torch import Tensor

from experiments.quadratics import settings
from federation.setting_kinds import PRECISIONS
from federation.settings import Scalar, Settings
from strategies.fedpeptao import State
from strategies.roster import Outcome
from tests.combinations import Parts, valid
from tests.strategies.worlds import ANSWERS, DEAF, FATES, LAYOUT, REFUSED, Faults, History, Round, World, same

EXAMPLES = int(os.environ.get("FEDPEPTAO_EXAMPLES", 0))
drawn = profile(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _kind(parts: Parts) -> str:
    return f"{parts['variant']}-{parts['drift-correction']}"


ALGORITHMS = [parts for parts in valid() if (parts["layers"], parts["unselected-prompts"]) == ("all", "local")]
KINDS = {_kind(one): [parts for parts in ALGORITHMS if _kind(parts) == _kind(one)] for one in ALGORITHMS}


@st.composite
def histories(draw: st.DrawFn, kind: str) -> History:
    parts = draw(st.sampled_from(KINDS[kind]))
    numbers: dict[str, Scalar] = {
        "learning_rate": 0.05,
        "server_learning_rate": 0.1,
        "server_momentum": draw(st.sampled_from((0.0, 0.9))),
        "max_lost_share": draw(st.sampled_from((0.0, 0.4, 1.0))),
        "control_precision": draw(st.sampled_from(("", *PRECISIONS))),
        "update_precision": draw(st.sampled_from(("", *PRECISIONS))),
    }
    clients = draw(st.integers(2, 5))
    nodes = draw(st.integers(1, clients))
    anything = draw(st.booleans())
    one = rounds(clients, nodes) if anything else st.builds(Round, disks(clients), faults=st.just(only(range(clients))))
    return History(
        setup=settings(**parts, **numbers),
        examples=draw(st.tuples(*clients * [st.integers(1, 40)])),
        steps=draw(st.tuples(*clients * [st.integers(1, 4)])),
        per_round=draw(st.integers(1, clients)),
        nodes=nodes,
        seed=draw(st.integers(0, 999)),
        rounds=draw(st.tuples(*draw(st.integers(1, 6) if anything else st.integers(3, 9)) * [one])),
    )


def rounds(clients: int, nodes: int) -> st.SearchStrategy[Round]:
    dead = st.sampled_from([*10 * [None], *range(nodes)])
    faults = st.builds(Faults, st.tuples(*clients * [st.sampled_from(FATES)]), dead, st.integers(0, 99))
    begun = st.one_of(st.just(()), st.just(()), st.tuples(st.tuples(faults, st.integers(0, clients))))
    return st.builds(Round, disks(clients), faults, begun)


def disks(clients: int) -> st.SearchStrategy[frozenset[int]]:
    """One that dies, at times."""
    return st.sampled_from([*4 * [frozenset[int]()], *(frozenset({client}) for client in range(clients))])


def only(good: Collection[int]) -> Faults:
    """These answer; nobody else hears of the round."""
    return Faults(tuple(ANSWERS if client in good else DEAF for client in range(5)))


# -- no trace ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@drawn
@given(data=st.data())
def test_faults_arrival_and_a_server_that_dies_leave_no_trace(kind: str, data: st.DataObject) -> None:
    """The same bits as where each good reply comes once, from a node of its own, to a server that lives, and nothing else comes.

    There nothing lies on a disk either. Both lose the same clients' states.
    """
    history = data.draw(histories(kind))
    with TemporaryDirectory() as folder:
        world, calm = World(history, history.nodes, Path(folder)), World(history, len(history.examples))
        for this in history.rounds:
            for client in this.lost:
                world.lose(client)
                calm.lose(client)
            outcome = world.live(this)
            good = [client for client in calm.asked if this.faults.good(client, history.nodes)]
            expected = calm.close(only(good))
            assert (outcome.accepted, outcome.train_loss) == (expected.accepted, expected.train_loss)
            assert outcome.update_norm == expected.update_norm
            assert same(world.state, calm.state)
            for client in range(len(history.examples)):
                assert torch.equal(world.row(client), calm.row(client))
                assert torch.equal(world.control(client), calm.control(client))


# -- the books ---------------------------------------------------------------------------------------------


@dataclass
class Books:
    """What each side ought to hold, kept by somebody who sees everything: both ends, and what becomes of each message.

    Attributes:
        lost: clients whose share in C is gone and who have not been heard of since.
        orphans: sum of n_i c_i over shares in C that belong to nobody any more.
        lost_examples: sum of n_i over losses that the server has noticed in this epoch.
        c, c_i: of the released arithmetic.
        largest: number that passed so far, for the devices' rounding.
    """

    accepted: dict[int, int] = field(default_factory=dict)
    updates: int = 0
    lost: set[int] = field(default_factory=set)
    orphans: Tensor = field(default_factory=lambda: torch.zeros(LAYOUT.size, dtype=torch.float64))
    lost_examples: int = 0
    c: Tensor = field(default_factory=lambda: torch.zeros(LAYOUT.size, dtype=torch.float64))
    c_i: dict[int, Tensor] = field(default_factory=dict)
    largest: float = 1.0


@pytest.mark.parametrize("kind", KINDS)
@drawn
@given(data=st.data())
def test_the_books_balance_whatever_happens(kind: str, data: st.DataObject) -> None:
    history = data.draw(histories(kind))
    with TemporaryDirectory() as folder:
        world, books = World(history, history.nodes, Path(folder)), Books()
        for this in history.rounds:
            before, asked = world.state, world.asked
            for client in this.lost:
                lose(world, books, client)
            outcome = world.live(this)
            everyone_is_in_one_place(outcome, asked, this.faults, history.nodes)
            the_state_counts(world, books, before, outcome)
            eta, correction = history.setup.local.learning_rate, history.setup.server.drift_correction
            if history.setup.server.variant != "fedpeptao":
                released_control(world, books, outcome.accepted, eta, history.per_round / len(history.examples))
            elif correction == "device":
                device_control(world, books, before, outcome.accepted, history.setup)
            elif correction == "server":
                server_control(world)
            else:
                assert same(world.state.drift, before.drift)


def lose(world: World, books: Books, client: int) -> None:
    """A disk dies; its share in C is nobody's now, if it has one."""
    if books.accepted.get(client, 0) > world.state.drift.epoch_round:
        books.orphans = books.orphans + world.examples[client] * world.control(client)
        books.lost.add(client)
    world.lose(client)


def everyone_is_in_one_place(outcome: Outcome, asked: list[int], faults: Faults, nodes: int) -> None:
    """Accepted in the order of sampling; failed those who said so, said nonsense, or whose node died; all others missing."""
    good = [client for client in asked if faults.good(client, nodes)]
    refused = {client for client in asked if faults.fates[client] in REFUSED or client % nodes == faults.dead}
    assert (outcome.asked, outcome.accepted, set(outcome.failed)) == (asked, good, refused)
    assert outcome.missing == [client for client in asked if client not in good and client not in refused]


def the_state_counts(world: World, books: Books, before: State, outcome: Outcome) -> None:
    """Rounds, updates, and for each client the last round whose reply was folded; a round without a reply is void."""
    state = world.state
    books.accepted |= dict.fromkeys(outcome.accepted, before.round + 1)
    books.updates += bool(outcome.accepted)
    made = before.round + bool(outcome.accepted)
    assert (state.round, state.updates, state.accepted) == (made, books.updates, books.accepted)
    assert outcome.void == (not outcome.accepted)
    if outcome.void:
        assert same(state, before)
    kept = [state.x, *state.moments.values(), *(t for t in (state.drift.control, state.vbar) if t is not None)]
    assert all(t.dtype == torch.float64 and bool(t.isfinite().all()) for t in kept)


def device_control(world: World, books: Books, before: State, accepted: list[int], setup: Settings) -> None:
    """C = sum n_i c_i of this epoch, and the shares that nobody holds any more; the epoch ends when they are too large."""
    drift, n = world.state.drift, sum(world.examples.values())
    assert drift.control is not None
    books.lost_examples += sum(world.examples[client] for client in accepted if client in books.lost)
    books.lost -= set(accepted)
    if books.lost_examples > setup.server.max_lost_share * n:
        books.lost_examples, books.lost, books.orphans = 0, set(), torch.zeros_like(books.orphans)
        assert (drift.epoch, drift.epoch_round) == (before.drift.epoch + 1, world.state.round)
    else:
        assert (drift.epoch, drift.epoch_round) == (before.drift.epoch, before.drift.epoch_round)
    assert drift.lost_examples == books.lost_examples
    shares = {client: n_i * world.control(client) for client, n_i in world.examples.items()}
    for client in accepted:
        delta, steps = world.sent[client].delta, world.sent[client].steps
        assert delta is not None
        books.largest = max(books.largest, float(delta.abs().max()) / (steps * setup.local.learning_rate))
    whole = torch.stack([*shares.values(), books.orphans]).sum(0)
    assert float((drift.control - whole).abs().max()) < 1e-5 * n * books.largest
    sent = world.strategy.algorithm.downlink(world.state)
    assert sent is not None
    assert torch.allclose(sent * n, drift.control, rtol=1e-12)


def server_control(world: World) -> None:
    """u = sum (n_i/n) u_i."""
    u, n = world.state.drift.control, sum(world.examples.values())
    rows = [n_i / n * world.row(client) for client, n_i in world.examples.items()]
    assert u is not None
    assert torch.allclose(u, torch.stack(rows).sum(0), rtol=1e-9, atol=1e-9 * float(torch.stack(rows).abs().max()))


def released_control(world: World, books: Books, accepted: list[int], eta: float, rate: float) -> None:
    """c_i+ = c_i - c + Delta_i/(K_i eta) with the old c ; c+ = c + (sample rate) sum K_i (c_i+ - c_i) / sum K_i."""
    moved, steps = torch.zeros_like(books.c), 0
    for client in accepted:
        reply = world.sent[client]
        assert reply.delta is not None
        change = reply.delta.double() / (reply.steps * eta) - books.c
        books.c_i[client] = books.c_i.get(client, torch.zeros_like(books.c)) + change
        moved, steps = moved + reply.steps * change, steps + reply.steps
        books.largest = max(books.largest, float(books.c_i[client].abs().max()), float(change.abs().max()))
        assert float((world.row(client) - books.c_i[client]).abs().max()) < 1e-5 * books.largest
    if accepted:
        books.c = books.c + rate * moved / steps
    control = world.state.drift.control
    assert control is not None
    assert float((control - books.c).abs().max()) < 1e-5 * books.largest

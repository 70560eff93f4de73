"""The Flower Strategy on hand-built replies: no model, no network, no grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from torch import Tensor

from experiments.quadratics import settings
from federation import records
from federation.channels import Channels, make_channels
from federation.grids import Exchange, InProcessGrid
from federation.messages import Ask, EvaluateReply, Evaluation, TrainReply
from federation.settings import Scalar
from models.layout import Entry, Layout
from strategies.build import build
from strategies.client_rows import MemoryRows
from strategies.fedpeptao import State, Update
from strategies.roster import Cohort, Outcome, Roster
from strategies.shell import SelectiveStrategy

LAYOUT = Layout((Entry("prompt.1", 1, (2, 1, 2, 3), 2), Entry("head.w", None, (2, 3))))
CHANNELS = make_channels(settings(), LAYOUT)
EXAMPLES = {0: 10, 1: 25, 2: 40, 3: 75}
STEPS = {0: 6, 1: 1, 2: 3, 3: 2}
ONE_EACH = {client: 100 + client for client in EXAMPLES}
IN_PAIRS = {0: 100, 1: 101, 2: 100, 3: 101}
GRID = InProcessGrid(lambda message, context: message, {}, 1)


def strategy(nodes: dict[int, int] = ONE_EACH, per_round: int = 4, **changes: Scalar) -> SelectiveStrategy:
    changed: dict[str, Scalar] = {"drift_correction": "device", "server_momentum": 0.9, **changes}
    setup = settings(**changed)
    channels = make_channels(setup, LAYOUT)
    algorithm = build(setup, Cohort(4, sum(EXAMPLES.values()), 2.4), channels.control, MemoryRows)
    roster = Roster("run-1", 3, EXAMPLES, nodes, ("no", "yes"), (1,), per_round)
    state = algorithm.initial(LAYOUT.names, torch.linspace(-1, 1, LAYOUT.size))
    shared = setup.local.device_second_moment == "shared"
    return SelectiveStrategy(algorithm, state, roster, channels, shared)


def delta(client: int, server_round: int = 1) -> Tensor:
    return 10000.0**client * torch.randn(
        LAYOUT.size, generator=torch.Generator().manual_seed(7 * client + server_round)
    )


def reply(client: int, server_round: int = 1) -> TrainReply:
    return TrainReply(
        client=client,
        round=server_round,
        examples=EXAMPLES[client],
        steps=STEPS[client],
        train_loss=1.0 + client,
        control_round=max(0, server_round - 1),
        evaluation=Evaluation(4, client, 2.0),
        delta=delta(client, server_round),
    )


def message(node: int, replies: Sequence[TrainReply], channels: Channels = CHANNELS) -> Exchange:
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    return Exchange(node, Message(records.encode_train_replies(replies, channels), reply_to=asked))


def lost(node: int, code: int = 5, reason: str = "gone\nTraceback") -> Exchange:
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    answer = Message(Error(code, reason), reply_to=asked)
    answer.metadata.__dict__["_src_node_id"] = 1  # as Flower does for a lost node
    return Exchange(node, answer)


def one_each(clients: Sequence[int], server_round: int = 1) -> list[Exchange]:
    return [message(ONE_EACH[client], [reply(client, server_round)]) for client in clients]


def by_hand(clients: Sequence[int], **changes: Scalar) -> State:
    """What fold and step make of these clients' replies, in this order."""
    own = strategy(**changes)
    total = own.algorithm.begin(own.state)
    for client in clients:
        own.algorithm.fold(own.state, total, Update(client, EXAMPLES[client], STEPS[client], delta(client)))
    return own.algorithm.step(own.state, total)


def in_one_place_each(outcome: Outcome) -> None:
    """Everybody who was asked is accepted, failed or missing, and only once."""
    placed = [*outcome.accepted, *outcome.failed, *outcome.missing]
    assert sorted(placed) == sorted(outcome.asked)


# -- the order of arrival ----------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", ["none", "server", "device"])
def test_the_order_of_arrival_changes_no_bit(correction: str) -> None:
    """All 24 orders, with numbers of very different size, so that other orders of summation give other bits."""
    order = strategy().sampled(1)
    wanted = by_hand(order, drift_correction=correction)
    for arrival in permutations(range(4)):
        own = strategy(drift_correction=correction)
        outcome = own.close_round(1, one_each(arrival))
        assert outcome.accepted == order
        assert torch.equal(own.state.x, wanted.x)
        for mine, theirs in zip(own.state.moments.values(), wanted.moments.values(), strict=True):
            assert torch.equal(mine, theirs)
        if wanted.drift.control is not None:
            assert own.state.drift.control is not None
            assert torch.equal(own.state.drift.control, wanted.drift.control)
        assert outcome.train_loss == sum(EXAMPLES[c] * (1.0 + c) for c in range(4)) / 150
        assert list(outcome.evaluations) == order


def test_other_orders_of_summation_would_give_other_bits() -> None:
    """So the test above can fail."""
    assert any(not torch.equal(by_hand(order).x, by_hand((0, 1, 2, 3)).x) for order in permutations(range(4)))


def test_replies_are_folded_as_they_arrive() -> None:
    """What came before its turn waits; what is due does not."""
    own, order = strategy(), strategy().sampled(1)
    folded: list[tuple[str, int]] = []
    fold = own.algorithm.fold
    object.__setattr__(
        own.algorithm, "fold", lambda state, total, u: (folded.append(("folded", u.client)), fold(state, total, u))
    )

    def arriving() -> object:
        for client in (order[1], order[0], order[2], order[3]):
            folded.append(("came", client))
            yield message(ONE_EACH[client], [reply(client)])

    own.close_round(1, arriving())  # type: ignore[arg-type]
    came = [("came", c) for c in order]
    done = [("folded", c) for c in order]
    assert folded == [came[1], came[0], done[0], done[1], came[2], done[2], came[3], done[3]]


@pytest.mark.parametrize("arrival", list(permutations(range(2))))
def test_several_clients_in_a_message_are_the_same_round(arrival: tuple[int, int]) -> None:
    own = strategy(IN_PAIRS)
    both = [message(100, [reply(2), reply(0)]), message(101, [reply(1), reply(3)])]
    outcome = own.close_round(1, [both[i] for i in arrival])
    assert outcome.accepted == own.sampled(1)
    assert torch.equal(own.state.x, by_hand(own.sampled(1)).x)


# -- replies that are not as they should be ----------------------------------------------------------------


def test_a_duplicate_counts_once() -> None:
    own = strategy()
    other = TrainReply(1, 1, "", EXAMPLES[1], STEPS[1], 5.0, delta=delta(3))
    outcome = own.close_round(1, [*one_each((0, 1, 2)), message(101, [other]), *one_each((1, 3, 3))])
    assert outcome.accepted == own.sampled(1)
    assert torch.equal(own.state.x, by_hand(own.sampled(1)).x)
    in_one_place_each(outcome)


def test_the_same_client_twice_in_a_message_counts_once() -> None:
    own = strategy()
    outcome = own.close_round(1, [*one_each((0, 1, 2)), message(103, [reply(3), reply(3)])])
    assert torch.equal(own.state.x, by_hand(own.sampled(1)).x)
    in_one_place_each(outcome)


@pytest.mark.parametrize("answered", [0, 2])
def test_a_reply_to_another_round_is_refused_and_named(answered: int) -> None:
    own = strategy()
    outcome = own.close_round(1, [*one_each((0, 1, 3)), message(102, [reply(2, answered)])])
    assert outcome.failed == {2: f"refused: it answers round {answered}"}
    assert torch.equal(own.state.x, by_hand([c for c in own.sampled(1) if c != 2]).x)
    assert 2 not in own.state.accepted
    in_one_place_each(outcome)


def test_a_stranger_and_a_client_that_was_not_asked_are_dropped() -> None:
    own = strategy(per_round=2)
    asked = own.sampled(1)
    stranger = TrainReply(77, 1, "", 5, 1, 1.0, delta=delta(0))
    outcome = own.close_round(1, [message(100, [stranger]), *one_each(range(4))])
    assert outcome.accepted == asked
    assert set(own.state.accepted) == set(asked)
    assert torch.equal(own.state.x, by_hand(asked).x)
    in_one_place_each(outcome)


def test_a_client_on_the_wrong_node_is_dropped() -> None:
    """Another node may not answer for it, and its own still can."""
    own = strategy()
    theft = message(100, [reply(0), TrainReply(3, 1, "", EXAMPLES[3], STEPS[3], 0.0, delta=torch.zeros(LAYOUT.size))])
    outcome = own.close_round(1, [theft, *one_each((1, 2, 3))])
    assert outcome.failed == {}
    assert torch.equal(own.state.x, by_hand(own.sampled(1)).x)
    own = strategy()
    outcome = own.close_round(1, [theft, *one_each((1, 2))])
    assert outcome.missing == [3]
    in_one_place_each(outcome)


def test_a_node_error_is_the_failure_of_its_asked_clients() -> None:
    own = strategy(IN_PAIRS)
    outcome = own.close_round(1, [lost(101), message(100, [reply(0), reply(2)])])
    assert outcome.failed == {1: "node error 5: gone", 3: "node error 5: gone"}
    assert torch.equal(own.state.x, by_hand([c for c in own.sampled(1) if c in (0, 2)]).x)
    in_one_place_each(outcome)
    quiet = strategy(IN_PAIRS).close_round(1, [lost(101, reason="")])
    assert quiet.failed[1] == "node error 5: no reason given"
    assert sorted(quiet.missing) == [0, 2]


@pytest.mark.parametrize("error_first", [True, False])
def test_an_error_beside_a_reply_leaves_nobody_in_two_places(error_first: bool) -> None:
    """The first word of a node counts."""
    own = strategy()
    two = [lost(102), message(102, [reply(2)])]
    outcome = own.close_round(1, [*(two if error_first else reversed(two)), *one_each((0, 1, 3))])
    in_one_place_each(outcome)
    assert (2 in outcome.failed) is error_first
    kept = [client for client in own.sampled(1) if client != 2 or not error_first]
    assert outcome.accepted == kept
    assert torch.equal(own.state.x, by_hand(kept).x)


def test_a_fault_is_one_line_and_the_others_of_the_node_count() -> None:
    own = strategy(IN_PAIRS)
    fault = TrainReply(2, 1, fault="ValueError: no such label\n  File x")
    outcome = own.close_round(1, [message(100, [reply(0), fault]), message(101, [reply(1), reply(3)])])
    assert outcome.failed == {2: "ValueError: no such label"}
    assert torch.equal(own.state.x, by_hand([c for c in own.sampled(1) if c != 2]).x)
    in_one_place_each(outcome)


def test_a_bad_array_fails_its_client_alone() -> None:
    own = strategy(IN_PAIRS)
    bad = TrainReply(2, 1, "", EXAMPLES[2], STEPS[2], 1.0, delta=delta(2) * float("nan"))
    outcome = own.close_round(1, [message(100, [reply(0), bad]), message(101, [reply(1), reply(3)])])
    assert "not finite" in outcome.failed[2]
    assert list(outcome.failed) == [2]
    in_one_place_each(outcome)


def test_a_message_that_cannot_be_read_fails_all_its_clients() -> None:
    own = strategy(IN_PAIRS)
    broken = message(100, [reply(0), reply(2)])
    broken.reply.content["client.0"]["steps"] = "six"
    outcome = own.close_round(1, [broken, message(101, [reply(1), reply(3)])])
    assert set(outcome.failed) == {0, 2}
    assert all(why.startswith("refused: steps") for why in outcome.failed.values())
    in_one_place_each(outcome)


def test_other_numbers_of_examples_than_in_the_roll_call_are_refused() -> None:
    """n_i is frozen there: C is a sum weighted by it."""
    own = strategy()
    greedy = TrainReply(1, 1, "", 10**9, STEPS[1], 1.0, delta=delta(1))
    outcome = own.close_round(1, [*one_each((0, 2, 3)), message(101, [greedy])])
    assert outcome.failed == {1: "refused: it has 1000000000 examples, 25 in the roll call"}
    assert torch.equal(own.state.x, by_hand([c for c in own.sampled(1) if c != 1]).x)


def test_the_missing_are_named_and_the_others_count() -> None:
    own, order = strategy(), strategy().sampled(1)
    outcome = own.close_round(1, one_each([order[3], order[1]]))
    assert (outcome.accepted, outcome.missing) == ([order[1], order[3]], [order[0], order[2]])
    assert torch.equal(own.state.x, by_hand([order[1], order[3]]).x)
    in_one_place_each(outcome)


def test_a_round_without_a_reply_is_void_and_changes_nothing() -> None:
    own = strategy()
    before = own.state
    outcome = own.close_round(1, [lost(100)])
    assert outcome.void
    assert (own.state is before, outcome.train_loss, outcome.update_norm) == (True, None, 0.0)
    assert own.aggregate_train(2, []) == (None, None)


# -- what goes down ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", ["none", "server", "device"])
def test_one_downlink_for_all(correction: str) -> None:
    """Equal content in all messages of a round but for the record that names the clients."""
    own = strategy(drift_correction=correction, device_optimizer="adam", device_second_moment="shared")
    replies = [
        TrainReply(**{**vars(reply(c)), "second_moments": torch.ones(len(LAYOUT.blocks)) * (c + 1)}) for c in range(4)
    ]
    own.close_round(1, [message(ONE_EACH[r.client], [r]) for r in replies])
    sent = own.train_messages(2)
    assert len(sent) == 4
    expected = {"shared", "round", "clients", "moments"} | ({"control"} if correction == "device" else set())
    for one in sent:
        assert set(one.content) == expected
        assert all(one.content[name] == sent[0].content[name] for name in expected - {"clients"})
    assert len({tuple(one.content["clients"]["ids"]) for one in sent}) == 4
    found = records.decode_ask(sent[0].content, CHANNELS)
    assert torch.equal(found.shared, own.state.x.float())
    assert found.second_moments is not None
    assert own.state.vbar is not None
    assert torch.equal(found.second_moments, own.state.vbar.float())


def int8_round(own: SelectiveStrategy, server_round: int) -> list[TrainReply]:
    """All clients answer, with what their rounding left; the round is closed."""
    replies = []
    for client in range(4):
        sent = own.channels.update.as_sent(delta(client, server_round), client, server_round)
        replies.append(replace(reply(client, server_round), delta=sent))
    outcome = own.close_round(server_round, [message(ONE_EACH[r.client], [r], own.channels) for r in replies])
    assert len(outcome.accepted) == 4
    return replies


def test_in_int8_both_ends_count_with_the_same_c() -> None:
    """What went down is what is taken off: C moves by sum n_i (Delta_i/(K_i eta) - c as it arrived)."""
    own = strategy(precision="int8")
    int8_round(own, 1)
    c = records.decode_ask(own.train_messages(2)[0].content, own.channels).control
    before = own.state.drift.control
    assert c is not None
    assert before is not None
    assert not torch.allclose(c.double(), before / 150, rtol=1e-3)
    replies = int8_round(own, 2)
    moved = sum(r.examples * (r.delta.double() / (r.steps * 0.15) - c.double()) for r in replies if r.delta is not None)
    assert own.state.drift.control is not None
    torch.testing.assert_close(own.state.drift.control, before + moved, rtol=1e-12, atol=0)


def test_in_int8_each_x_is_rounded_once() -> None:
    """Clients are asked for spectra at the x they trained from, and evaluate the x that the next round trains from."""
    own = strategy(precision="int8", drift_correction="none")

    def x(messages: Sequence[Message]) -> Tensor:
        return records.decode_ask(messages[0].content, own.channels).shared

    trained = x(own.train_messages(1))
    int8_round(own, 1)
    assert torch.equal(x(own.curvature_messages()), trained)
    assert torch.equal(x(own.evaluate_messages()), x(own.train_messages(2)))
    assert not torch.equal(x(own.train_messages(2)), own.state.x.float())


def asks(messages: Sequence[Message]) -> dict[int, Ask]:
    return {m.metadata.dst_node_id: records.decode_ask(m.content, CHANNELS) for m in messages}


def test_a_message_for_each_node_with_its_clients_and_their_last_accepted_rounds() -> None:
    own = strategy(IN_PAIRS)
    own.close_round(1, [message(100, [reply(0), reply(2)]), message(101, [TrainReply(1, 1, fault="no"), reply(3)])])
    own.close_round(2, [message(100, [reply(0, 2), reply(2, 2)])])
    found = asks(own.train_messages(3))
    assert set(found) == {100, 101}
    accepted = {client: r for a in found.values() for client, r in zip(a.clients, a.accepted, strict=True)}
    assert accepted == {0: 2, 1: 0, 2: 2, 3: 1}
    assert {node: sorted(a.clients) for node, a in found.items()} == {100: [0, 2], 101: [1, 3]}
    assert {(a.run, a.round, a.labels, a.layers, a.epoch) for a in found.values()} == {
        ("run-1", 3, ("no", "yes"), (1,), 0)
    }


def test_only_sampled_clients_are_asked_to_train_and_all_to_evaluate() -> None:
    own = strategy(per_round=2)
    train, everyone = asks(own.train_messages(1)), asks(own.evaluate_messages())
    assert {c for a in train.values() for c in a.clients} == set(own.sampled(1))
    assert {c for a in everyone.values() for c in a.clients} == set(EXAMPLES)
    assert {a.round for a in everyone.values()} == {0}


def test_who_is_sampled_follows_from_seed_and_round_alone() -> None:
    own = strategy(per_round=2)
    before = [own.sampled(r) for r in range(1, 20)]
    own.close_round(1, one_each(own.sampled(1)))
    assert [own.sampled(r) for r in range(1, 20)] == before
    assert all(len(set(asked)) == 2 for asked in before)
    assert len({tuple(asked) for asked in before}) > 3
    assert {client for asked in before for client in asked} == set(EXAMPLES)


# -- an update that is finite, and of which what is kept would not be ---------------------------------------


RELEASED: dict[str, Scalar] = {
    **{"drift_correction": "none", "server_optimizer": "none", "server_momentum": 0.9},
    **{"device_optimizer": "adam", "restart_moments": False},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"drift_correction": "server"},
        {"drift_correction": "server", "step_normalised": True},
        {"drift_correction": "device"},
        {"variant": "released", **RELEASED},
        {"variant": "released-aliased", **RELEASED},
    ],
)
def test_an_update_beyond_float32_after_its_scaling_is_refused_and_named(changes: dict[str, Scalar]) -> None:
    """The round goes on with the others, with their bits alone."""
    own, without = strategy(**changes), strategy(**changes)
    huge = replace(reply(1), delta=torch.full((LAYOUT.size,), -3e38))
    others = [client for client in EXAMPLES if client != 1]
    outcome = own.close_round(1, [message(101, [huge]), *one_each(others)])
    assert list(outcome.failed) == [1]
    assert outcome.failed[1].startswith("refused: its update of norm 1.27e+39 is too large")
    assert sorted(outcome.accepted) == others
    assert own.standing.strikes == {1: 1}
    without.close_round(1, one_each(others))
    assert torch.equal(own.state.x, without.state.x)
    assert torch.isfinite(own.state.x).all()
    assert own.close_round(2, one_each(EXAMPLES, 2)).failed == {}


def test_what_is_kept_of_the_released_arithmetic_adds_up_beyond_float32() -> None:
    """An update that alone is within it; and the row of a client that nobody knows is not looked for."""
    own = strategy(variant="released", **RELEASED)
    large = 3e38 * STEPS[1] * own.algorithm.eta  # type: ignore[attr-defined]
    for server_round, failed in ((1, []), (2, [1])):
        row = replace(reply(1, server_round), delta=torch.full((LAYOUT.size,), large))
        outcome = own.close_round(server_round, [message(101, [row]), *one_each([0, 2, 3], server_round)])
        assert list(outcome.failed) == failed
    strange = replace(reply(1, 3), client=10**6)
    assert own.close_round(3, [message(101, [strange])]).dropped == {10**6: 1}


def test_an_update_just_within_float32_after_its_scaling_counts() -> None:
    own = strategy(drift_correction="server")
    eta = own.algorithm.drift.eta  # type: ignore[attr-defined]
    large = replace(reply(1), delta=torch.full((LAYOUT.size,), 3.4e38 * eta))
    assert own.close_round(1, [message(101, [large])]).accepted == [1]


# -- evaluation, and Flower's verbs ------------------------------------------------------------------------


def evaluations(server_round: int, clients: Sequence[int] = (0, 1, 2, 3)) -> list[Exchange]:
    found = []
    for client in clients:
        asked = Message(RecordDict(), dst_node_id=ONE_EACH[client], message_type="evaluate")
        counts = Evaluation(10 * (client + 1), 4 * (client + 1), 1.0, 2 * (client + 1), 2.0)
        content = records.encode_evaluate_replies([EvaluateReply(client, server_round, "", counts)])
        found.append(Exchange(ONE_EACH[client], Message(content, reply_to=asked)))
    return found


def test_an_evaluation_collects_counts_in_the_order_of_clients() -> None:
    own = strategy()
    outcome = own.close_evaluation(reversed(evaluations(0, (0, 1, 3))))
    assert (outcome.accepted, outcome.missing) == ([0, 1, 3], [2])
    assert list(outcome.evaluations) == [0, 1, 3]
    assert outcome.evaluations[3].correct == 16
    late = own.close_evaluation(evaluations(5))
    assert set(late.failed) == {0, 1, 2, 3}


def test_flowers_verbs_are_the_same_rounds() -> None:
    """configure_train, aggregate_train, configure_evaluate, aggregate_evaluate, as Flower's own loop calls them."""
    own, other = strategy(per_round=3), strategy(per_round=3)
    for server_round in (1, 2):
        sent = list(own.configure_train(server_round, own.arrays(), ConfigRecord(), GRID))
        assert asks(sent).keys() == asks(other.train_messages(server_round)).keys()
        replies = one_each(own.sampled(server_round), server_round)
        other.close_round(server_round, replies)
        arrays, figures = own.aggregate_train(server_round, [exchange.reply for exchange in reversed(replies)])
        assert torch.equal(own.state.x, other.state.x)
        assert isinstance(arrays, ArrayRecord)
        assert {name: array.shape for name, array in arrays.items()} == {"prompt.1": (2, 1, 2, 3), "head.w": (2, 3)}
        whole = LAYOUT.flatten({name: torch.from_numpy(array.numpy()) for name, array in arrays.items()})
        assert torch.equal(whole, own.state.x.float())
        assert figures is not None
        assert (figures["replies"], figures["failed"], figures["missing"]) == (3, 0, 0)
    assert len(list(own.configure_evaluate(2, own.arrays(), ConfigRecord(), GRID))) == 4
    metrics = own.aggregate_evaluate(2, [exchange.reply for exchange in evaluations(2)])
    assert metrics is not None
    assert dict(metrics) == {"personalised_accuracy": 0.4, "shared_accuracy": 0.2}
    assert own.aggregate_evaluate(2, []) is None
    own.summary()

"""The roll call: what follows from the answers, and every answer with which no run may start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from flwr.app import Context, Message

from federation import records
from federation.grids import InProcessGrid
from federation.messages import RollCallReply
from federation.settings import Settings, parse
from fedpeptao.errors import InputError, RunError
from server_app import roll_call
from server_app.roll_call import MOST_LABELS, RollCall
from strategies.roster import Cohort
from tests.small_runs import Flat

MakeFlat = Callable[..., Flat]
GOOD = {i: RollCallReply(i, 10 + i, 3, 2, ["b", "a"], "hash", scores=[1.0 + i, 2.0]) for i in range(5)}


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat())


def grid_of(answers: dict[int, list[RollCallReply]]) -> InProcessGrid:
    """Nodes 1000, 1001, .. that give these answers."""

    def app(message: Message, context: Context) -> Message:
        return Message(records.encode_roll_call_replies(answers[context.node_id]), reply_to=message)

    return InProcessGrid(app, {}, len(answers))


def two_nodes(replies: dict[int, RollCallReply] = GOOD) -> dict[int, list[RollCallReply]]:
    return {1000 + k: [r for client, r in replies.items() if client % 2 == k] for k in (0, 1)}


def found(**changes: object) -> RollCall:
    """Of a model of three layers."""
    third = {i: replace(reply, scores=[*reply.scores, 0.5]) for i, reply in GOOD.items()}
    return RollCall({i: replace(r, **changes) for i, r in third.items()}, dict.fromkeys(GOOD, 1000))  # type: ignore[arg-type]


# -- the call ----------------------------------------------------------------------------------------------


def test_everybody_is_found_where_it_lives(settings: Settings) -> None:
    heard = roll_call.call(grid_of(two_nodes()), settings, "run", score=False)
    assert heard.replies == GOOD
    assert heard.nodes == {0: 1000, 2: 1000, 4: 1000, 1: 1001, 3: 1001}
    steps = sum((10 + i) * GOOD[i].steps for i in range(5)) / 60
    assert heard.cohort == Cohort(clients=5, examples=60, mean_steps=pytest.approx(steps))


@pytest.mark.parametrize("wanted", [True, False])
def test_scores_are_asked_for_where_they_decide(make_flat: MakeFlat, wanted: bool) -> None:
    asked = []

    def app(message: Message, context: Context) -> Message:
        asked.append(records.decode_roll_call(message.content))
        return Message(records.encode_roll_call_replies(list(GOOD.values())), reply_to=message)

    roll_call.call(InProcessGrid(app, {}, 1), parse(make_flat()), "run-9", score=wanted)
    assert [(a.run, a.score) for a in asked] == [("run-9", wanted)]


def test_missing_clients_are_counted_and_named(settings: Settings) -> None:
    some = {i: r for i, r in GOOD.items() if i not in (1, 4)}
    with pytest.raises(RunError, match=r"2 of 5 clients did not answer the roll call: 1, 4; .* set min-clients to"):
        roll_call.call(grid_of(two_nodes(some)), settings, "run", score=False)


def test_many_missing_clients_are_not_all_named(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(clients=40))
    with pytest.raises(RunError, match=r"35 of 40 clients .*: 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, \.\.; start"):
        roll_call.call(grid_of(two_nodes()), settings, "run", score=False)


def test_a_client_on_two_nodes_is_refused(settings: Settings) -> None:
    answers = two_nodes()
    answers[1001].append(GOOD[2])
    with pytest.raises(RunError, match="client 2 lives on two nodes: give each node its own partition-id"):
        roll_call.call(grid_of(answers), settings, "run", score=False)


def test_a_fault_stops_the_run_with_its_reason(settings: Settings) -> None:
    one = {**GOOD, 3: RollCallReply(3, fault="it has no training examples")}
    with pytest.raises(InputError) as caught:
        roll_call.call(grid_of(two_nodes(one)), settings, "run", score=False)
    assert (caught.value.key, caught.value.value) == ("clients", 5)
    assert caught.value.problem == "client 3 is at fault: it has no training examples"
    two = {**one, 1: RollCallReply(1, fault="no such label")}
    with pytest.raises(InputError, match=r"client 1 is at fault \(2 clients in all: 1, 3\): no such label"):
        roll_call.call(grid_of(two_nodes(two)), settings, "run", score=False)


def test_different_data_stop_the_run(settings: Settings) -> None:
    with pytest.raises(InputError, match="clients hold 2 different versions of it") as caught:
        roll_call.call(grid_of(two_nodes({**GOOD, 4: replace(GOOD[4], data="other")})), settings, "run", score=False)
    assert caught.value.key == "dataset"


def test_a_node_that_raises_stops_the_run_with_its_last_words(settings: Settings) -> None:
    def app(message: Message, context: Context) -> Message:
        raise OSError("Traceback\n  File\nOSError: no such model")

    with pytest.raises(RunError, match=r"node 1000 failed in the roll call \(code 2\): OSError: no such model$"):
        roll_call.call(InProcessGrid(app, {}, 2), settings, "run", score=False)


def test_an_answer_that_cannot_be_read_stops_the_run(settings: Settings) -> None:
    def app(message: Message, context: Context) -> Message:
        content = records.encode_roll_call_replies([GOOD[0]])
        content["client.0"]["examples"] = "many"
        return Message(content, reply_to=message)

    with pytest.raises(RunError, match="node 1000 answered the roll call with what cannot be read: examples"):
        roll_call.call(InProcessGrid(app, {}, 1), settings, "run", score=False)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"examples": 0, "steps": 0}, "client 1 has 0 training and 3 evaluation examples"),
        ({"examples": -8, "steps": -1}, "client 1 has -8 training"),
        ({"examples": 61, "steps": 8}, "61 training and 3 evaluation examples, the data set 60 and 20"),
        ({"examples": 10**12, "steps": 10**12 // 8}, "1000000000000 training"),
        ({"validation_examples": 21}, "client 1 has 11 training and 21 evaluation examples"),
        ({"validation_examples": -1, "commonest": -1}, "commonest = -1 of -1"),
        ({"steps": 0}, "client 1 takes 0 steps a round, by the settings 2"),
        ({"steps": 10**9}, "client 1 takes 1000000000 steps a round, by the settings 2"),
        ({"scores": [1.0, float("nan")]}, "client 1 has layer scores that are not finite"),
        ({"scores": [1.0]}, "client 1 has 1 layer scores, the model 2 layers"),
        ({"labels": [str(i) for i in range(MOST_LABELS + 1)]}, "client 1 has 10001 labels, and 10000 are believed"),
    ],
)
def test_impossible_numbers_stop_the_run(settings: Settings, wrong: dict[str, object], why: str) -> None:
    bad = {**GOOD, 1: replace(GOOD[1], **wrong)}  # type: ignore[arg-type]
    with pytest.raises(RunError, match=f"node 1001 answered .* cannot be read: .*{why}"):
        roll_call.call(grid_of(two_nodes(bad)), settings, "run", score=False)


@pytest.mark.parametrize("client", [5, -1, 10**9])
def test_a_client_that_does_not_exist_stops_the_run(settings: Settings, client: int) -> None:
    answers = two_nodes()
    answers[1001].append(RollCallReply(client, 10, 3, 2, ["a"], "hash"))
    with pytest.raises(RunError, match=f"there is no client {client}"):
        roll_call.call(grid_of(answers), settings, "run", score=False)


def test_an_answer_over_the_limit_stops_the_run(make_flat: MakeFlat) -> None:
    long = {**GOOD, 1: replace(GOOD[1], labels=["a" * 2**20, "b"])}
    roll_call.call(grid_of(two_nodes(long)), parse(make_flat(message_limit_mb=3)), "run", score=False)
    with pytest.raises(RunError, match=r"node 1001 .*message-limit-mb"):
        roll_call.call(grid_of(two_nodes(long)), parse(make_flat(message_limit_mb=1)), "run", score=False)


def test_without_nodes_it_waits_no_longer_than_the_deadline(make_flat: MakeFlat) -> None:
    with pytest.raises(RunError, match=r"no node came online within 0.1 s"):
        roll_call.call(grid_of({}), parse(make_flat(round_timeout_s=0.1)), "run", score=False)


def test_nodes_without_clients_do_no_harm(settings: Settings) -> None:
    answers = {1000: list(GOOD.values()), 1001: []}
    assert set(roll_call.call(grid_of(answers), settings, "run", score=False).nodes.values()) == {1000}


# -- labels ------------------------------------------------------------------------------------------------


def test_labels_are_the_sorted_union(settings: Settings) -> None:
    heard = found()
    heard.replies[2] = replace(GOOD[2], labels=["c", "a"])
    assert roll_call.agree_labels(settings, heard) == ("a", "b", "c")


def test_numbers_sort_as_numbers(settings: Settings) -> None:
    assert roll_call.agree_labels(settings, found(labels=["10", "9", "0"])) == ("0", "9", "10")


def test_the_setting_gives_their_order_and_may_name_more(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(labels="c, b ,a"))
    assert roll_call.agree_labels(settings, found()) == ("c", "b", "a")


def test_a_label_that_the_setting_lacks_is_refused(make_flat: MakeFlat) -> None:
    heard = found()
    heard.replies[3] = replace(GOOD[3], labels=["a", "A "])
    with pytest.raises(InputError) as caught:
        roll_call.agree_labels(parse(make_flat(labels="a,c")), heard)
    assert (caught.value.key, caught.value.value) == ("labels", "a,c")
    assert caught.value.problem == "clients also have 'A ' (client 3 on node 1000), b (4 clients: 0, 1, 2, 4)"


def test_how_many_clients_have_each_class_is_shown(make_flat: MakeFlat, shown: list[str]) -> None:
    heard = found()
    heard.replies[3] = replace(GOOD[3], labels=["a"])
    roll_call.agree_labels(parse(make_flat(labels="c,b,a")), heard)
    assert shown == ["Classes, and how many of 5 clients have each: c (0), b (4), a (5)"]


def test_names_that_may_be_meant_for_one_class_are_warned_of(
    settings: Settings, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    heard = found(labels=["negative", "positive"])
    heard.replies[1] = replace(GOOD[1], labels=["Negative", "positive"])
    heard.replies[4] = replace(GOOD[4], labels=["negative ", "positive"])
    assert len(roll_call.agree_labels(settings, heard)) == 4
    who = "Negative (client 1 on node 1000), negative (3 clients: 0, 2, 3), 'negative ' (client 4 on node 1000)"
    assert shown[1:] == [
        f"Classes that differ only by case or blanks: {who}",
        "  Names that are meant for one class have to be the same in the data of all clients",
    ]
    (told,) = [record for record in caplog.records if record.getMessage() == "classes alike"]
    assert told.levelname == "WARNING"
    assert told.fields["classes"] == {"Negative": [1], "negative": [0, 2, 3], "negative ": [4]}  # type: ignore[attr-defined]


def test_classes_alike_are_no_flood_and_those_named_by_hand_are_meant(make_flat: MakeFlat, shown: list[str]) -> None:
    names = [name for i in range(7) for name in (f"a{i}", f"A{i}")]
    roll_call.agree_labels(parse(make_flat()), found(labels=names))
    assert len(shown) == 1 + 5 + 1
    assert shown[-1].startswith("  2 more are alike. ")
    roll_call.agree_labels(parse(make_flat(labels=",".join(names))), found(labels=names))
    assert len(shown) == 7 + 1


@pytest.mark.parametrize(("setting", "seen"), [("", ["a"]), ("a", ["a"]), ("a,b,a", ["a", "b"])])
def test_fewer_than_two_different_labels_are_refused(make_flat: MakeFlat, setting: str, seen: list[str]) -> None:
    with pytest.raises(InputError, match="at least two different ones") as caught:
        roll_call.agree_labels(parse(make_flat(labels=setting)), found(labels=seen))
    assert caught.value.key == "labels"


def test_more_labels_than_are_believed_have_to_be_named(make_flat: MakeFlat) -> None:
    """No client has too many, but all together do."""
    heard, half = found(), MOST_LABELS // 2 + 1
    names = [f"a{i}" for i in range(2 * half)]
    heard.replies[1], heard.replies[2] = (replace(GOOD[1], labels=part) for part in (names[:half], names[half:]))
    with pytest.raises(InputError, match=r"have 10004 different labels, and 10000 are believed\. Check label-column"):
        roll_call.agree_labels(parse(make_flat()), heard)
    named = parse(make_flat(labels=",".join([*names, "a", "b"])))
    assert len(roll_call.agree_labels(named, heard)) == 10004
    many = replace(GOOD[1], labels=names)
    assert roll_call.call(grid_of(two_nodes({**GOOD, 1: many})), named, "run", score=False).replies[1] == many


# -- layers ------------------------------------------------------------------------------------------------


def test_auto_takes_the_best_by_the_weighted_mean(make_flat: MakeFlat) -> None:
    """Weights 10 .. 14 of 60: the first layer has 3.17 on average, the others 2 and 0.5."""
    mean = sum((10 + i) * (1.0 + i) for i in range(5)) / 60
    for ratio, order, layers in (
        (0.34, "highest", (0, 1)),
        (0.3, "highest", (0,)),
        (0.3, "lowest", (2,)),
        (1.0, "highest", (0, 1, 2)),
    ):
        settings = parse(make_flat(ratio=ratio, score_order=order))
        scores = roll_call.layer_scores(settings, found())
        assert scores == pytest.approx([mean, 2.0, 0.5])
        assert roll_call.select_layers(settings, scores, ratio, 3) == layers


def test_the_order_in_which_clients_answered_changes_no_bit(settings: Settings) -> None:
    heard = found()
    for client, zeta in {0: 0.1, 1: 1e9, 2: 0.7, 3: -1e9, 4: 0.3}.items():
        heard.replies[client] = replace(GOOD[client], scores=[zeta, 1 / (client + 3), 0.5])
    means = [
        roll_call.layer_scores(settings, RollCall({client: heard.replies[client] for client in order}, heard.nodes))
        for order in permutations(heard.replies)
    ]
    assert all(mean == means[0] for mean in means)


def test_random_layers_follow_from_the_seed(make_flat: MakeFlat) -> None:
    chosen = [
        roll_call.select_layers(parse(make_flat(score_order="random", seed=seed)), [1.0] * 24, 0.5, 24)
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 12


def test_clients_without_scores_are_left_out_and_none_at_all_is_refused(settings: Settings) -> None:
    heard = found(scores=[])
    with pytest.raises(InputError, match="no client has 8 different training examples for a score") as caught:
        roll_call.layer_scores(settings, heard)
    assert caught.value.key == "layers"
    heard.replies[4] = GOOD[4]
    assert roll_call.layer_scores(settings, heard) == [5.0, 2.0]


def test_where_no_loss_has_a_gradient_it_is_said(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(score="perturbation"))
    with pytest.raises(InputError, match="no client has examples whose loss has a gradient for a score"):
        roll_call.layer_scores(settings, found(scores=[]))


@pytest.mark.parametrize(("setting", "chosen"), [("all", (0, 1, 2)), ("2,0", (0, 2)), ("1", (1,)), (" 2 , 2", (2,))])
def test_layers_by_hand_need_no_scores(make_flat: MakeFlat, setting: str, chosen: tuple[int, ...]) -> None:
    settings = parse(make_flat(layers=setting))
    assert roll_call.layer_scores(settings, found(scores=[])) is None
    assert roll_call.select_layers(settings, None, 0.5, 3) == chosen


def test_no_such_layer(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(layers="1,3"))
    for check in (lambda: roll_call.check_layers(settings, 3), lambda: roll_call.select_layers(settings, None, 0.5, 3)):
        with pytest.raises(InputError, match="random:bert has layers 0 to 2") as caught:
            check()
        assert (caught.value.key, caught.value.value) == ("layers", "1,3")
    roll_call.check_layers(settings, 4)

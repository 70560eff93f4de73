"""Every message through Flower's serialisation and back, and every way in which one can be wrong."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from federation import records
from federation.channels import Channels, make_channels
from federation.messages import (
    Ask,
    EvaluateReply,
    Evaluation,
    MessageError,
    RollCallAsk,
    RollCallReply,
    TrainReply,
)
from federation.settings import defaults, parse
from federation.squeezing import squeeze, unsqueeze
from models.layout import Entry, Layout

LAYOUT = Layout((Entry("prompt.1", 1, (2, 1, 2, 3), 2), Entry("head.w", None, (2, 3)), Entry("head.b", None, (2,))))
BLOCKS = len(LAYOUT.blocks)


def channels(precision: str = "float32") -> Channels:
    return make_channels(parse({**defaults(), "precision": precision}), LAYOUT)


CHANNELS = channels()


def row(seed: int = 0) -> torch.Tensor:
    return torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def over_the_wire(content: RecordDict) -> RecordDict:
    """As Flower does: a protobuf message, bytes, and back."""
    message = Message(content, dst_node_id=7, message_type="train")
    data = message_to_proto(message).SerializeToString()
    return message_from_proto(MessageProto.FromString(data)).content


def ask(control: bool = True, moments: bool = True) -> Ask:
    return Ask(
        run="run-1",
        round=4,
        labels=("no", "yes: ä"),
        layers=(1,),
        clients=(3, 12),
        accepted=(0, 3),
        epoch=2,
        warm_up=True,
        shared=row(),
        control=row(1) if control else None,
        second_moments=torch.linspace(0, 1, BLOCKS) if moments else None,
    )


def reply(client: int = 3, moments: bool = True) -> TrainReply:
    return TrainReply(
        client=client,
        round=4,
        examples=10,
        steps=3,
        train_loss=0.5,
        control_round=2,
        evaluation=Evaluation(5, 3, 1.25, 2, 1.5),
        delta=row(client),
        second_moments=torch.linspace(1, 2, BLOCKS) if moments else None,
    )


def same(a: object, b: object) -> None:
    """Equal field by field, tensors bit by bit."""
    assert type(a) is type(b)
    assert vars(a).keys() == vars(b).keys()
    for key, value in vars(a).items():
        other = vars(b)[key]
        if isinstance(value, torch.Tensor):
            assert isinstance(other, torch.Tensor), key
            assert torch.equal(value, other), key
        else:
            assert value == other, key


# -- there and back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [True, False])
def test_the_roll_call(score: bool) -> None:
    asked = RollCallAsk(run="run-1", score=score)
    assert records.decode_roll_call(over_the_wire(records.encode_roll_call(asked))) == asked


def test_the_roll_calls_answers() -> None:
    answers = [
        RollCallReply(3, 20, 5, 6, ["a", "b"], "hash", scores=[1.5, -2.0]),
        RollCallReply(7, fault="it has no training examples"),
    ]
    assert records.decode_roll_call_replies(over_the_wire(records.encode_roll_call_replies(answers))) == answers


@pytest.mark.parametrize(("control", "moments"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_question(control: bool, moments: bool) -> None:
    asked = ask(control, moments)
    content = over_the_wire(records.encode_ask(asked, CHANNELS))
    same(records.decode_ask(content, CHANNELS), asked)
    header = records.decode_header(content)
    assert vars(header) == {key: vars(asked)[key] for key in vars(header)}


def test_training_answers_with_a_fault_among_them() -> None:
    answers = [reply(3), reply(12, moments=False), TrainReply(5, 4, fault="ValueError: no")]
    content = over_the_wire(records.encode_train_replies(answers, CHANNELS))
    for found, sent in zip(records.decode_train_replies(content, CHANNELS), answers, strict=True):
        same(found, sent)


def test_evaluation_answers() -> None:
    answers = [EvaluateReply(3, 4, "", Evaluation(5, 3, 1.25, 2, 1.5)), EvaluateReply(4, 4, "ValueError: no")]
    assert records.decode_evaluate_replies(over_the_wire(records.encode_evaluate_replies(answers))) == answers


def test_half_precision_rounds_what_travels_but_not_the_moments() -> None:
    half, asked = channels("float16"), ask()
    found = records.decode_ask(over_the_wire(records.encode_ask(asked, half)), half)
    assert torch.equal(found.shared, asked.shared.half().float())
    assert found.control is not None
    assert asked.control is not None
    assert torch.equal(found.control, asked.control.half().float())
    assert found.second_moments is not None
    assert asked.second_moments is not None
    assert torch.equal(found.second_moments, asked.second_moments)


def test_the_order_of_arrays_in_a_record_does_not_matter() -> None:
    content = records.encode_ask(ask(), CHANNELS)
    shared = content.array_records["shared"]
    content["shared"] = ArrayRecord({name: shared[name] for name in reversed(list(shared))})
    same(records.decode_ask(over_the_wire(content), CHANNELS), ask())


def test_another_address_shares_all_records_but_one() -> None:
    content = records.encode_ask(ask(), CHANNELS)
    other = records.address(content, [9], [1])
    assert content["clients"]["ids"] == [3, 12]
    assert other["clients"] == ConfigRecord({"ids": [9], "accepted": [1]})
    assert set(other) == set(content)
    assert all(other[name] is content[name] for name in content if name != "clients")


# -- wrong arrays ------------------------------------------------------------------------------------------

Change = Callable[[ArrayRecord], ArrayRecord]


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda arrays: ArrayRecord({**arrays, name: Array(change(arrays[name].numpy()))})


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == 1, value, array).astype(array.dtype)


def pickled() -> Array:
    """An .npy file that numpy would only read by unpickling, which executes what it finds."""
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return Array("object", (2,), "numpy.ndarray", file.getvalue())


def framed(dtype: str, shape: tuple[int, ...], payload: bytes = b"") -> Array:
    """A header of the sender's choice before bytes of the sender's choice."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return Array(dtype, (2,), "numpy.ndarray", file.getvalue() + payload)


def with_array(name: str, array: Array) -> Change:
    return lambda arrays: ArrayRecord({**arrays, name: array})


BAD_ARRAYS: dict[str, tuple[Change, str]] = {
    "missing": (lambda a: ArrayRecord({k: v for k, v in a.items() if k != "head.b"}), "names.*head.b"),
    "unknown": (lambda a: ArrayRecord({**a, "prompt.0": a["prompt.1"]}), "names.*prompt.0"),
    "renamed": (lambda a: ArrayRecord({"x" + k: v for k, v in a.items()}), "names"),
    "empty": (lambda a: ArrayRecord({}), "names"),
    "shape": (changed("head.w", lambda v: v.T.copy()), r"head.w .*shape \(3, 2\), not \(2, 3\)"),
    "flat": (changed("prompt.1", lambda v: v.reshape(-1)), "prompt.1 .*shape"),
    "too large": (changed("head.b", lambda v: np.zeros(3, np.float32)), "head.b .*shape"),
    "float64": (changed("head.w", lambda v: v.astype(np.float64)), "head.w .*float64.*precision"),
    "float16": (changed("head.w", lambda v: v.astype(np.float16)), "head.w .*float16.*precision"),
    "integers": (changed("head.w", lambda v: v.astype(np.int32)), "head.w .*int32"),
    "NaN": (changed("prompt.1", with_value(float("nan"))), "prompt.1 .*not finite"),
    "infinite": (changed("head.b", with_value(float("-inf"))), "head.b .*not finite"),
    "no npy": (lambda a: ArrayRecord({**a, "head.b": Array("float32", (2,), "numpy.ndarray", b"nonsense")}), "head.b"),
    "pickled": (with_array("head.b", pickled()), "head.b .*object"),
    "no bytes": (with_array("head.b", Array("float32", (2,), "numpy.ndarray", b"")), "head.b .*no array"),
    "a header alone": (with_array("head.b", framed("<f4", (2,))), "head.b .* 0 bytes are not 2 numbers"),
    "bytes after the end": (with_array("head.b", framed("<f4", (2,), bytes(12))), "head.b .* 12 bytes"),
    "a terabyte by its header": (with_array("head.b", framed("<f4", (2**38,))), "head.b .*shape"),
    "other byte order": (with_array("head.b", framed(">f4", (2,), bytes(8))), "head.b .*>f4"),
    "columns first": (changed("head.w", np.asfortranarray), "head.w .*C order"),
    "a later version": (
        with_array("head.b", Array("float32", (2,), "numpy.ndarray", b"\x93NUMPY\x03\x00" + bytes(100))),
        "head.b .*version",
    ),
    "brackets": (
        with_array("head.b", Array("f", (2,), "numpy.ndarray", b"\x93NUMPY\x01\x00\xf0\x01" + b"(" * 496)),
        "head.b .*no array",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("record", ["shared", "control"])
def test_wrong_arrays_in_a_question_are_refused(case: str, record: str) -> None:
    change, message = BAD_ARRAYS[case]
    content = records.encode_ask(ask(), CHANNELS)
    content[record] = change(content.array_records[record])
    with pytest.raises(MessageError, match=message):
        records.decode_ask(over_the_wire(content), CHANNELS)


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_in_an_answer_are_that_clients_fault(case: str) -> None:
    """The other client of the node keeps its answer."""
    change, message = BAD_ARRAYS[case]
    content = records.encode_train_replies([reply(3), reply(12)], CHANNELS)
    content["update.3"] = change(content.array_records["update.3"])
    bad, good = records.decode_train_replies(over_the_wire(content), CHANNELS)
    assert (bad.client, bad.round, bad.delta) == (3, 4, None)
    assert bad.fault.startswith("refused: ")
    assert re.search(message, bad.fault)
    same(good, reply(12))


BAD_MOMENTS = {
    "too few": np.ones(BLOCKS - 1, np.float32),
    "a matrix": np.ones((BLOCKS, 1), np.float32),
    "negative": np.full(BLOCKS, -1e-9, np.float32),
    "NaN": np.full(BLOCKS, np.nan, np.float32),
    "float64": np.ones(BLOCKS),
}


@pytest.mark.parametrize("case", BAD_MOMENTS)
def test_wrong_second_moments_are_refused(case: str) -> None:
    bad = ArrayRecord({"values": Array(BAD_MOMENTS[case])})
    question = records.encode_ask(ask(), CHANNELS)
    question["moments"] = bad
    with pytest.raises(MessageError, match="'moments' is not 4 finite float32"):
        records.decode_ask(over_the_wire(question), CHANNELS)
    answer = records.encode_train_replies([reply(3)], CHANNELS)
    answer["moments.3"] = bad
    assert "'moments.3' is not 4 finite" in records.decode_train_replies(answer, CHANNELS)[0].fault


def test_second_moments_under_another_name_are_refused() -> None:
    question = records.encode_ask(ask(), CHANNELS)
    question["moments"] = ArrayRecord({"v": Array(np.ones(BLOCKS, np.float32))})
    with pytest.raises(MessageError, match="does not hold one vector"):
        records.decode_ask(question, CHANNELS)


def recoded(name: str, size: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """The codes of one array of `size` int8 numbers changed, and squeezed again."""
    form = np.dtype(np.int8), (size,)
    return changed(name, lambda coded: squeeze(change(unsqueeze(coded, *form))))


BAD_INT8: dict[str, tuple[Change, str]] = {
    "a scale too large": (recoded("head.b", 3, lambda v: np.array([127, 1, 1], np.int8)), "head.b .*scale"),
    "a scale too small": (
        recoded("prompt.1", 13, lambda v: np.where(np.arange(13) == 0, -128, v).astype(np.int8)),
        "scale",
    ),
    "no number": (recoded("head.b", 3, lambda v: np.array([0, -128, 1], np.int8)), "head.b .*not finite"),
    "a scale missing": (recoded("head.b", 3, lambda v: v[1:]), "head.b .*not that of 3 numbers of int8"),
    "a scale too many": (recoded("head.b", 3, lambda v: np.append(v, v[:1])), "head.b .*not that of 3 numbers"),
    "a code of far more": (changed("head.b", lambda v: squeeze(np.zeros(10**6, np.int8))), "head.b .*bytes of code"),
    "a small code of far more": (
        changed("head.b", lambda v: np.frombuffer(zlib.compress(bytes(10**4), 9, -15), np.uint8)),
        "head.b .*not that of 3 numbers",
    ),
    "a code cut short": (changed("prompt.1", lambda v: v[:-3]), "prompt.1 .*code"),
    "something behind it": (changed("head.b", lambda v: np.append(v, v[:1])), "head.b .*not that of 3 numbers"),
    "no code": (changed("head.b", lambda v: np.full(7, 255, np.uint8)), "head.b .*cannot be read"),
    "not squeezed": (changed("head.b", lambda v: np.array([0, 1, 1], np.int8)), "head.b .*int8 arrived where uint8"),
    "a square": (changed("head.b", lambda v: np.zeros((2, 2), np.uint8)), "head.b .*shape"),
    "float32": (changed("head.b", lambda v: v.astype(np.float32)), "head.b .*float32 .*uint8"),
}


@pytest.mark.parametrize("case", BAD_INT8)
def test_wrong_int8_arrays_are_refused(case: str) -> None:
    change, message = BAD_INT8[case]
    content = records.encode_ask(ask(), channels("int8"))
    content["control"] = change(content.array_records["control"])
    with pytest.raises(MessageError, match=message):
        records.decode_ask(over_the_wire(content), channels("int8"))


def test_int8_arrives_as_it_was_rounded() -> None:
    """Both ends hold the same bits, though only one has drawn lots."""
    own = channels("int8")
    asked = replace(ask(), shared=own.model.as_sent(row(), 7), control=own.control.as_sent(row(1), 7))
    same(records.decode_ask(over_the_wire(records.encode_ask(asked, own)), own), asked)
    answered = replace(reply(), delta=own.update.as_sent(row(2), 3, 7))
    (found,) = records.decode_train_replies(over_the_wire(records.encode_train_replies([answered], own)), own)
    same(found, answered)


def test_an_array_of_another_precision_is_refused() -> None:
    content = records.encode_ask(ask(), channels("float16"))
    with pytest.raises(MessageError, match="float16 arrived where float32 was agreed on"):
        records.decode_ask(content, CHANNELS)


# -- wrong records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["round", "clients", "shared"])
def test_a_question_without_one_of_its_records_is_refused(record: str) -> None:
    content = records.encode_ask(ask(), CHANNELS)
    del content[record]
    with pytest.raises(MessageError, match=f"no .*record '{record}'"):
        records.decode_ask(over_the_wire(content), CHANNELS)


@pytest.mark.parametrize(
    ("record", "key", "value"),
    [
        ("round", "schema", 1),
        ("round", "schema", "1"),
        ("round", "round", 1.0),
        ("round", "round", True),
        ("round", "run", 3),
        ("round", "epoch", "0"),
        ("round", "labels", "yes"),
        ("round", "labels", [1, 2]),
        ("round", "layers", [0.5]),
        ("clients", "ids", []),
        ("clients", "ids", [1, 2, 3]),
        ("clients", "ids", ["1", "2"]),
        ("clients", "accepted", [True, False]),
    ],
)
def test_a_question_with_a_wrong_value_is_refused(record: str, key: str, value: object) -> None:
    content = records.encode_ask(ask(), CHANNELS)
    content[record][key] = value
    with pytest.raises(MessageError):
        records.decode_ask(over_the_wire(content), CHANNELS)


def test_the_message_of_another_schema_says_what_to_do() -> None:
    content = records.encode_roll_call(RollCallAsk("run-1", True))
    content["ask"]["schema"] = 1
    with pytest.raises(MessageError, match="schema 1, this end speaks 3: run one version on both ends"):
        records.decode_roll_call(content)


@pytest.mark.parametrize(("key", "value"), [("client", "3"), ("examples", 1.5), ("labels", [1]), ("scores", [1])])
def test_an_answer_to_the_roll_call_with_a_wrong_value_is_refused(key: str, value: object) -> None:
    content = records.encode_roll_call_replies([RollCallReply(3, labels=["a"], scores=[1.0])])
    content["client.3"][key] = value
    with pytest.raises(MessageError, match=key):
        records.decode_roll_call_replies(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"examples": 0},
        {"examples": -4},
        {"steps": 0},
        {"steps": -1},
        {"train_loss": float("nan")},
        {"train_loss": float("inf")},
        {"train_loss": -0.1},
        {"evaluation": Evaluation(5, 3, -1.0)},
        {"evaluation": Evaluation(5, 3, 1.0, 2, float("-inf"))},
        {"evaluation": Evaluation(-1, 0, 0.0)},
        {"evaluation": Evaluation(5, -1, 1.0)},
        {"evaluation": Evaluation(5, 6, 1.0)},
        {"evaluation": Evaluation(5, 3, 1.0, shared_correct=6)},
        {"delta": None},
    ],
    ids=str,
)
def test_impossible_numbers_in_an_answer_are_that_clients_fault(wrong: dict[str, object]) -> None:
    content = records.encode_train_replies([replace(reply(3), **wrong), reply(12)], CHANNELS)  # type: ignore[arg-type]
    bad, good = records.decode_train_replies(over_the_wire(content), CHANNELS)
    assert bad.client == 3
    assert bad.fault.startswith("refused: ")
    assert bad.evaluation == Evaluation()
    same(good, reply(12))


@pytest.mark.parametrize("wrong", [Evaluation(-1, 0, 0.0), Evaluation(5, 6, 1.0), Evaluation(5, 3, 1.0, -1)], ids=str)
def test_impossible_counts_in_an_evaluation_are_that_clients_fault(wrong: Evaluation) -> None:
    good = EvaluateReply(12, 4, "", Evaluation(5, 3, 1.25, 2, 1.5))
    content = records.encode_evaluate_replies([EvaluateReply(3, 4, "", wrong), good])
    bad, other = records.decode_evaluate_replies(over_the_wire(content))
    assert (bad.client, bad.evaluation) == (3, Evaluation())
    assert bad.fault.startswith("refused: ")
    assert other == good


MATRIX = {"confusion": (2, 1, 0, 1, 0, 0, 1, 0, 0), "shared_confusion": (0, 1, 2, 0, 2, 0, 0, 0, 0)}
JUDGED = Evaluation(5, 2, 1.25, 2, 1.5, **MATRIX)


def judged(**values: object) -> RecordDict:
    """An answer with these values in place of the right ones; None: absent."""
    content = records.encode_evaluate_replies([EvaluateReply(3, 4, "", JUDGED), EvaluateReply(12, 4, "", JUDGED)])
    record = {**content["evaluation.3"], **values}
    content["evaluation.3"] = ConfigRecord({key: value for key, value in record.items() if value is not None})  # type: ignore[misc]
    return over_the_wire(content)


def test_confusion_matrices_there_and_back() -> None:
    assert [found.evaluation for found in records.decode_evaluate_replies(judged(), 3)] == [JUDGED, JUDGED]
    own = replace(reply(3), evaluation=replace(JUDGED, shared_confusion=()))
    content = over_the_wire(records.encode_train_replies([own], CHANNELS))
    same(records.decode_train_replies(content, CHANNELS, 3)[0], own)


@pytest.mark.parametrize("key", ["confusion", "shared_confusion"])
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        [1, 1, 1, 1],
        [2, 4, -1, 0, 0, 0, 0, 0, 0],
        [3, 0, 0, 0, 0, 1, 0, 0, 1],
        [2, 1, 0, 0, 0, 0, 0, 0, 0],
        [0.5] * 9,
        "2",
    ],
    ids=str,
)
def test_a_wrong_confusion_matrix_is_that_clients_fault(key: str, wrong: object) -> None:
    """Absent, of other classes, negative, other examples right, other examples, no whole numbers."""
    bad, good = records.decode_evaluate_replies(judged(**{key: wrong}), 3)
    assert (bad.client, bad.evaluation) == (3, Evaluation())
    assert re.match(rf"refused: .*\b{key}\b", bad.fault)
    assert good.evaluation == JUDGED


def test_a_confusion_matrix_that_was_not_asked_for_is_refused() -> None:
    assert "confusion was not asked for" in records.decode_evaluate_replies(judged())[0].fault
    content = records.encode_train_replies([replace(reply(3), evaluation=JUDGED)], CHANNELS)
    assert "shared_confusion was not asked for" in records.decode_train_replies(content, CHANNELS, 3)[0].fault


@pytest.mark.parametrize("commonest", [-1, 6])
def test_impossible_counts_of_the_commonest_label_are_refused(commonest: int) -> None:
    content = records.encode_roll_call_replies([RollCallReply(3, 20, 5, commonest=commonest)])
    with pytest.raises(MessageError, match=f"commonest = {commonest} of 5"):
        records.decode_roll_call_replies(content)


def test_a_diverged_models_evaluation_is_no_fault() -> None:
    """Its loss is not a number, and what it gets right still counts."""
    sent = EvaluateReply(3, 4, "", Evaluation(5, 1, float("nan"), 1, float("inf")))
    (found,) = records.decode_evaluate_replies(over_the_wire(records.encode_evaluate_replies([sent])))
    assert (found.fault, found.evaluation.correct) == ("", 1)
    assert np.isnan(found.evaluation.loss_sum)


@pytest.mark.parametrize("record", ["evaluation.3", "update.3"])
def test_an_answer_without_one_of_its_records_is_that_clients_fault(record: str) -> None:
    content = records.encode_train_replies([reply(3), reply(12)], CHANNELS)
    del content[record]
    bad, good = records.decode_train_replies(over_the_wire(content), CHANNELS)
    assert (bad.client, bad.delta) == (3, None)
    assert record in bad.fault
    same(good, reply(12))


@pytest.mark.parametrize(("key", "value"), [("client", "3"), ("round", None), ("steps", 2.0), ("fault", 0)])
def test_a_client_record_that_cannot_be_read_refuses_the_message(key: str, value: object) -> None:
    """Not even whose it is can be trusted then."""
    content = records.encode_train_replies([reply(3), reply(12)], CHANNELS)
    if value is None:
        del content["client.3"][key]
    else:
        content["client.3"][key] = value
    with pytest.raises(MessageError, match=key):
        records.decode_train_replies(over_the_wire(content), CHANNELS)


def test_an_answer_without_clients_holds_none() -> None:
    assert records.decode_train_replies(RecordDict(), CHANNELS) == []
    assert records.decode_evaluate_replies(RecordDict()) == []


@pytest.mark.parametrize("record", ["client.7", "client.03", "update.12", "evaluation.7", "x"])
def test_what_nobody_asked_for_refuses_the_message(record: str) -> None:
    """A record of another client's number, a second one of the same client, one that belongs to nobody."""
    own = records.encode_train_replies([reply(3)], CHANNELS)
    source = record.split(".")[0] + ".3" if "." in record else "client.3"
    own[record] = own[source]
    with pytest.raises(MessageError, match=r"is of client 3|nobody asked for"):
        records.decode_train_replies(over_the_wire(own), CHANNELS)


def test_nothing_travels_along_with_a_question() -> None:
    content = records.encode_ask(ask(), CHANNELS)
    content["more"] = content["shared"]
    with pytest.raises(MessageError, match="records that nobody asked for: more"):
        records.decode_ask(over_the_wire(content), CHANNELS)
    rolled = records.encode_roll_call(RollCallAsk("run-1", True))
    rolled["more"] = ConfigRecord()
    with pytest.raises(MessageError, match="nobody asked for"):
        records.decode_roll_call(rolled)


def test_a_long_value_is_not_repeated_at_length() -> None:
    content = records.encode_ask(ask(), CHANNELS)
    content["clients"]["ids"] = ["a" * 1000] * 1000
    with pytest.raises(MessageError) as caught:
        records.decode_ask(content, CHANNELS)
    assert len(str(caught.value)) < 300


def test_clients_that_change_records_are_noticed() -> None:
    """Else one would be credited with the other's evaluation."""
    content = records.encode_train_replies([reply(3), reply(12)], CHANNELS)
    content["client.3"], content["client.12"] = content["client.12"], content["client.3"]
    with pytest.raises(MessageError, match=r"'client.3' is of client 12"):
        records.decode_train_replies(over_the_wire(content), CHANNELS)

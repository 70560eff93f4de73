"""A client's spectrum through Flower's serialisation and back, and every way in which one can be wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from federation import records
from federation.messages import CurvatureReply, MessageError

GOOD = CurvatureReply(
    client=3,
    round=7,
    batch=8,
    parameters=384,
    ratio=0.25,
    found=True,
    gaps_low=[1.0, 4.0],
    gaps_high=[3.0, 9.0],
    lipschitz=0.125,
    theta=[-1.0, 0.5, 9.5],
    weight=[0.5, 0.25, 0.25],
    residual=[0.0, 0.5, 1e-9],
    products=11,
    seconds=1.5,
    peak_bytes=10**10,
)


def over_the_wire(content: RecordDict) -> RecordDict:
    message = Message(content, dst_node_id=7, message_type="query.curvature")
    return message_from_proto(MessageProto.FromString(message_to_proto(message).SerializeToString())).content


def there_and_back(*replies: CurvatureReply) -> list[CurvatureReply]:
    return records.decode_curvature_replies(over_the_wire(records.encode_curvature_replies(replies)))


def test_answers_with_a_fault_and_one_without_a_gap() -> None:
    answers = [
        GOOD,
        CurvatureReply(4, 7, fault="ValueError: no"),
        replace(GOOD, client=5, found=False, ratio=1.0, gaps_low=[], gaps_high=[]),
    ]
    assert there_and_back(*answers) == answers


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_none_and_all_are_shares_too(ratio: float) -> None:
    assert there_and_back(replace(GOOD, ratio=ratio))[0].ratio == ratio


@pytest.mark.parametrize(
    "wrong",
    [
        {"theta": [], "weight": [], "residual": []},
        {"theta": [1.0, 2.0]},
        {"weight": [1.0]},
        {"residual": [0.0] * 4},
        {"theta": [1.0, 2.0, math.inf]},
        {"weight": [0.5, 0.25, math.nan]},
        {"weight": [1.5, -0.75, 0.25]},
        {"residual": [0.0, -0.5, 0.0]},
        {"residual": [0.0, 0.5, math.inf]},
        {"gaps_low": [1.0]},
        {"gaps_high": [3.0, math.nan]},
    ],
)
def test_a_spectrum_that_is_not_whole_is_that_clients_fault(wrong: dict[str, Any]) -> None:
    fault = "refused: its spectrum is not whole, or not finite"
    other = replace(GOOD, client=4)
    assert there_and_back(replace(GOOD, **wrong), other) == [CurvatureReply(3, 7, fault=fault), other]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"ratio": 1.0001}, "ratio 1.0001"),
        ({"ratio": -0.1}, "ratio -0.1"),
        ({"ratio": math.nan}, "ratio nan"),
        ({"lipschitz": math.inf}, "Lipschitz estimate inf"),
        ({"lipschitz": -1.0}, "Lipschitz estimate -1.0"),
        ({"parameters": 0}, "0 parameters"),
        ({"batch": 0}, "0 examples"),
        ({"seconds": math.nan}, "nan s"),
        ({"seconds": -1.0}, "-1.0 s"),
        ({"peak_bytes": -1}, "-1 bytes"),
    ],
)
def test_impossible_numbers_are_that_clients_fault(wrong: dict[str, Any], why: str) -> None:
    (found,) = there_and_back(replace(GOOD, **wrong))
    assert (found.client, found.round, found.theta) == (3, 7, [])
    assert found.fault.startswith("refused: ")
    assert why in found.fault


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client", "3"),
        ("round", 7.0),
        ("found", 1),
        ("ratio", 1),
        ("theta", [1, 2, 3]),
        ("theta", 1.0),
        ("fault", None),
    ],
)
def test_a_record_that_cannot_be_read_refuses_the_message(key: str, value: Any) -> None:
    content = records.encode_curvature_replies([GOOD])
    if value is None:
        del content["client.3"][key]
    else:
        content["client.3"][key] = value
    with pytest.raises(MessageError, match=key):
        records.decode_curvature_replies(over_the_wire(content))

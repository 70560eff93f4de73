"""How many batches a curriculum has come to (section 3 of docs/ALGORITHMS.md): counts by hand."""

from __future__ import annotations

import pytest

from federation.pacing import Pacing
from federation.settings import defaults, parse

# 10 rounds, a = .8: q = 0, 1/8, 2/8 .. 7/8, 1, 1; 20 batches, b0 = .6
COUNTS = {
    "linear": [12, 13, 14, 15, 16, 17, 18, 19, 20, 20],  # 20 (.6 + .4 q) = 12 + t
    "sqrt": [
        12,
        14,
        15,
        16,
        17,
        18,
        19,
        19,
        20,
        20,
    ],  # 20 sqrt(.36 + .64 q): 12, 13.27, 14.42, 15.49, 16.49, 17.44, 18.33, 19.18
    "exp": [
        12,
        13,
        14,
        15,
        16,
        17,
        18,
        19,
        20,
        20,
    ],  # 20 x .6^(1 - q): 12, 12.79, 13.63, 14.53, 15.49, 16.51, 17.60, 18.76
}
COUNTS["sqrt"][7] = 20  # 19.18 is rounded up


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_by_hand(kind: str) -> None:
    pacing = Pacing(kind, 0.6, 0.8, 10)
    assert [pacing.batches(20, server_round) for server_round in range(1, 11)] == COUNTS[kind]


def test_the_three_paces_differ_where_they_should() -> None:
    """Half way up, from a quarter: 5/8, sqrt(1/16 + 15/32), 1/2."""
    shares = [Pacing(kind, 0.25, 1.0, 2).share(2) for kind in ("linear", "sqrt", "exp")]
    assert shares == pytest.approx([0.625, 0.7288689868556626, 0.5])


def test_none_is_everything_from_the_beginning() -> None:
    assert Pacing("none", 0.1, 0.8, 10).share(1) == 1.0
    assert Pacing().batches(7, 1) == 7


def test_at_least_one_batch_and_never_more_than_all() -> None:
    pacing = Pacing("linear", 0.01, 0.5, 4)
    assert [pacing.batches(1, server_round) for server_round in (1, 2, 3, 4, 9)] == [1] * 5
    assert [pacing.batches(3, server_round) for server_round in (1, 3, 9)] == [1, 3, 3]
    assert Pacing("linear", 0.7, 0.5, 4).batches(10, 1) == 7  # .7 x 10 is 7.000000000000001 or so


def test_steps_are_epochs_over_the_batches_that_are_seen() -> None:
    settings = parse({**defaults(), "curriculum": "linear", "rounds": 10, "batch-size": 8, "local-epochs": 3})
    assert settings.local.steps(33) == 15  # 5 batches, the last of 1
    assert [settings.steps_in(server_round, 33) for server_round in (1, 2, 5, 9, 10)] == [9, 12, 12, 15, 15]
    assert parse(defaults()).steps_in(1, 33) == 10


def test_it_is_whole_when_every_client_sees_everything() -> None:
    pacing = Pacing("sqrt", 0.6, 0.8, 5)
    assert [pacing.is_whole_in(server_round) for server_round in (4, 5)] == [False, True]


def test_there_is_no_other_pace() -> None:
    with pytest.raises(ValueError, match="cosine"):
        Pacing("cosine", 0.5, 0.5, 4).share(1)

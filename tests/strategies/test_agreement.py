"""A reply that can be read, held against the roll call: each difference is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from federation.messages import Evaluation, TrainReply
from strategies.agreement import counts_objection, objection, update_norm
from strategies.roster import Roster

ROSTER = Roster("run", 0, {3: 10}, {3: 100}, ("no", "yes"), (1,), 1, steps={3: 4}, evaluated={3: 5}, norm_limit=10.0)
GOOD = TrainReply(
    3, 7, examples=10, steps=4, train_loss=0.5, control_round=6, evaluation=Evaluation(5, 3, 1.0), delta=torch.ones(4)
)


def test_a_good_one_is_as_agreed() -> None:
    assert objection(GOOD, ROSTER, False, 2.0) == ""
    assert objection(replace(GOOD, control_round=0), ROSTER, False, math.inf) == ""
    assert objection(replace(GOOD, second_moments=torch.ones(2)), ROSTER, True, math.inf) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"examples": 11}, "it has 11 examples, 10 in the roll call"),
        ({"steps": 5}, "it has 5 steps, 4 in the roll call"),
        ({"steps": 10**9}, "it has 1000000000 steps, 4 in the roll call"),
        ({"control_round": 7}, "it goes on from round 7 in round 7"),
        ({"control_round": -1}, "it goes on from round -1 in round 7"),
        ({"second_moments": torch.ones(2)}, "it has second moments"),
        ({"evaluation": Evaluation(6, 3, 1.0)}, "it evaluated 6 examples, 5 in the roll call"),
        ({"evaluation": Evaluation()}, "it evaluated 0 examples, 5 in the roll call"),
        ({"delta": torch.full((4,), 1.01)}, r"its update has norm 2.02, at most 2 is in proportion (norm-limit)"),
    ],
)
def test_what_was_not_agreed_on_is_named(change: dict[str, Any], why: str) -> None:
    assert objection(replace(GOOD, **change), ROSTER, False, 2.0) == why


def test_second_moments_that_are_shared_have_to_come() -> None:
    """vbar is a mean over all replies."""
    assert objection(GOOD, ROSTER, True, math.inf) == "it has no second moments"


def test_a_norm_is_summed_in_float64() -> None:
    assert update_norm(replace(GOOD, delta=torch.full((4,), 3e38))) == pytest.approx(6e38)


def test_an_evaluation_is_of_the_agreed_shard() -> None:
    assert counts_objection(3, Evaluation(5), ROSTER) == ""
    assert counts_objection(3, Evaluation(4), ROSTER) == "it evaluated 4 examples, 5 in the roll call"
    assert counts_objection(9, Evaluation(4), ROSTER) == ""  # nothing is known of it

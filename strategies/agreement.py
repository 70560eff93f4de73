"""Whether a reply that can be read is the one that was agreed on in the roll call."""

from __future__ import annotations

import torch

from federation.messages import Evaluation, TrainReply
from strategies.roster import Roster


def update_norm(reply: TrainReply) -> float:
    """2-norm of Delta_i, summed in float64."""
    assert reply.delta is not None
    return float(reply.delta.to(torch.float64).norm())


def objection(reply: TrainReply, roster: Roster, shares_moments: bool, most_norm: float) -> str:
    """Why an update is refused; "" if it is not.

    n_i and K_i are frozen in the roll call: with others, C would no longer be the sum of n_i c_i, nor vbar a mean.

    Args:
        shares_moments: whether a reply has to bring second moments.
        most_norm: the largest 2-norm that is in proportion to those of other updates.
    """
    steps = roster.steps_in(reply.client, reply.round)
    for what, found, agreed in (
        ("examples", reply.examples, roster.examples.get(reply.client)),
        ("steps", reply.steps, steps),
    ):
        if agreed is not None and found != agreed:
            return f"it has {found} {what}, {agreed} in the roll call"
    if not 0 <= reply.control_round < reply.round:
        return f"it goes on from round {reply.control_round} in round {reply.round}"
    if (reply.second_moments is not None) != shares_moments:
        return "it has second moments" if not shares_moments else "it has no second moments"
    if most_norm < float("inf") and (norm := update_norm(reply)) > most_norm:
        return f"its update has norm {norm:.3g}, at most {most_norm:.3g} is in proportion (norm-limit)"
    return counts_objection(reply.client, reply.evaluation, roster)


def overflow(reply: TrainReply) -> str:
    """Why an update is refused of which the server could not keep what it has to."""
    return (
        f"its update of norm {update_norm(reply):.3g} is too large: divided by the learning rate it is beyond float32"
    )


def counts_objection(client: int, found: Evaluation, roster: Roster) -> str:
    """Why an evaluation is refused; "" if it is not: the shard is the one of the roll call."""
    agreed = roster.evaluated.get(client, found.examples)
    return "" if found.examples == agreed else f"it evaluated {found.examples} examples, {agreed} in the roll call"

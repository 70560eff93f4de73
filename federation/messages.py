"""What travels, as dataclasses: three questions and their answers (federation/records.py puts them on the wire).

A message names the clients it is for, and the reply answers for each, since a node may host several.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who passes a message on loads no torch
    from torch import Tensor

SCHEMA = 3
ROLL_CALL, TRAIN, EVALUATE, CURVATURE = "query.roll_call", "train", "evaluate", "query.curvature"

REFUSED = "refused: "
"""How the reason begins where what arrived is not acceptable; other reasons are those that a client's machine gives."""


class MessageError(ValueError):
    """What arrived is not what was agreed on."""


class NodeError(RuntimeError):
    """A fault of a node, in words that may be read elsewhere."""


@dataclass(frozen=True)
class RollCallAsk:
    """The one question to all nodes before round 1."""

    run: str
    score: bool


@dataclass(frozen=True)
class RollCallReply:
    """What a client says of itself.

    Attributes:
        client: its number; its stable identity in the run.
        examples: n_i.
        validation_examples: examples of its evaluation shard.
        steps: K_i, the optimiser steps of one round.
        labels: those it has seen.
        commonest: of its evaluation examples, how many have the label that is the commonest in its training examples.
        data: sha256 over the data set, or "own data".
        model: the beginnings of the fingerprints of what is frozen: a name or a path says little of what lies there.
        scores: zeta_i per layer; empty if it has fewer than a batch of different examples, or was not asked.
        fault: what is wrong with it; "" if nothing.
    """

    client: int
    examples: int = 0
    validation_examples: int = 0
    steps: int = 0
    labels: list[str] = field(default_factory=list)
    data: str = ""
    scores: list[float] = field(default_factory=list)
    commonest: int = 0
    model: str = ""
    fault: str = ""


@dataclass(frozen=True)
class AskHeader:
    """The part of a round's question that can be read before the names are known: they follow from labels and layers.

    Attributes:
        run: the run's name; names the folder of a client's state.
        round: t for training; for an evaluation the round it comes after.
        labels: classes in the order of the head's outputs.
        layers: S.
        clients: whom the message is for.
        accepted: per client, the last round in which its reply was accepted; 0 for never.
        epoch: of the control variates.
        warm_up: before the layers are selected: all of them travel, and none is corrected.
    """

    run: str
    round: int
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    clients: tuple[int, ...]
    accepted: tuple[int, ...]
    epoch: int
    warm_up: bool


@dataclass(frozen=True)
class Ask(AskHeader):
    """A round's question to one node: train, or evaluate, these clients from these parameters.

    Attributes:
        shared: x over the names that travel, [R].
        control: c, [R]; None without device correction.
        second_moments: vbar per block; None unless shared and known.
    """

    shared: Tensor
    control: Tensor | None = None
    second_moments: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """Counts on one client's evaluation shard: with its own model, and with the shared one.

    The confusion matrices (see Counts) travel where the run's metric needs them; () elsewhere.
    """

    examples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    shared_correct: int = 0
    shared_loss_sum: float = 0.0
    confusion: tuple[int, ...] = ()
    shared_confusion: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainReply:
    """One client's answer to a training message.

    Attributes:
        client: whose.
        round: the round it answers.
        fault: why there is no update; "" if there is one.
        examples, steps: n_i, K_i.
        train_loss: mean over its steps.
        control_round: round of the state, and so of the control variate, it went on from; 0 for a new one.
        evaluation: of what it received, before it trained.
        delta: Delta_i over the names that travel, [R].
        second_moments: s_i per block.
    """

    client: int
    round: int
    fault: str = ""
    examples: int = 0
    steps: int = 0
    train_loss: float = 0.0
    control_round: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    delta: Tensor | None = None
    second_moments: Tensor | None = None


@dataclass(frozen=True)
class EvaluateReply:
    """One client's answer to an evaluation message."""

    client: int
    round: int
    fault: str = ""
    evaluation: Evaluation = field(default_factory=Evaluation)


@dataclass(frozen=True)
class CurvatureReply:
    """One client's answer to the question for the spectrum of its Hessian (section 2.2).

    Attributes:
        client: whose.
        round: the warm-up round at whose P it was taken.
        fault: why there is none; "" if there is one.
        batch: examples of the one batch that was looked at.
        parameters: R, of all prompts.
        ratio: r_i.
        found: whether the estimator found what it looks for; if not, r_i = 1.
        gaps_low, gaps_high: a and b of each gap, lowest first.
        lipschitz: Lip; 0 where the estimator needs none.
        theta, weight, residual: Ritz values, their shares of R, and how far an eigenvalue may lie from each.
        products: Hessian-vector products it took.
        seconds: wall-clock time.
        peak_bytes: the most resident memory the process ever had.
    """

    client: int
    round: int
    fault: str = ""
    batch: int = 0
    parameters: int = 0
    ratio: float = 1.0
    found: bool = False
    gaps_low: list[float] = field(default_factory=list)
    gaps_high: list[float] = field(default_factory=list)
    lipschitz: float = 0.0
    theta: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    products: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

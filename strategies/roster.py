"""Who takes part in a run, and what came of a round client by client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.messages import Evaluation
from federation.metrics import ACCURACY


@dataclass(frozen=True)
class Roster:
    """Who takes part and what is agreed on, fixed after the roll call.

    Attributes:
        run: the run's name.
        seed: of the run.
        examples: client -> n_i.
        nodes: client -> the node it lives on.
        labels: classes in the order of the head's outputs.
        layers: S.
        per_round: replies that close a round.
        beyond: clients asked beyond those.
        quorum: replies without which a round is void.
        metric: the run's figure; any but accuracy needs the clients' confusion matrices.
    """

    run: str
    seed: int
    examples: Mapping[int, int]
    nodes: Mapping[int, int]
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    per_round: int
    beyond: int = 0
    quorum: int = 1
    metric: str = ACCURACY

    @property
    def confusion_classes(self) -> int | None:
        """Of the confusion matrices that clients send; None where they send none."""
        return None if self.metric == ACCURACY else len(self.labels)

    @property
    def clients(self) -> list[int]:
        """All clients, ascending."""
        return sorted(self.nodes)


@dataclass
class Outcome:
    """What came of a round's messages, client by client.

    Attributes:
        asked: in the order of sampling, which is the order of folding.
        accepted: whose reply was used.
        failed: client -> why its reply was not.
        missing: without a reply by the deadline, or by the reply that closed the round.
        void: too few replies for the quorum; nothing was made of them.
        train_loss: n_i-weighted mean of the clients' mean training losses; None without a reply.
        evaluations: client -> counts on its own shard.
        update_norm: 2-norm of the server's step.
    """

    asked: list[int]
    accepted: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    void: bool = False
    train_loss: float | None = None
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    update_norm: float = 0.0

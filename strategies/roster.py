"""Who takes part in a run, and what came of a round client by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from federation.messages import REFUSED, Evaluation
from federation.metrics import ACCURACY
from federation.pacing import Pacing


@dataclass(frozen=True)
class Cohort:
    """All clients that are known, whether they are there or not.

    Attributes:
        clients: N.
        examples: n, over all of them.
        mean_steps: Kbar = sum (n_i/n) K_i.
    """

    clients: int
    examples: int
    mean_steps: float

    @classmethod
    def of(cls, agreed: Mapping[int, tuple[int, int]]) -> Cohort:
        """From client -> (n_i, K_i): sums of whole numbers, the same in every order."""
        n = sum(examples for examples, _ in agreed.values())
        return cls(len(agreed), n, sum(examples * steps for examples, steps in agreed.values()) / n)


@dataclass(frozen=True)
class Roster:
    """Who takes part and what is agreed on. It changes between rounds alone, when clients join, leave or come back.

    Attributes:
        run: the run's name.
        seed: of the run.
        examples: client -> n_i, of all that are known.
        nodes: client -> the node it lives on, of those that are there.
        labels: classes in the order of the head's outputs.
        layers: S.
        per_round: replies that close a round.
        beyond: clients asked beyond those.
        quorum: replies without which a round is void.
        steps: client -> K_i, in a round that sees all examples.
        evaluated: client -> examples of its evaluation shard.
        norm_limit: how many times the median norm of updates one may have; 0: any.
        strikes: refused updates in a row after which a client is asked no more; 0: never.
        message_mb: the setting `message-limit-mb`.
        metric: the run's figure; any but accuracy needs the clients' confusion matrices.
        epochs: E.
        pacing: of the curriculum.
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
    steps: Mapping[int, int] = field(default_factory=dict)
    evaluated: Mapping[int, int] = field(default_factory=dict)
    norm_limit: float = 0.0
    strikes: int = 0
    message_mb: int = 0
    metric: str = ACCURACY
    epochs: int = 1
    pacing: Pacing = field(default_factory=Pacing)

    def steps_in(self, client: int, server_round: int) -> int | None:
        """K_i in a round; None of a client that no roll call knows."""
        steps = self.steps.get(client)
        return None if steps is None else self.pacing.steps(steps, self.epochs, server_round)

    def data_share(self, clients: Collection[int], server_round: int) -> float | None:
        """What share of their batches these clients see in a round, n_i-weighted; None without clients."""
        total = sum(self.examples[client] for client in clients)
        seen = {client: (self.steps_in(client, server_round) or 0) / self.steps[client] for client in clients}
        return sum(self.examples[client] * share for client, share in seen.items()) / total if total else None

    @property
    def confusion_classes(self) -> int | None:
        """Of the confusion matrices that clients send; None where they send none."""
        return None if self.metric == ACCURACY else len(self.labels)

    @property
    def present(self) -> list[int]:
        """The clients that are there, ascending."""
        return sorted(self.nodes)

    @property
    def absent(self) -> list[int]:
        """Those that are known and not there, ascending."""
        return sorted(set(self.examples) - set(self.nodes))

    @property
    def agreed(self) -> dict[int, tuple[int, int]]:
        """Client -> (n_i, K_i), of all that are known: frozen when each joined."""
        return {client: (n, self.steps[client]) for client, n in sorted(self.examples.items())}


@dataclass
class Outcome:
    """What came of a round's messages, client by client.

    Attributes:
        asked: in the order of sampling, which is the order of folding.
        accepted: whose reply was used.
        states: of these, what each went on from: new, restored, or lost (it had one, and began anew).
        failed: client -> why its reply was not: its machine failed, or the reply was refused.
        dropped: client -> replies in its name that came twice, unasked, or from a node on which it does not live.
        missing: without a reply by the deadline, or by the reply that closed the round.
        void: too few replies for the quorum; nothing was made of them.
        train_loss: n_i-weighted mean of the clients' mean training losses; None without a reply.
        evaluations: client -> counts on its own shard.
        update_norm: 2-norm of the server's step.
    """

    asked: list[int]
    accepted: list[int] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    dropped: Counter[int] = field(default_factory=Counter)
    missing: list[int] = field(default_factory=list)
    void: bool = False
    train_loss: float | None = None
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    update_norm: float = 0.0

    @property
    def refused(self) -> list[int]:
        """Whose reply came, and was not acceptable."""
        return [client for client, why in self.failed.items() if why.startswith(REFUSED)]

"""The round loop: ask, fold replies as they come, step, write the round's line (rule 8 of the architecture).

Flower's own loop begins at round 1, polls every 3 s and has no deadline of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from federation import resources
from federation.evaluation import Counts
from federation.grids import RecordingGrid, exchanges
from federation.messages import Evaluation
from federation.metrics import added, figure_key, figures
from federation.settings import Settings
from fedpeptao.errors import RunError
from server_app.console import round_header, round_line, say
from server_app.run_folder import RunFolder
from strategies.roster import Outcome
from strategies.shell import PromptStrategy

Line = dict[str, Any]


class Rounds:
    """Drives strategies over a grid: that of the warm-up if there is one, then that of the selected layers.

    Args:
        test: the shared model's counts on the common test set for a strategy; None where there is no such set.
        keep: called with the strategy after each round.
    """

    def __init__(
        self,
        grid: RecordingGrid,
        settings: Settings,
        folder: RunFolder,
        test: Callable[[PromptStrategy], Counts] | None,
        keep: Callable[[PromptStrategy], None],
    ) -> None:
        self._grid, self._settings, self._folder = grid, settings, folder
        self._test, self._keep, self._metric = test, keep, resources.metric(settings)
        self._figures = line_figures(self._metric)
        self._bytes = 0
        self._evaluation: Outcome | None = None

    def run(self, strategy: PromptStrategy, last: int) -> None:
        """The rounds from the one after the strategy's state to `last`.

        Raises:
            RunError: a round in which every client failed.
        """
        say(round_header(self._metric))
        if strategy.state.round == 0 and self._settings.run.test_every:
            self._write({"round": 0, **self._tested(strategy, 0)})
        for server_round in range(strategy.state.round + 1, last + 1):
            line = self._train(strategy, server_round)
            self._keep(strategy)
            line |= self._tested(strategy, server_round)
            if _due(server_round, self._settings.run.evaluate_every, self._settings.federation.rounds):
                self._evaluation = self._evaluate(strategy, line)
            self._write(line)

    def evaluation(self) -> Outcome:
        """The last evaluation over all clients."""
        assert self._evaluation is not None, "the last round evaluates all clients"
        return self._evaluation

    def _train(self, strategy: PromptStrategy, server_round: int) -> Line:
        started = time.monotonic()
        messages = strategy.train_messages(server_round)
        replies = exchanges(self._grid, messages, self._settings.run.round_timeout_s)
        outcome = strategy.close_round(server_round, replies)
        down, up = self._grid.reset()
        self._bytes += down.total() + up.total()
        line = {
            "round": server_round,
            "warm_up": strategy.warm_up,
            "train_loss": outcome.train_loss,
            "clients": outcome.asked,
            "accepted": len(outcome.accepted),
            "failed": {str(client): why for client, why in outcome.failed.items()},
            "missing": outcome.missing,
            "update_norm": outcome.update_norm,
            **_traffic(down, up),
            "seconds": time.monotonic() - started,
        }
        own = pooled_personalised(outcome.evaluations.values())
        line |= {
            **figures("personalised", own, self._metric),
            "personalised_loss": own.loss,
            "personalised_examples": own.examples,
        }
        if not outcome.accepted:
            self._write(line)
            raise RunError(f"round {server_round}: no client gave an update. {_why(outcome)}")
        return line

    def _tested(self, strategy: PromptStrategy, server_round: int) -> Line:
        if self._test is None or not _due(
            server_round, self._settings.run.test_every, self._settings.federation.rounds
        ):
            return {}
        counts = self._test(strategy)
        return {**figures("global", counts, self._metric), "global_loss": counts.loss}

    def _evaluate(self, strategy: PromptStrategy, line: Line) -> Outcome:
        """All clients, in messages of their own; its traffic is counted apart from training."""
        messages = strategy.evaluate_messages()
        outcome = strategy.close_evaluation(exchanges(self._grid, messages, self._settings.run.round_timeout_s))
        down, up = self._grid.reset()
        line["evaluation_bytes"] = down.total() + up.total()
        line |= figures("all_personalised", pooled_personalised(outcome.evaluations.values()), self._metric)
        line |= figures("all_shared", pooled_shared(outcome.evaluations.values()), self._metric)
        line["evaluation_failed"] = {str(client): why for client, why in outcome.failed.items()}
        line["evaluation_missing"] = outcome.missing
        return outcome

    def _write(self, line: Line) -> None:
        line["cumulative_bytes"] = self._bytes
        whole = {**dict.fromkeys(self._figures), **line}
        self._folder.append(whole)
        say(round_line(whole, self._settings.federation.rounds, self._metric))


FIGURES = (
    "round",
    "warm_up",
    "train_loss",
    "personalised_accuracy",
    "personalised_loss",
    "personalised_examples",
    "global_accuracy",
    "global_loss",
    "all_personalised_accuracy",
    "all_shared_accuracy",
    "down_bytes",
    "up_bytes",
    "down_detail",
    "up_detail",
    "evaluation_bytes",
    "clients",
    "accepted",
    "failed",
    "missing",
    "evaluation_failed",
    "evaluation_missing",
    "update_norm",
    "seconds",
    "cumulative_bytes",
)
"""Keys of every line of metrics.jsonl; null where a round has no such figure."""
SCORED = ("personalised", "global", "all_personalised", "all_shared")
"""Whose accuracy is among them; where the run's metric is another one, each has a sister of that name."""


def line_figures(metric: str) -> tuple[str, ...]:
    """FIGURES, and the sisters."""
    sisters = tuple(figure_key(whose, metric) for whose in SCORED)
    return FIGURES + tuple(key for key in sisters if key not in FIGURES)


def pooled_personalised(evaluations: Iterable[Evaluation]) -> Counts:
    """Each client's shard with its own prompts, pooled."""
    counts = list(evaluations)
    return Counts(
        sum(c.examples for c in counts),
        sum(c.correct for c in counts),
        sum(c.loss_sum for c in counts),
        added(c.confusion for c in counts),
    )


def pooled_shared(evaluations: Iterable[Evaluation]) -> Counts:
    """Each client's shard with the shared model, pooled."""
    counts = list(evaluations)
    return Counts(
        sum(c.examples for c in counts),
        sum(c.shared_correct for c in counts),
        sum(c.shared_loss_sum for c in counts),
        added(c.shared_confusion for c in counts),
    )


def _due(server_round: int, every: int, rounds: int) -> bool:
    return server_round == rounds or (every > 0 and server_round % every == 0)


def _traffic(down: Counter[str], up: Counter[str]) -> Line:
    return {
        "down_bytes": down.total(),
        "up_bytes": up.total(),
        "down_detail": dict(sorted(down.items())),
        "up_detail": dict(sorted(up.items())),
    }


def _why(outcome: Outcome) -> str:
    if not outcome.failed:
        return f"None of {len(outcome.asked)} replied before the round's deadline (round-timeout-s)"
    client, why = next(iter(outcome.failed.items()))
    return f"Client {client}: {why}"

"""The round loop: ask, fold replies as they come, step, write the round's line (rule 8 of the architecture).

Flower's own loop begins at round 1, polls every 3 s and has no deadline of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from itertools import count
from typing import Any

from federation import resources
from federation.evaluation import Counts
from federation.grids import RecordingGrid, exchanges
from federation.logs import about, event
from federation.metrics import figures
from federation.resuming import how_to_go_on
from federation.settings import Settings
from fedpeptao.errors import RunError
from server_app.attendance import Attendance
from server_app.console import round_header, round_line, say, warn
from server_app.lines import by_client, line_figures, pooled_personalised, pooled_shared, traffic_figures
from server_app.progress import with_progress
from server_app.run_folder import RunFolder
from strategies.roster import Outcome
from strategies.shell import SelectiveStrategy

Line = dict[str, Any]
LONGEST_PAUSE_S = 30.0


class Rounds:
    """Drives strategies over a grid: that of the warm-up if there is one, then that of the selected layers.

    Args:
        attendance: looked at before each round and evaluation.
        test: the shared model's counts on the common test set for a strategy; None where there is no such set.
        keep: called with the strategy after each update of it.
        save: called with the strategy and the evaluation over all clients, if there was one, when a round's line is on disk.
        evaluation: the last one over all clients, of a run that goes on.
    """

    def __init__(
        self,
        grid: RecordingGrid,
        settings: Settings,
        folder: RunFolder,
        attendance: Attendance,
        test: Callable[[SelectiveStrategy], Counts] | None,
        keep: Callable[[SelectiveStrategy], None],
        save: Callable[[SelectiveStrategy, Outcome | None], None],
        evaluation: Outcome | None = None,
    ) -> None:
        self._grid, self._settings, self._folder, self._attendance = grid, settings, folder, attendance
        self._test, self._keep, self._save, self._metric = test, keep, save, resources.metric(settings)
        self._figures = line_figures(self._metric)
        self._bytes = next((line["cumulative_bytes"] for line in reversed(folder.history())), 0)
        self._evaluation = evaluation

    def run(self, strategy: SelectiveStrategy, last: int) -> None:
        """The rounds from the one after the strategy's state to `last`.

        Raises:
            RunError: a round without its quorum.
        """
        say(round_header(self._metric))
        if strategy.state.round == 0:
            self._begin(strategy)
        for server_round in range(strategy.state.round + 1, last + 1):
            with about(round=server_round):
                self._round(strategy, server_round)
        if last == self._settings.federation.rounds and self._evaluation is None:
            self._end(strategy)

    def _round(self, strategy: SelectiveStrategy, server_round: int) -> None:
        """Train, keep, test, evaluate where due, write the line, save: in this order."""
        line = self._train(strategy, server_round)
        self._keep(strategy)
        line |= self._tested(strategy, server_round)
        self._evaluation = None
        if _due(server_round, self._settings.run.evaluate_every, self._settings.federation.rounds):
            self._evaluation = self._evaluate(strategy, line)
        self._write(line)
        self._save(strategy, self._evaluation)

    def _begin(self, strategy: SelectiveStrategy) -> None:
        """The line of round 0: the model as it begins, and all there is of a run without rounds."""
        only = self._settings.federation.rounds == 0
        if not (only or self._settings.run.test_every):
            return
        line: Line = {"round": 0, **self._tested(strategy, 0)}
        if only:
            self._keep(strategy)
            self._evaluation = self._evaluate(strategy, line)
        self._write(line)

    def _end(self, strategy: SelectiveStrategy) -> None:
        """The evaluation of a run whose last round was no last round when it ran: it went on with fewer rounds."""
        line: Line = {"round": strategy.state.round, **self._tested(strategy, strategy.state.round)}
        self._evaluation = self._evaluate(strategy, line)
        self._write(line)
        self._save(strategy, self._evaluation)

    def evaluation(self) -> Outcome:
        """The last evaluation over all clients."""
        assert self._evaluation is not None, "the last round evaluates all clients"
        return self._evaluation

    def _train(self, strategy: SelectiveStrategy, server_round: int) -> Line:
        started, self._grid.late = time.monotonic(), 0
        outcome, attempts = self._until_quorum(strategy, server_round)
        down, up = self._grid.reset()
        self._bytes += down.total() + up.total()
        line = {
            "round": server_round,
            "warm_up": strategy.warm_up,
            "train_loss": outcome.train_loss,
            "data_share": strategy.roster.data_share(outcome.accepted, server_round),
            "clients": outcome.asked,
            "accepted": len(outcome.accepted),
            "failed": {str(client): why for client, why in outcome.failed.items()},
            "missing": outcome.missing,
            "dropped": by_client(outcome.dropped),
            "refused": by_client(strategy.standing.refused),
            "left_out": list(strategy.left_out),
            "late": self._grid.late,
            "attempts": attempts,
            "void": outcome.void,
            "update_norm": outcome.update_norm,
            **traffic_figures(down, up),
            "seconds": time.monotonic() - started,
        }
        own = pooled_personalised(outcome.evaluations.values())
        line |= {
            **figures("personalised", own, self._metric),
            "personalised_loss": own.loss,
            "personalised_examples": own.examples,
        }
        if outcome.void:
            self._write(line)
            raise RunError(self._without_quorum(outcome, server_round))
        return line

    def _until_quorum(self, strategy: SelectiveStrategy, server_round: int) -> tuple[Outcome, int]:
        """Asks, and while too few answer asks others, until `quorum-wait-s` are over; what came of it, and how often it asked."""
        give_up = time.monotonic() + self._settings.federation.quorum_wait_s
        for attempt in count():
            self._await_enough(strategy, server_round, give_up)
            messages = strategy.train_messages(server_round, attempt)
            event("round begins", clients=strategy.sampled(server_round, attempt), attempt=attempt)
            with closing(exchanges(self._grid, messages, self._settings.run.round_timeout_s)) as replies:
                before = strategy.left_out
                outcome = strategy.close_round(server_round, with_progress(replies, len(messages)), attempt)
            _log(outcome, strategy)
            _say_left_out(outcome, set(strategy.left_out) - set(before))
            left = give_up - time.monotonic()
            if not outcome.void or left <= 0:
                return outcome, attempt + 1
            replied, wanted = len(outcome.accepted), self._settings.federation.quorum
            warn(
                f"round {server_round}: {replied} of {wanted} replies that it needs, nothing is averaged. {_why(outcome)}"
            )
            time.sleep(min(left, pause_after(attempt)))
        raise AssertionError("unreachable")

    def _await_enough(self, strategy: SelectiveStrategy, server_round: int, give_up: float) -> None:
        """With fewer clients than `clients-per-round` a round begins; with fewer than its quorum it waits for them.

        Raises:
            RunError: they do not come, or nobody is left to come.
        """
        federation = self._settings.federation

        def alarm() -> None:
            self._check_enough_left(strategy, server_round)
            there = f"{len(strategy.clients)} clients are there for a quorum of {federation.quorum}"
            warn(f"round {server_round}: {there}, others are waited for up to {federation.quorum_wait_s:g} s")

        if not self._attendance.wait(strategy, federation.quorum, give_up, alarm):
            self._check_enough_left(strategy, server_round)
            waited = f" after {federation.quorum_wait_s:g} s (quorum-wait-s)" if federation.quorum_wait_s else ""
            absent = strategy.roster.absent
            event("too few clients", logging.WARNING, absent=absent)
            away = f"not there: {_some(absent)}" if absent else "no others have joined"
            raise RunError(
                f"round {server_round}: {len(strategy.clients)} clients are there for a quorum of {federation.quorum}"
                f"{waited}; {away}. {self._how_to_go_on(server_round)}"
            )

    def _check_enough_left(self, strategy: SelectiveStrategy, server_round: int) -> None:
        """Waiting does not help where too many are left out."""
        federation, left_out = self._settings.federation, strategy.left_out
        left = federation.clients - len(left_out)
        if left < federation.quorum:
            raise RunError(
                f"round {server_round}: {left} clients are left for a quorum of {federation.quorum}; "
                f"left out for refused replies (strikes): {_some(left_out)}. "
                f"{self._how_to_go_on(server_round, 'strikes=0')}, and all are asked again"
            )

    def _how_to_go_on(self, server_round: int, change: str = "") -> str:
        return f"The run is kept as after round {server_round - 1}: {how_to_go_on(self._folder.path, change)}"

    def _without_quorum(self, outcome: Outcome, server_round: int) -> str:
        """Why the run stops, and how it goes on."""
        if not outcome.accepted:
            found = "no client gave an update"
        else:
            found = f"{len(outcome.accepted)} of the {self._settings.federation.quorum} replies of its quorum came"
        waited = self._settings.federation.quorum_wait_s
        within = f" within {waited:g} s (quorum-wait-s)" if waited else ""
        return f"round {server_round}: {found}{within}. {_why(outcome)}. {self._how_to_go_on(server_round)}"

    def _tested(self, strategy: SelectiveStrategy, server_round: int) -> Line:
        if self._test is None or not _due(
            server_round, self._settings.run.test_every, self._settings.federation.rounds
        ):
            return {}
        counts = self._test(strategy)
        return {**figures("global", counts, self._metric), "global_loss": counts.loss}

    def _evaluate(self, strategy: SelectiveStrategy, line: Line) -> Outcome:
        """All clients that are there, in messages of their own; its traffic is counted apart from training."""
        give_up = time.monotonic() + self._settings.federation.quorum_wait_s
        if not self._attendance.wait(strategy, 1, give_up, lambda: warn("nobody is there to evaluate: waiting")):
            warn("no client is there for the evaluation")
        messages = strategy.evaluate_messages()
        with closing(exchanges(self._grid, messages, self._settings.run.round_timeout_s)) as replies:
            outcome = strategy.close_evaluation(with_progress(replies, len(messages)))
        event("evaluation ended", clients=len(outcome.evaluations), failed=outcome.failed, missing=outcome.missing)
        down, up = self._grid.reset()
        line["evaluation_bytes"] = down.total() + up.total()
        line |= figures("all_personalised", pooled_personalised(outcome.evaluations.values()), self._metric)
        line |= figures("all_shared", pooled_shared(outcome.evaluations.values()), self._metric)
        line["evaluation_failed"] = {str(client): why for client, why in outcome.failed.items()}
        line["evaluation_missing"] = outcome.missing
        line["refused"] = by_client(strategy.standing.refused)
        return outcome

    def _write(self, line: Line) -> None:
        line["cumulative_bytes"] = self._bytes
        whole = {**dict.fromkeys(self._figures), **line, **self._attendance.news()}
        self._folder.append(whole)
        say(round_line(whole, self._settings.federation.rounds, self._metric))


def pause_after(attempt: int) -> float:
    """Seconds before others are asked, after so many void attempts before this one: they double up to LONGEST_PAUSE_S."""
    return min(LONGEST_PAUSE_S, 2.0 ** min(attempt, 10) / 4)


def _due(server_round: int, every: int, rounds: int) -> bool:
    return server_round == rounds or (every > 0 and server_round % every == 0)


def _log(outcome: Outcome, strategy: SelectiveStrategy) -> None:
    """What became of each client that was asked, and of the round."""
    nodes = strategy.roster.nodes
    for client in outcome.accepted:
        event("reply accepted", client=client, node=nodes[client], state=outcome.states.get(client, ""))
    for client, why in outcome.failed.items():
        what = "reply refused" if client in outcome.refused else "reply failed"
        event(what, logging.WARNING, client=client, node=nodes[client], why=why)
    for client in outcome.missing:
        event("reply missing", logging.WARNING, client=client, node=nodes[client])
    for client, replies in outcome.dropped.items():
        event("replies dropped", logging.WARNING, client=client, replies=replies)
    level = logging.WARNING if outcome.void else logging.INFO
    event("round void" if outcome.void else "round closed", level, accepted=len(outcome.accepted))


def _say_left_out(outcome: Outcome, clients: Collection[int]) -> None:
    for client in sorted(clients):
        event("client left out", logging.WARNING, client=client)
        warn(f"client {client} is left out from now on (strikes). Its last reply was {outcome.failed[client]}")


def _some(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients[:10])) + (", .." if len(clients) > 10 else "")


def _why(outcome: Outcome) -> str:
    if not outcome.failed and not outcome.accepted:
        return f"None of {len(outcome.asked)} replied before the round's deadline (round-timeout-s)"
    if not outcome.failed:
        return f"{len(outcome.missing)} of {len(outcome.asked)} did not reply before the round's deadline (round-timeout-s)"
    client, why = next(iter(outcome.failed.items()))
    return f"Client {client}: {why}"

"""A run's course once its inputs are checked: roll call, selection, rounds, export; from the beginning, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import copymode
from typing import Any

import torch

from federation import resources
from federation.evaluation import Counts, count
from federation.grids import RecordingGrid
from federation.logs import event
from federation.messages import Evaluation
from federation.metrics import figures
from federation.remarks import remarks_on_resuming
from federation.resuming import DEPLOYED
from federation.settings import Flat, Settings, defaults
from fedpeptao.errors import InputError
from models.export import save_parameters, to_peft
from server_app import ratio_phase, roll_call
from server_app.assembly import Assembly, strategy_model, traffic, whole_row
from server_app.attendance import Attendance
from server_app.checkpoint import Checkpoints, Identity, Progress, check_identity
from server_app.console import layers_table, say
from server_app.lines import pooled_personalised, pooled_shared
from server_app.roll_call import RollCall
from server_app.rounds import Rounds
from server_app.run_folder import METRICS, PARAMETERS, RunFolder, keeping, read_summary
from strategies.roster import Outcome
from strategies.shell import SelectiveStrategy

Summary = dict[str, Any]


@dataclass
class Course:
    """What a run knows on its way.

    Attributes:
        grid, settings, folder: of the run.
        checkpoints: in the folder.
        before: where it goes on from; None from the beginning.
        known: what the summary says already.
    """

    grid: RecordingGrid
    settings: Settings
    folder: RunFolder
    checkpoints: Checkpoints
    before: Progress | None
    identity: Identity
    known: Summary = field(default_factory=dict)

    def follow(self) -> Summary:
        """To the end; returns what the summary says then."""
        settings, folder = self.settings, self.folder
        attendance = self._roll_call()
        evaluation = None if self.before is None else _outcome(self.before)
        test, keep = _tester(settings), _keeper(folder.path)

        def save(strategy: SelectiveStrategy, evaluation: Outcome | None) -> None:
            self._note_clients(attendance.found)
            self._save(strategy, evaluation)

        rounds = Rounds(self.grid, settings, folder, attendance, test, keep, save, evaluation)
        strategy = self._selected(attendance, rounds)
        say(traffic(settings, strategy))
        rounds.run(strategy, settings.federation.rounds)
        evaluations = rounds.evaluation().evaluations
        own, together = pooled_personalised(evaluations.values()), pooled_shared(evaluations.values())
        row, adapter = whole_row(settings, strategy), folder.path / "adapter"
        with keeping("the adapter", adapter, folder.path):
            note = to_peft(strategy_model(settings, strategy), row, adapter, self.known["labels"])
        if note:
            say(note)
        metric, known = self.known["metric"], len(strategy.roster.examples)
        part = {"evaluated_clients": len(evaluations), "known_clients": known} if len(evaluations) < known else {}
        return {
            **self.known,
            "final": {
                **figures("personalised", own, metric),
                "personalised_loss": own.loss,
                **figures("shared", together, metric),
                "shared_loss": together.loss,
                **part,
                "per_client": {str(client): _counts(found) for client, found in sorted(evaluations.items())},
            },
            "adapter_note": note,
        }

    def _roll_call(self) -> Attendance:
        """Who is there; labels and scores are those of the beginning."""
        settings, before = self.settings, self.before
        attendance = self._attendance()
        found, was = attendance.found, self.identity
        _check_alike(settings, found)
        self.identity = replace(was, clients=found.agreed)
        if before is None:
            self.known |= {
                "metric": resources.metric(settings),
                "floor": {"commonest_label_accuracy": found.commonest_label_accuracy},
                "labels": list(roll_call.agree_labels(settings, found)),
                "layer_scores": roll_call.layer_scores(settings, found),
                "clients": _clients(settings, found),
            }
        else:
            check_identity(was, self.identity, self.folder.path)
        attendance.labels = self.known["labels"]
        self.folder.write_summary({**self.known, "status": "running"})
        self.grid.reset()  # the roll call's bytes are no round's
        event("roll call ended", nodes=len(set(found.nodes.values())), clients=len(found.replies))
        return attendance

    def _attendance(self) -> Attendance:
        """After the roll call: of all clients, or of the first `min-clients`."""
        settings, was, run = self.settings, self.identity.clients, self.folder.path.name
        score = settings.selection.layers == "auto" and self.before is None
        absent = next((line.get("absent") or [] for line in reversed(self.folder.history())), [])
        present = set(was) - set(absent) if was else None
        least = settings.federation.min_clients
        say(f"Roll call: {f'{least} of ' if least else ''}{settings.federation.clients} clients ..")
        if not least:
            found = replace(roll_call.call(self.grid, settings, run, score), before=was)
            return Attendance(self.grid, settings, run, found, present=present)
        labels = self.known.get("labels", ())
        attendance = Attendance(self.grid, settings, run, RollCall({}, {}, before=was), labels, present)
        attendance.gather(least, score)
        return attendance

    def _selected(self, attendance: Attendance, rounds: Rounds) -> SelectiveStrategy:
        """The strategy of the selected layers, where it starts or goes on; the warm-up, if there is one, lies behind it then."""
        settings, before, found = self.settings, self.before, attendance.found
        known = found if before is None else found.of(found.before)  # who is new joins at the first look
        assembly = Assembly(settings, known, tuple(self.known["labels"]), self.folder.path)
        if before is not None and not before.warm_up:
            strategy = assembly.strategy(before.layers)
            strategy.go_on(before.state, standing=before.standing)
            self._note_settings()
            say(layers_table(self.known["layer_scores"], before.layers))
            return strategy
        count_ = resources.backbone(settings).num_layers
        warm, ratio = None, settings.selection.ratio
        if isinstance(ratio, str):
            warm = assembly.warm_up(count_)
            if before is None:
                self._save(warm, None)
            else:
                warm.go_on(before.state, before.sent, before.standing)
                self._note_settings()
            rounds.run(warm, settings.selection.warmup_rounds)
            attendance.look(warm)
            assembly = replace(assembly, found=attendance.found.of(warm.roster.examples))
            self.known["ratio"] = ratio_phase.estimate(self.grid, settings, warm, self.folder)
            ratio = float(self.known["ratio"]["ratio"])
        layers = roll_call.select_layers(settings, self.known["layer_scores"], ratio, count_)
        say(layers_table(self.known["layer_scores"], layers))
        strategy = assembly.strategy(layers, warm)
        self.known |= {"layers": list(layers), "parameters_per_message": strategy.layout.size}
        self.folder.write_summary({**self.known, "status": "running"})
        event("layers selected", layers=list(layers), round=strategy.state.round)
        self._save(strategy, None)
        return strategy

    def _save(self, strategy: SelectiveStrategy, evaluation: Outcome | None) -> None:
        """A checkpoint of where the run is now."""
        told = {key: value for key, value in self.known.items() if key != "clients"}  # they stand in the summary
        sent = strategy.sent if strategy.warm_up else None
        evaluations = {} if evaluation is None else evaluation.evaluations
        layers = strategy.roster.layers
        progress = Progress(strategy.state, strategy.warm_up, layers, told, sent, evaluations, strategy.standing)
        self.checkpoints.save(replace(self.identity, clients=strategy.roster.agreed), progress)

    def _note_settings(self) -> None:
        """Those that a run goes on with, when nothing is left that may refuse them."""
        self.folder.write_settings(self.settings.flat())

    def _note_clients(self, found: RollCall) -> None:
        """Those that joined, in the summary."""
        if found.replies.keys() - {int(client) for client in self.known["clients"]}:
            clients = {**self.known["clients"], **_clients(self.settings, found)}
            self.known["clients"] = dict(sorted(clients.items(), key=lambda one: int(one[0])))
            self.folder.write_summary({**self.known, "status": "running"})


def begin(grid: RecordingGrid, settings: Settings, folder: RunFolder, deployed: bool = False) -> Course:
    """A run from its beginning, or from where `resume` says that it goes on.

    Args:
        deployed: whether its clients are on the nodes of a deployment; it is noted in the folder.

    Raises:
        InputError: a checkpoint that does not fit the settings, the model or the data.
    """
    splits, backbone = resources.splits(settings), resources.backbone(settings)
    checkpoints = Checkpoints(folder.path, settings.run.checkpoints)
    now = Identity(settings.flat(), resources.frozen(settings), splits.sha256, {})
    kept = checkpoints.latest() if settings.run.resume else None
    if kept is None:
        data = {
            "name": splits.name,
            "sha256": splits.sha256,
            "train": len(splits.train),
            "pairs": "text_pair" in splits.train.column_names,
        }
        model = {"name": backbone.name, "fingerprint": backbone.fingerprint}
        folder.write_facts(settings.flat(), {"data": data, "model": model, DEPLOYED: deployed})
        return Course(grid, settings, folder, checkpoints, None, now)
    was, before = kept
    check_identity(was, now, folder.path)
    if before.state.round > settings.federation.rounds:
        problem = f"the run has come to round {before.state.round} already"
        raise InputError("rounds", settings.federation.rounds, problem, f"Give {before.state.round} or more")
    if before.evaluation and _final_epochs(was.settings, before) != _final_epochs(now.settings, before):
        before = replace(before, evaluation={})  # made as it is not asked for now
    if deployed:
        folder.note_deployed()
    say(f"Goes on after round {before.state.round}")
    for remark in remarks_on_resuming(settings, int(was.settings["rounds"]), before.state.round):
        say(f"Remark: {remark}")
    resumed = {"round": before.state.round, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    clients = read_summary(folder.path).get("clients") or {}
    known = {**before.known, "clients": clients, "resumed": [*before.known.get("resumed", []), resumed]}
    return Course(
        grid, settings, folder, checkpoints, before, Identity(now.settings, now.model, now.data, was.clients), known
    )


def _outcome(before: Progress) -> Outcome | None:
    """The evaluation over all clients that a checkpoint holds."""
    if not before.evaluation:
        return None
    return Outcome(asked=sorted(before.evaluation), evaluations=dict(before.evaluation))


def _final_epochs(settings: Flat, before: Progress) -> object:
    """How many there are before the evaluation of this round; a checkpoint's settings are those of its evaluation."""
    key = "final-local-epochs"
    return settings.get(key, defaults()[key]) if settings.get("rounds") == before.state.round else 0


def _counts(evaluation: Evaluation) -> dict[str, int | float]:
    """Without the confusion matrices."""
    return {name: value for name, value in vars(evaluation).items() if not isinstance(value, tuple)}


def _check_alike(settings: Settings, found: RollCall) -> None:
    """Clients hold the server's own model, and parts of its data set, or all of them data of their own.

    Raises:
        InputError: one does not.
    """
    for client, reply in sorted(found.replies.items()):
        if key := roll_call.differing(settings, reply):
            mend = "Have the same one, and the same Python version, on all machines"
            problem = f"client {client} holds another version of it than the server"
            raise InputError(key, settings.flat()[key], problem, mend)


def _tester(settings: Settings) -> Callable[[SelectiveStrategy], Counts] | None:
    examples = resources.tokenised(settings).test
    if examples is None:
        return None

    def test(strategy: SelectiveStrategy) -> Counts:
        model = strategy_model(settings, strategy)
        model.bind(whole_row(settings, strategy)[None].to(model.backbone.device))
        return count(model, examples, strategy.roster.labels, settings.run.evaluation_batch_size)

    return test


def _keeper(folder: Path) -> Callable[[SelectiveStrategy], None]:
    """Writes the shared parameters after each round, so that a run that dies leaves its last ones."""

    def keep(strategy: SelectiveStrategy) -> None:
        temporary = folder / f".{PARAMETERS}"
        with keeping(f"round {strategy.state.round}", folder / PARAMETERS, folder):
            save_parameters(temporary, strategy.layout, strategy.state.model.to(torch.float32))
            copymode(folder / METRICS, temporary)  # safetensors writes files for their owner alone, whatever the umask
            temporary.replace(folder / PARAMETERS)

    return keep


def _clients(settings: Settings, found: RollCall) -> dict[str, dict[str, Any]]:
    """What the roll call says of each client, and its name where the data have one."""
    kept, names = ("examples", "validation_examples", "steps", "labels", "scores"), resources.client_names(settings)
    return {
        str(client): {**({"name": names[client]} if names else {}), **{key: getattr(reply, key) for key in kept}}
        for client, reply in sorted(found.replies.items())
    }

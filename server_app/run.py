"""One run from settings to summary, over any grid: check, roll call, select, rounds, export.

The ServerApp calls it over Flower's grid; tests and experiments over one in their own process. It is the same run.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flwr.serverapp import Grid
from flwr.superlink.grid.grpc_grid import GrpcGrid

from federation import resources
from federation.durable import tidy
from federation.grids import RecordingGrid
from federation.logs import LOG, about, event, kept_in
from federation.remarks import remarks
from federation.resuming import how_to_go_on
from federation.run_paths import runs_folder
from federation.settings import Settings, defaults
from fedpeptao import __version__
from fedpeptao.console import RUN_FOLDER, fail
from fedpeptao.errors import InputError, RunError
from models.curvature import check_second_derivative
from server_app import roll_call
from server_app.checkpoint import FOLDER as CHECKPOINTS
from server_app.console import say, settings_table, summary_table
from server_app.course import Summary, begin
from server_app.finish import finish
from server_app.report.page import REPORT
from server_app.run_folder import SUMMARY, RunFolder, check_simulated, keeping

ENDED = (
    "the run's server was told to end: by flwr stop or a signal, because its SuperExec ended, "
    "or because the SuperLink was away for longer than a ServerApp's token lives (a minute at most)."
)


def run(grid: Grid, settings: Settings) -> Summary:
    """A whole run; its folder holds everything that is known whenever it ends, and however.

    Raises:
        InputError: bad settings, model or data, before any training.
        RunError: the run cannot go on.
    """
    resources.set_threads(settings)
    say(settings_table(settings.flat(), defaults()))
    for remark in remarks(settings):
        say(f"Remark: {remark}")
    check_inputs(settings)
    deployed = isinstance(grid, GrpcGrid)
    folder = open_folder(settings, deployed)
    say(f"{RUN_FOLDER}{folder.path}")
    started, status = time.monotonic(), "failed"
    summary: Summary = {}
    try:
        course = begin(RecordingGrid(grid), settings, folder, deployed)
    except BaseException:  # a run that may not go on is left as it was
        folder.close()
        raise
    with kept_in(folder.path / LOG), about(run=folder.path.name):
        event("run begins", version=__version__, after=course.before.state.round if course.before else None)
        if settings.run.resume:
            tidy_up(folder)
        try:
            summary = course.follow()
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except SystemExit:  # Flower's signal handler ends a ServerApp so, and says no why
            why = f"{ENDED} Go on with {how_to_go_on(folder.path)}"
            event("ended from outside", logging.ERROR, why=why)
            fail(f"error: {why}")
            raise
        finally:
            seconds = time.monotonic() - started
            event("run ends", logging.INFO if status == "completed" else logging.ERROR, status=status, seconds=seconds)
            summary = closed(folder, {**summary, "status": status, "seconds": seconds})
    say(summary_table(summary))
    return summary


def tidy_up(folder: RunFolder) -> None:
    """Half-written files of a server that was killed go, where no other server can be at work.

    `fedpeptao report` may write its page meanwhile: it takes no lock.
    """
    for place in (folder.path, folder.path / CHECKPOINTS) if folder.locked else ():
        for name in tidy(place, spared=REPORT):
            event("half-written file removed", file=str((place / name).relative_to(folder.path)))


def closed(folder: RunFolder, summary: Summary) -> Summary:
    """The whole summary, when the folder holds it. Where a run ends by an error, that is told, and none of its last files.

    Raises:
        RunError: the disk does not take what a run that completed leaves.
    """
    try:
        with keeping("the summary", folder.path / SUMMARY, folder.path):
            return finish(folder.path, summary)
    except RunError as error:
        if summary["status"] == "completed":
            raise
        event("the folder is not closed", logging.ERROR, why=str(error))
        return summary
    finally:
        folder.close()


def open_folder(settings: Settings, deployed: bool) -> RunFolder:
    """A new run's folder, or that of the run which goes on.

    Raises:
        InputError: it cannot be had; it is not where clients look for their states; or it is a deployed run's, and this is none.
    """
    place = runs_folder(settings)
    if not settings.run.resume:
        return RunFolder.create(place, settings.run.run_name)
    path = Path(settings.run.resume)
    if path.parent != place:
        problem = f"clients keep what is theirs in {place}"
        raise InputError("resume", str(path), problem, f"Set runs-dir to {path.parent}")
    if not deployed:
        check_simulated(path)
    return RunFolder.reopen(path)


def check_inputs(settings: Settings) -> None:
    """Everything that can be known before a node is asked: model, layers, data, lengths, shards.

    Raises:
        InputError: the first thing that is wrong.
    """
    resources.check_labels(settings)
    backbone = resources.backbone(settings)
    roll_call.check_layers(settings, backbone.num_layers)
    tokens = settings.model.positions_taken
    positions = backbone.text_positions(tokens)
    if positions is not None and positions < 1:
        mend = f"Use fewer than {positions + tokens}"
        raise InputError("prompt-tokens", tokens, "they leave no position for a text", mend)
    two = [*resources.label_words(settings), "0", "1"][:2]  # of any labels: the run's are not known yet
    model = resources.tuned(settings, tuple(range(backbone.num_layers)), two)  # refuses a head that it cannot have
    for key, estimator in (
        ("ratio", settings.selection.estimator),
        ("update-share", settings.local.share_estimator),
    ):
        if estimator:
            check_second_derivative(model, key, estimator)
    if settings.local.clients_together > 1 and (other := model.of_one_client()):
        problem = f"the head's {other[0]} cannot differ from client to client within one forward pass"
        raise InputError(
            "clients-together", settings.local.clients_together, problem, 'Set it to 1, or head to "linear"'
        )
    if settings.personal.label_prior == "client" and model.loss_is_over_vocabulary:
        problem = "a prior of the labels needs a loss over the labels, and a label word's is over the whole vocabulary"
        raise InputError(
            "label-prior",
            settings.personal.label_prior,
            problem,
            'Set label-loss to "label-words", or this to "auto" or "none"',
        )
    data = resources.tokenised(settings)
    cut = sum(part.cut for part in (data.train, data.validation, data.test) if part is not None)
    if cut:
        say(f"{cut} texts are cut to {settings.data.max_length} tokens (max-length)")
    resources.shards(settings)  # refuses more clients than there are examples for

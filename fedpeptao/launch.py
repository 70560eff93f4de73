"""A local simulation with `flwr run` that behaves as a command should: clean output, a true exit status, nothing left.

Flower keeps a SuperLink alive between runs, with the environment of the first; here each call has a SuperLink of its
own, in a folder and on ports of its own, and ends it. `flwr run --stream` exits with 0 whatever became of the run, so
the status is asked for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fedpeptao.console import RUN_FOLDER, recognise
from fedpeptao.processes import free_port
from fedpeptao.run_config import Scalar, to_toml
from fedpeptao.session import Session

if TYPE_CHECKING:
    from federation.settings import Settings

_TAIL_LINES = 15
_CAUSE = re.compile(r"(?:ServerApp thread raised an exception:|An exception occurred !!) (.+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Simulation:
    """What `fedpeptao run` was asked for; num-cpus and num-gpus are Ray's, per client that trains."""

    app_dir: Path
    overrides: Mapping[str, Scalar]
    settings: Settings
    nodes: int
    cpus_per_client: int
    gpus_per_client: float
    verbose: bool = False


@dataclass
class Stream:
    """What was seen in a run's log stream."""

    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    spoke: bool = False  # there were lines of ours
    explained: bool = False  # the last line of ours was an error: the run has told the user why it ended
    cause: str = ""  # what Flower says about the first exception
    folder: Path | None = None  # where the run keeps its results


@dataclass(frozen=True)
class Outcome:
    """How the run ended, by Flower's own account."""

    completed: bool
    details: str = ""


def run(simulation: Simulation) -> int:
    """Runs it to its end; returns the exit status: 0, 1 if the run failed, 128 + n after signal n."""
    print("starting the simulation (Flower and Ray; 10 to 20 seconds) ...", flush=True)
    with _open_log() as log:
        with Session() as session:
            session.environment = environment(session.home, simulation.settings, os.environ)
            overrides = session.home / "run-config.toml"
            overrides.write_text(to_toml(simulation.overrides), encoding="utf8")
            child = session.start(run_command(simulation, overrides))
            stream = follow(child.stdout or (), log, simulation.verbose)
            outcome = _outcome(session, child.wait())
        if session.left_over:
            print(f"still running: processes {session.left_over}; end them by hand", file=sys.stderr)
        if session.received is not None:
            print("stopped", file=sys.stderr, flush=True)
            close_folder(stream.folder)
            return 128 + session.received
        if not outcome.completed:
            close_folder(stream.folder)
            _explain(outcome, stream, log.name)
        return 0 if outcome.completed else 1


def close_folder(folder: Path | None) -> None:
    """Summary and plots of the finished rounds, where the server was stopped before it could write them."""
    if folder is None or not folder.is_dir():
        return
    from server_app.finish import close_interrupted

    try:
        summary = close_interrupted(folder)
    except OSError as error:
        how = f"make room there and go on with: fedpeptao run --resume {folder}"
        print(f"{folder} holds no summary ({error.strerror or error}): {how}", file=sys.stderr, flush=True)
        return
    how = "" if summary.get("status") == "completed" else f"; go on with: fedpeptao run --resume {folder}"
    print(f"{folder} holds {summary['rounds']} finished rounds{how}", file=sys.stderr, flush=True)


def run_command(simulation: Simulation, overrides: Path) -> list[str]:
    """The `flwr run` that does it."""
    federation = (
        f"num-supernodes={simulation.nodes} client-resources-num-cpus={simulation.cpus_per_client}"
        f" client-resources-num-gpus={simulation.gpus_per_client}"
    )
    command = ["flwr", "run", str(simulation.app_dir), "--stream", "--federation-config", federation]
    return [*command, "--run-config", str(overrides)] if simulation.overrides else command


def environment(home: Path, settings: Settings, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of everything that a run starts: SuperLink, ServerApp, Ray and the clients in it."""
    own = {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_GCS_SERVER_PORT": str(free_port()),
        "RAY_TMPDIR": str(home),  # its sockets' paths may have 107 characters
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # its fork handlers crash some of the daemons that Ray forks, before their exec
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else Ray rebuilds the environment of a `uv run` in each worker
        "SPT_NOENV": "1",  # Ray's process titles would otherwise overwrite the environment by which we find them
        "OMP_NUM_THREADS": str(settings.run.threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), base.get("PATH", os.defpath)]),
        "no_proxy": ",".join(filter(None, [base.get("no_proxy", base.get("NO_PROXY")), "127.0.0.1", "localhost"])),
    }
    if not needs_hub(settings):
        own["HF_HUB_OFFLINE"] = "1"
    env = {**base, **own}
    env.pop("RAY_ADDRESS", None)  # would send the clients to somebody's cluster
    if env.get("FLWR_LOG_LEVEL", "").upper() != "DEBUG":
        env.pop("FLWR_LOG_LEVEL", None)  # a higher level would swallow the run's own lines
    return env


def needs_hub(settings: Settings) -> bool:
    """Whether the model or the data have to be looked up on the hub."""
    model, dataset = settings.model.model, settings.data.dataset
    model_here = model == "all-MiniLM-L6-v2" or model.startswith("random:") or Path(model).is_absolute()
    data_here = Path(dataset).is_absolute() or (dataset == "stdlib-docs" and not settings.data.task)
    return not (model_here and data_here)


def follow(lines: Iterable[str], log: TextIO, verbose: bool) -> Stream:
    """Shows our lines (errors on stderr), with verbose all others too, and keeps everything in the log."""
    stream = Stream()
    for line in lines:
        log.write(line)
        plain = _COLOUR.sub("", line.rstrip())
        stream.tail.append(plain)
        if found := _CAUSE.search(plain):
            stream.cause = stream.cause or found[1]
        if said := recognise(line):
            stream.spoke, stream.explained = True, said.error
            if said.text.startswith(RUN_FOLDER):
                stream.folder = Path(said.text.removeprefix(RUN_FOLDER))
            print(said.text, file=sys.stderr if said.error else sys.stdout, flush=True)
        elif verbose:
            print(plain, flush=True)
    return stream


def read_outcome(listing: str) -> Outcome:
    """From what `flwr ls --format json` prints in a home that has seen one run."""
    try:
        latest = json.loads(listing)["runs"][0]
        status, details = str(latest["status"]), str(latest["status-details"])
    except (ValueError, LookupError, TypeError):
        return Outcome(False, "Flower does not say how the run ended")
    return Outcome(status == "finished:completed", f"{details} (Flower calls it {status})")


def _outcome(session: Session, exit_status: int) -> Outcome:
    if session.received is not None:
        return Outcome(False)
    if exit_status != 0:
        return Outcome(False, f"flwr run ended with status {exit_status}")
    listing = session.start(["flwr", "ls", "--format", "json"], stderr=subprocess.DEVNULL)
    return read_outcome(listing.communicate()[0])


def _explain(outcome: Outcome, stream: Stream, log_path: str) -> None:
    """Why it failed: in the run's own words if it had any, else in Flower's, and where the rest is."""
    if not stream.explained:
        print(f"the run failed: {stream.cause or outcome.details}", file=sys.stderr)
        print(f"the last {len(stream.tail)} lines of its log:", *stream.tail, sep="\n  ", file=sys.stderr)
    print(f"log: {log_path}", file=sys.stderr, flush=True)


def _open_log() -> TextIO:
    """A new file in the user's log folder, else in the temporary one."""
    from platformdirs import user_log_path

    name = f"run-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in (user_log_path("fedpeptao", appauthor=False), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / name).open("w", encoding="utf8", buffering=1)
        except OSError:
            continue
    return open(os.devnull, "w", encoding="utf8")

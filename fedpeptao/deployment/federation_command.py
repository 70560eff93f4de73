"""The subcommand federation: who is connected, and what came of them in the newest run. It loads no model library."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from federation.run_paths import runs_folder
from federation.settings import defaults, parse
from fedpeptao.deployment.overview import as_table, overview, read_log
from fedpeptao.errors import InputError

Subparsers = Any  # argparse keeps its type private
_PATIENCE_S = 60.0


def add_federation(subparsers: Subparsers) -> None:
    """`fedpeptao federation NAME`."""
    parser = subparsers.add_parser(
        "federation",
        help="show a federation of real machines: nodes, their clients, the newest run",
        description="Shows who is connected, when each client last replied and from which state it went on. "
        "Run it on the server, with the FLWR_HOME of the operator's flwr.",
    )
    parser.add_argument("name", metavar="NAME", help="of the connection, in Flower's config.toml")
    parser.add_argument("--runs-dir", type=Path, metavar="DIR", help="where runs are kept (default: the runs folder)")
    parser.add_argument("--run", metavar="RUN", help="a run's name there (default: the newest)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for machines")
    parser.set_defaults(work=_federation)


def _federation(arguments: argparse.Namespace) -> int:
    place = arguments.runs_dir or runs_folder(parse(defaults()))
    folder = _run_folder(place, arguments.run)
    nodes = _asked(arguments.name, "supernode", "list", arguments.name)
    runs = _asked(arguments.name, "ls", arguments.name)
    shown = overview(nodes, runs, folder, [] if folder is None else read_log(folder))
    if arguments.format == "json":
        print(json.dumps({"federation": arguments.name, **shown.flat()}, indent=2))
        return 0
    for line in as_table(arguments.name, shown):
        print(line)
    if folder is None:
        print(f"runs are looked for in {place} (--runs-dir, or XDG_DATA_HOME as the SuperExec has it)")
    return 0


def _run_folder(place: Path, name: str | None) -> Path | None:
    """The named run, else the one whose log was written to last; None where there is none."""
    if name is not None:
        if not (place / name / "metrics.jsonl").exists():
            raise InputError("--run", name, f"there is no such run in {place}", "Give its name there, or --runs-dir")
        return place / name
    try:
        found = [(path.stat().st_mtime, path.parent) for path in place.glob("*/metrics.jsonl")]
    except OSError as error:
        raise InputError("--runs-dir", str(place), error.strerror or str(error), "Mend its rights") from error
    return max(found)[1] if found else None


def _asked(name: str, *question: str) -> dict[str, Any]:
    """What `flwr` answers.

    Raises:
        InputError: it cannot be asked, or has no answer.
    """
    flwr = shutil.which("flwr", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if flwr is None:
        raise InputError("NAME", name, "Flower's command flwr is not there", "Install fedpeptao's requirements")
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    try:
        done = subprocess.run(
            [flwr, *question, "--format", "json"],
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        problem = f"flwr {' '.join(question)} did not answer within {_PATIENCE_S:g} s"
        raise InputError("NAME", name, problem, "See that the SuperLink runs") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if not answer.get("success"):
        said = answer.get("error-message") or done.stderr or done.stdout or "no reason given"
        mend = "See that FLWR_HOME is the operator's, NAME stands in its config.toml, and the SuperLink runs"
        raise InputError("NAME", name, f"flwr says: {' '.join(str(said).split())[:300]}", mend)
    return dict(answer)

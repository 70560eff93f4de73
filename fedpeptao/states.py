"""The subcommand states: what runs keep of their clients on this machine, and its removal. It loads no model library."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from client_app.state_folder import InUseError, KeptRun, kept_runs
from federation.run_paths import runs_folder
from federation.settings import defaults, parse
from fedpeptao.errors import InputError

Subparsers = Any  # argparse keeps its type private
_DAY_S = 86_400


def add_states(subparsers: Subparsers) -> None:
    """`fedpeptao states`."""
    parser = subparsers.add_parser(
        "states",
        help="list and remove what runs keep of their clients",
        description="Lists the client states that runs left on this machine; with --remove, removes them and a "
        "node's log of that run. States that a living process works with stay.",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="of a node: the folder clients in its --state; or a runs-dir (default: the runs folder)",
    )
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="only runs whose states are as old")
    parser.add_argument(
        "--remove", nargs="*", metavar="RUN", help="remove these; with --older-than, all if none is named"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(work=_states)


def _states(arguments: argparse.Namespace) -> int:
    place = arguments.state_dir.expanduser().resolve() if arguments.state_dir else runs_folder(parse(defaults()))
    now = time.time()
    try:
        kept = _chosen(kept_runs(place), arguments, place, now)
    except OSError as error:
        mend = "Call it as the user that the runs have"
        raise InputError("--state-dir", str(place), f"it cannot be looked into ({error.strerror})", mend) from error
    if arguments.remove is not None:
        return _remove(kept, arguments.json)
    if arguments.json:
        print(json.dumps([_facts(run, now) for run in kept], indent=2))
        return 0
    for line in _table(kept, place, now):
        print(line)
    return 0


def _chosen(kept: Sequence[KeptRun], arguments: argparse.Namespace, place: Path, now: float) -> list[KeptRun]:
    """Those named, if any are, and of these the ones that are old enough; InputError before anything is removed."""
    older, names = arguments.older_than, arguments.remove
    if older is not None and not 0 <= older < float("inf"):
        raise InputError("--older-than", older, "this is no number of days", "Give 0 or more")
    if names == [] and older is None:
        raise InputError("--remove", None, "no run is named", "Name runs, or say --older-than")
    for name in names or ():
        if name not in {run.run for run in kept}:
            raise InputError("--remove", name, f"no run of that name has client states in {place}", "Leave it out")
    named = [run for run in kept if not names or run.run in names]
    return [run for run in named if older is None or _age_days(run, now) >= older]


def _remove(kept: Sequence[KeptRun], as_json: bool) -> int:
    """0: all are gone; 1: some stay."""
    outcomes = {run.run: _removed(run) for run in kept}
    if as_json:
        print(json.dumps({name: {"removed": not why, "why": why or None} for name, why in outcomes.items()}, indent=2))
    else:
        for run in kept:
            what = f"{run.clients} clients, {_size(run)}"
            why = outcomes[run.run]
            print(f"{run.run}: stays ({why})" if why else f"{run.run}: removed ({what})")
        if not kept:
            print("Nothing to remove")
    return int(any(outcomes.values()))


def _removed(run: KeptRun) -> str:
    """Why it stays; "" if it is gone."""
    try:
        run.remove()
    except (InUseError, OSError) as error:
        return str(error)
    return ""


def _facts(run: KeptRun, now: float) -> dict[str, object]:
    return {
        "run": run.run,
        "folder": str(run.folder),
        "clients": run.clients,
        "bytes": run.size_bytes,
        "last_round": run.last_round,
        "age_days": round(_age_days(run, now), 3),
        "in_use": run.in_use,
    }


def _table(kept: Sequence[KeptRun], place: Path, now: float) -> Iterator[str]:
    if not kept:
        yield f"No client states in {place}"
        return
    width = max(len("run"), *(len(run.run) for run in kept))
    yield f"{'run':<{width}}  clients       size  last round      age"
    for run in kept:
        last = "-" if run.last_round is None else str(run.last_round)
        age = f"{_age_days(run, now):.1f} d"
        in_use = "  in use" if run.in_use else ""
        yield f"{run.run:<{width}}  {run.clients:7}  {_size(run):>9}  {last:>10}  {age:>7}{in_use}"


def _size(run: KeptRun) -> str:
    return f"{run.size_bytes / 1e6:.1f} MB" if run.size_bytes >= 1e5 else f"{run.size_bytes / 1e3:.1f} kB"


def _age_days(run: KeptRun, now: float) -> float:
    """Since a state was last written; 0 where that is in the future (the clock was set back)."""
    return max(0.0, now - run.changed) / _DAY_S

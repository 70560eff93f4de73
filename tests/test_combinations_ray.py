"""Every combination of parts runs in Flower's simulation with Ray, to the same bits as in this process.

By default a covering set. With FEDPEPTAO_ALL_COMBINATIONS=1 in the environment all that differ for Ray (tests/combinations.py),
which takes some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.settings import parse
from fedpeptao.launch import environment
from fedpeptao.processes import end_all
from tests.combinations import covering, for_ray, name, run_config
from tests.combinations_in_ray import ASKED, DONE
from tests.small_runs import Flat, Ran, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
CHECKOUT = Path(__file__).resolve().parents[1]
ALL = bool(os.environ.get("FEDPEPTAO_ALL_COMBINATIONS"))
LIMIT_S = 3600 if ALL else 300


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder by whose name all of a session's processes are known, and ended; Ray's paths have to be short."""
    folder = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp" if Path("/tmp").is_dir() else None))
    yield folder
    left = end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == []


@pytest.mark.timeout(LIMIT_S + 60)
def test_combinations_in_ray_give_the_bits_of_this_process(data_file: Path, tmp_path: Path, home: Path) -> None:
    """On 4 nodes in 2 processes there, on 2 nodes here, at the same time."""
    chosen = for_ray() if ALL else covering()
    there = [run_config(data_file, tmp_path / "ray" / name(parts), parts) for parts in chosen]
    session = begin(tmp_path, home, there)
    differing: dict[str, object] = {}
    try:
        here = [go(run_config(data_file, tmp_path / "here" / name(parts), parts)) for parts in chosen]
        session.wait(LIMIT_S)
    finally:
        session.kill()
        print((tmp_path / "log.txt").read_text(encoding="utf8")[-5000:])
    done = [json.loads(line) for line in (tmp_path / DONE).read_text(encoding="utf8").splitlines()]
    assert len(done) == len(chosen)
    print(f"{len(done)} runs in {sum(one['seconds'] for one in done):.0f} s")
    for parts, one, flat, ran in zip(chosen, done, there, here, strict=True):
        if found := one["error"] or differences(flat, ran):
            differing[name(parts)] = found
    assert differing == {}


def begin(folder: Path, home: Path, flats: list[Flat]) -> subprocess.Popen[bytes]:
    """The session, as a process of its own with what it says in log.txt."""
    (folder / ASKED).write_text(json.dumps(flats), encoding="utf8")
    env = {**environment(home, parse(flats[0]), os.environ), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "tests.combinations_in_ray", str(folder)]
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)


def differences(there: Flat, here: Ran) -> list[str]:
    """What differs but for times and bytes (which follow the number of nodes): parameters, lines, last figures."""
    other = Ran(parse(there), {}, Path(str(there["runs-dir"])) / "run")
    dropped = ("seconds", "bytes", "detail")
    found = [] if other.parameter_bytes == here.parameter_bytes else ["parameters"]
    for mine, theirs in zip(here.lines_without(*dropped), other.lines_without(*dropped), strict=True):
        found += [f"{key} of round {mine['round']}" for key in mine if mine[key] != theirs[key]]
    mine, theirs = (
        json.loads((folder / "summary.json").read_text(encoding="utf8")) for folder in (here.folder, other.folder)
    )
    return [*found, *(key for key in mine["final"] if mine["final"][key] != theirs["final"][key])]

"""Makes a virtual environment and installs this project with an extra: `python3.11 .ci/install.py VENV demo|dev`.

Only the standard library is used, since nothing else is there yet. Calls at the same time wait for one another, and a call
that finds everything as it should be installs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDED = {"demo": ("demo", "dev"), "dev": ("dev",)}  # which installed extras serve which wanted one


def main(venv: Path, extra: str) -> None:
    """Installs unless the stamp says that it is done."""
    wanted = requirements_hash()
    with locked(venv):
        if any(stamp(venv, installed) == wanted for installed in INCLUDED[extra]) and runs(venv):
            return
        print(f"installing fedpeptao[{extra}] into {venv} (some minutes the first time) ...", flush=True)
        make_venv(venv)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", "constraints.txt", "-e", f".[{extra}]"], check=True, cwd=ROOT)
        (venv / f".installed-{extra}").write_text(wanted, encoding="utf8")


def requirements_hash() -> str:
    """Of all that decides what is installed; settings in pyproject.toml are not among it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    parts = [project["build-system"], project["project"], project["tool"].get("hatch"), sys.version_info[:2], str(ROOT)]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf8")
    return hashlib.sha256((json.dumps(parts, sort_keys=True) + constraints).encode()).hexdigest()


def stamp(venv: Path, extra: str) -> str | None:
    """The requirements that were installed, or None."""
    try:
        return (venv / f".installed-{extra}").read_text(encoding="utf8")
    except OSError:
        return None


def runs(venv: Path) -> bool:
    """Whether the environment has a Python of this one's version (the system's may have gone since)."""
    version = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([venv / "bin" / "python", "-c", version], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def make_venv(venv: Path) -> None:
    """A fresh environment, unless there is a good one."""
    for old in venv.glob(".installed-*"):
        old.unlink()
    if runs(venv):
        return
    if (venv / "pyvenv.cfg").exists():
        shutil.rmtree(venv)
    elif venv.exists() and any(venv.iterdir()):
        sys.exit(f"{venv} is a folder with other things in it: name another one with VENV=...")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[None]:
    """Waits until no other call installs there; the system frees the lock of a call that died."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(venv.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).absolute(), sys.argv[2])
    except subprocess.CalledProcessError as error:
        sys.exit(f"the installation failed: {error.cmd[0]} ended with status {error.returncode}")
    except KeyboardInterrupt:
        sys.exit(130)

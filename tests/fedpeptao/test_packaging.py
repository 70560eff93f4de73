"""What the Makefile and the installation promise."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from federation.settings import defaults

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def install(tmp_path: Path) -> types.ModuleType:
    """.ci/install.py over a copy of what decides about the installation."""
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf8"), encoding="utf8")
    module.ROOT = tmp_path
    return module


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What the wheel puts into an environment, by what pyproject.toml says of it; no checkout around it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    wheel, folder = project["tool"]["hatch"]["build"]["targets"]["wheel"], tmp_path / "site-packages"
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in wheel.get("force-include", {}).items():
        shutil.copy(ROOT / source, folder / target)
    return folder


def called(folder: Path, *arguments: str) -> str:
    """What Python answers where these packages are installed, in a folder that is no checkout."""
    away = folder.parent / "away"
    away.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "XDG_DATA_HOME": str(away)}
    done = subprocess.run([sys.executable, *arguments], cwd=away, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_has_the_defaults(installed: Path) -> None:
    code = "import json; from federation import settings; print(json.dumps([settings.__file__, settings.defaults()]))"
    file, told = json.loads(called(installed, "-c", code))
    assert Path(file).is_relative_to(installed)
    assert told == defaults()
    assert "No client states in" in called(installed, "-m", "fedpeptao", "states")


def test_a_flower_app_has_its_own_defaults_wherever_a_wheel_is_installed(installed: Path, tmp_path: Path) -> None:
    """A node unpacks the application beside what is installed there: with its own pyproject.toml, and none in the package."""
    app = tmp_path / "app"
    shutil.copytree(installed / "federation", app / "federation", ignore=shutil.ignore_patterns("pyproject.toml"))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    (app / "pyproject.toml").write_text(text.replace("\nrounds = 20", "\nrounds = 21"), encoding="utf8")
    code = f"import sys; sys.path.insert(0, {str(app)!r}); from federation import settings; print(settings.defaults()['rounds'])"
    assert called(installed, "-c", code) == "21\n"


def test_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "-s", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    assert re.findall(r"^make ([a-z-]+) ", listed, re.MULTILINE) == [t for t in targets if t != "python"]


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    command = ["make", "-s", "-C", ROOT, "demo", "PYTHON=python3.no", f"VENV={tmp_path / 'v'}"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "python3.no does not run here" in failed.stderr
    assert not (tmp_path / "v").exists()


def test_every_pin_is_exact_and_fits_any_machine() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # so no +cpu, no path
    assert "torch==2.13.0" in pins
    assert not any(pin.startswith("fedpeptao") for pin in pins)


def test_requirements_decide_about_an_installation_and_settings_do_not(
    install: types.ModuleType, tmp_path: Path
) -> None:
    before = install.requirements_hash()
    project = tmp_path / "pyproject.toml"
    text = project.read_text(encoding="utf8")
    project.write_text(text.replace("\nrounds = 20", "\nrounds = 21"), encoding="utf8")
    assert project.read_text(encoding="utf8") != text
    assert install.requirements_hash() == before
    project.write_text(text.replace('"psutil>=6"', '"psutil>=7"'), encoding="utf8")
    assert install.requirements_hash() != before
    project.write_text(text, encoding="utf8")
    (tmp_path / "constraints.txt").write_text("torch==2.12.0\n", encoding="utf8")
    assert install.requirements_hash() != before


def test_a_second_call_installs_nothing_and_dev_serves_demo(
    install: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    venv = tmp_path / "v"

    def make(folder: Path) -> None:
        made.append(folder)
        for stamp in folder.glob(".installed-*"):  # as the real one does
            stamp.unlink()
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").write_text("#!/bin/sh\nexit 0\n", encoding="utf8")
        (folder / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(install, "make_venv", make)
    for extra in ("demo", "demo", "dev", "dev", "demo"):
        install.main(venv, extra)
    assert len(made) == 2


def test_a_folder_with_other_things_is_not_turned_into_an_environment(
    install: types.ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "letter.txt").write_text("dear", encoding="utf8")
    with pytest.raises(SystemExit, match="VENV"):
        install.make_venv(tmp_path / "v")
    assert (tmp_path / "v" / "letter.txt").exists()


def test_installations_wait_for_one_another(install: types.ModuleType, tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from runpy import run_path; "
        f"install = run_path({str(ROOT / '.ci' / 'install.py')!r}); "
        f"lock = install['locked'](Path({str(tmp_path / 'v')!r})); lock.__enter__(); print(flush=True); time.sleep(60)"
    )
    import fcntl

    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (tmp_path / "v.lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.kill()
    with install.locked(tmp_path / "v"):  # a dead holder's lock is free
        pass

"""What many tests share: one small data file, run-configs over it, and the lines that a run shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fedpeptao.console import recognise
from tests.small_runs import Flat, examples, small, write_jsonl

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 texts with three labels: 60 to train on, 20 to validate, 20 to test."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "texts.jsonl", examples(100))


@pytest.fixture
def make_flat(data_file: Path, tmp_path: Path) -> Callable[..., Flat]:
    """Complete small run-configs whose runs go to the test's own folder."""
    return lambda **overrides: small(data_file, tmp_path / "runs", **overrides)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without pictures, which take longer than a small run."""
    monkeypatch.setattr("server_app.plots.draw", lambda *given, **named: None)


@pytest.fixture
def shown() -> Iterator[list[str]]:
    """The lines that the user sees, as they come."""
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = recognise(record.getMessage())
            if said is not None:
                lines.append(said.text)

    keeper = Keeper()
    logging.getLogger("flwr").addHandler(keeper)
    yield lines
    logging.getLogger("flwr").removeHandler(keeper)

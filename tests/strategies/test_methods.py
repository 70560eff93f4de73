"""docs/METHODS.md can be used as it stands: each row's settings are accepted, odd in nothing, and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.quadratics import Federation, four_clients
from federation.remarks import remarks
from federation.settings import Scalar, defaults, parse
from fedpeptao import run_config
from strategies.build import Cohort, build
from strategies.client_rows import MemoryRows
from strategies.drift import DeviceCorrection, ServerCorrection
from strategies.fedpeptao import FedPepTAO
from strategies.released import Released
from strategies.server_optimizers import Adaptive, HeavyBall

PAGE = Path(__file__).parents[2] / "docs" / "METHODS.md"


def rows() -> dict[str, dict[str, Scalar]]:
    """Method -> its settings, as a user would give them."""
    table = PAGE.read_text(encoding="utf8").partition("<!-- methods -->")[2].partition("<!-- /methods -->")[0]
    found = {}
    for line in table.strip().splitlines()[2:]:
        method, text, *_ = (cell.strip() for cell in line.strip().strip("|").split("|"))
        found[method] = dict(run_config.overrides([text.strip("`")]))
    return found


METHODS = rows()


def test_the_page_has_the_methods_that_it_speaks_of() -> None:
    assert {"FedPepTAO", "FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedYogi", "SCAFFOLD", "released"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_row_is_accepted_and_nothing_in_it_is_odd(method: str) -> None:
    assert remarks(parse({**defaults(), **METHODS[method]})) == []


@pytest.mark.parametrize("method", METHODS)
def test_each_row_runs_and_is_no_other(method: str) -> None:
    ends = {}
    for name in {method, "FedAvg"}:
        federation = Federation(four_clients(), parse({**defaults(), **METHODS[name]}), per_round=2)
        ends[name] = federation.run(4)
    assert torch.isfinite(ends[method]).all()
    assert method == "FedAvg" or not torch.allclose(ends[method], ends["FedAvg"])


@pytest.mark.parametrize(
    ("method", "drift", "optimizer"),
    [
        ("SCAFFOLD", DeviceCorrection, None),
        ("FedVARP", ServerCorrection, None),
        ("FedAvgM", None, HeavyBall),
        ("FedYogi", None, Adaptive),
    ],
)
def test_rows_are_made_of_the_parts_they_name(method: str, drift: type | None, optimizer: type | None) -> None:
    settings = parse({**defaults(), **METHODS[method]})
    algorithm = build(settings, Cohort(4, 150, 2.4), Federation(four_clients(), settings).codec, MemoryRows)
    assert isinstance(algorithm, FedPepTAO)
    assert drift is None or isinstance(algorithm.drift, drift)
    assert optimizer is None or isinstance(algorithm.optimizer, optimizer)


def test_the_released_rows_build_the_released_arithmetic() -> None:
    for method, aliased in (("released", False), ("released, aliased", True)):
        settings = parse({**defaults(), **METHODS[method]})
        algorithm = build(settings, Cohort(100, 150, 2.4), Federation(four_clients(), settings).codec, MemoryRows)
        assert isinstance(algorithm, Released)
        assert (algorithm.aliased, algorithm.eta_s, algorithm.sample_rate) == (aliased, 0.05, 0.1)

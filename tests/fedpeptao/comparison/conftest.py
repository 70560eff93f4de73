"""What several tests of comparisons begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpeptao.comparison.grid import ComparisonGrid
from tests.fedpeptao.comparison.made_up import fill_seed, make


@pytest.fixture
def three(tmp_path: Path) -> ComparisonGrid:
    grid = make(tmp_path, [0, 1, 2])
    for seed in (0, 1, 2):
        fill_seed(grid, seed, 0.01 * seed)
    return grid

"""The small cell of results/compare/ci.yaml runs again, and agrees with its raw file.

To the last bit where CPU type and versions are those that the file names, else within half a point. Where it disagrees, the code
makes other figures of the same settings: raise FIGURES in fedpeptao/comparison/raw.py, and run the grids again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedpeptao.comparison.cell import run_cell
from fedpeptao.comparison.grid_files import read_grid
from fedpeptao.comparison.raw import Result, found, read_raw
from fedpeptao.comparison.sources import content_sha256

GRID = Path(__file__).parents[3] / "results" / "compare" / "ci.yaml"
HALF_A_POINT = 0.005
SCORES = ("personalised", "shared", "global_test")
COUNTS = ("round", "down", "up", "evaluation")


def agree(kept: Result, again: Result) -> bool:
    """Counts are the same everywhere; scores and losses to the last bit, or within half a point."""
    exact = all(kept.made[key] == again.made[key] for key in ("cpu", "versions"))
    for one, other in zip(kept.points, again.points, strict=True):
        if any(getattr(one, key) != getattr(other, key) for key in COUNTS):
            return False
        if exact and any(getattr(one, key) != getattr(other, key) for key in (*SCORES, "train_loss")):
            return False
        if any(abs(getattr(one, key) - getattr(other, key)) > HALF_A_POINT for key in SCORES):
            return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_the_small_cell_agrees_with_its_raw_file(tmp_path: Path) -> None:
    (cell,) = read_grid(GRID).cells()
    kept = read_raw(cell.path)
    assert found(cell) == kept  # of these settings
    if kept.made["source"] != content_sha256(cell):
        pytest.skip(f"the embedded data of this Python are not those of Python {kept.made['versions']['python']}")
    again = replace(cell, path=tmp_path / "again.jsonl")
    run_cell(again)
    made = read_raw(again.path)
    assert agree(kept, made)
    assert made.end["layers"] == kept.end["layers"]


def test_what_agreement_is(tmp_path: Path) -> None:
    (cell,) = read_grid(GRID).cells()
    kept = read_raw(cell.path)
    *before, last = kept.points
    near = replace(kept, points=(*before, replace(last, shared=last.shared + 0.004)))
    far = replace(kept, points=(*before, replace(last, shared=last.shared + 0.006)))
    more = replace(kept, points=(*before, replace(last, up=last.up + 1)))
    loss = replace(kept, points=(*before, replace(last, train_loss=(last.train_loss or 0) + 1e-7)))
    assert agree(kept, kept)
    assert not any(agree(kept, other) for other in (near, far, more, loss))
    elsewhere = {**kept.made, "cpu": "another CPU"}
    assert [agree(kept, replace(other, made=elsewhere)) for other in (near, far, more, loss)] == [
        True,
        False,
        False,
        True,
    ]

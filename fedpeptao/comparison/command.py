"""`fedpeptao compare GRID`: runs the cells that are not there, then makes the tables from the raw files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeptao.errors import InputError

if TYPE_CHECKING:
    from fedpeptao.comparison.grid import Cell, ComparisonGrid


def add_compare(subparsers: Any) -> None:
    """The subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="run a grid of methods, tasks, skews and seeds, and make its tables",
        description="Runs the cells of a grid file that are not there yet, then makes its tables from the raw files alone.",
    )
    parser.add_argument("grid", type=Path, metavar="GRID", help="a YAML file such as results/demo.yaml")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="run only these methods")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="run only these tasks")
    parser.add_argument("--skews", nargs="+", type=float, metavar="ALPHA", help="run only these skews")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="run only these seeds")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (default: 1)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="say which cells there are and which would run, and stop")
    instead.add_argument("--tables", action="store_true", help="make the tables of all that is there, and run nothing")
    parser.set_defaults(work=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of all processes that are started; before torch is imported
    from fedpeptao.comparison.grid_files import read_grid

    if arguments.jobs < 1:
        raise InputError("--jobs", arguments.jobs, "nothing would run", "Give 1 or more")
    grid = read_grid(arguments.grid)
    _check_known("--only", arguments.only, list(grid.methods))
    _check_known("--tasks", arguments.tasks, list(grid.tasks))
    _check_known("--skews", arguments.skews, [alpha for alpha in grid.seeds if alpha is not None])
    _check_known("--seeds", arguments.seeds, sorted({seed for seeds in grid.seeds.values() for seed in seeds}))
    if arguments.tables:
        _write(grid)
        return 0
    wanted = [
        cell
        for cell in grid.cells()
        if (arguments.only is None or cell.method in arguments.only)
        and (arguments.tasks is None or cell.task in arguments.tasks)
        and (arguments.skews is None or cell.alpha is None or cell.alpha in arguments.skews)
        and (arguments.seeds is None or cell.seed in arguments.seeds)
    ]
    if untuned := [name for name in grid.untuned() if arguments.only is None or name in arguments.only]:
        first = grid.tuning.path if grid.tuning else ""
        print(f"No learning rate is chosen yet for {', '.join(untuned)}. First: fedpeptao compare {first}", flush=True)
    missing = _missing(wanted, taking_over=not arguments.list)
    if arguments.list:
        for cell in wanted:
            print(f"{'to run' if cell in missing else 'there':6}  {cell.path.stem}")
        print(f"{len(wanted)} cells, {len(missing)} to run")
        return 0
    failed = _run(missing, arguments.jobs) if missing else []
    _write(read_grid(arguments.grid))
    return 1 if failed or untuned else 0


def _missing(wanted: Sequence[Cell], taking_over: bool) -> list[Cell]:
    """Cells that have to run; taking_over: those that another grid has are copied first.

    Raises:
        InputError: the data of one are out of reach.
    """
    from fedpeptao.comparison.raw import found, taken_over
    from fedpeptao.comparison.sources import check_located, content_sha256

    missing = []
    for cell in wanted:
        source = content_sha256(cell)
        if found(cell, source):
            continue
        if taking_over:
            if path := taken_over(cell, source):
                print(f"{cell.path.stem} is {path.parent.name}/{path.stem}", flush=True)
                continue
            check_located(cell)
        missing.append(cell)
    return missing


def _run(missing: Sequence[Cell], jobs: int) -> list[Cell]:
    from fedpeptao.comparison.runner import run_cells

    print(f"{len(missing)} cells to run", flush=True)
    failed = run_cells(missing, _work, jobs, lambda line: print(line, flush=True))
    if failed:
        print(f"{len(failed)} failed: {', '.join(cell.path.stem for cell in failed)}", file=sys.stderr)
    return failed


def _write(grid: ComparisonGrid) -> None:
    """The tables of all that is there; without a report that of a whole grid is printed."""
    from fedpeptao.comparison.page import rates_table, write_page
    from fedpeptao.comparison.raw import found
    from fedpeptao.comparison.side_by_side import write_table

    if grid.report is not None:
        write_page(grid, grid.report)
        print(f"tables: {grid.report.page.resolve()}")
    elif grid.candidates:
        print(rates_table(grid))
    elif not grid.untuned() and all((one := found(cell)) and one.completed for cell in grid.cells()):
        print(write_table(grid))


def _work(cell: Cell) -> None:
    """In a process of its own."""
    from fedpeptao.comparison.cell import run_cell

    run_cell(cell)


def _check_known(option: str, given: Sequence[Any] | None, known: Sequence[Any]) -> None:
    for one in given or ():
        if one not in known:
            has = f"It has {', '.join(map(str, known))}" if known else f"Leave {option} out"
            raise InputError(option, one, "the grid has none of it", has)

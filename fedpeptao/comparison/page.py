"""A grid's part of the page of results, between two comments that bear its name: from the raw files alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from federation.durable import write_atomically
from federation.metrics import NAMES
from fedpeptao.comparison.choice import choice
from fedpeptao.comparison.curves import draw
from fedpeptao.comparison.grid import ComparisonGrid, Report
from fedpeptao.comparison.overview import overview
from fedpeptao.comparison.places import Place, load_places
from fedpeptao.comparison.rates import best, candidate_figures
from fedpeptao.comparison.raw import found
from fedpeptao.comparison.statistics import FEWEST_SEEDS
from fedpeptao.comparison.table_text import MISSING, markdown
from fedpeptao.comparison.tables import equal_bytes, equal_rounds, last_evaluations, to_target
from fedpeptao.errors import InputError


def write_page(grid: ComparisonGrid, report: Report) -> None:
    """Puts the grid's tables and pictures into its page.

    Raises:
        InputError: the page has no place for them.
    """
    begin, end = f"<!-- {grid.path.stem} -->", f"<!-- /{grid.path.stem} -->"
    text = report.page.read_text(encoding="utf8") if report.page.exists() else ""
    if begin not in text or end not in text:
        mend = f"Write {begin} and {end} where they belong"
        raise InputError("page", str(report.page), "it has no place for this grid's tables", mend)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    parts = "\n\n".join(
        [made_by(grid, report.page), *([rates_table(grid)] if grid.candidates else _places(grid, report))]
    )
    write_atomically(report.page, f"{before}{begin}\n{parts}\n{end}{after}".encode())


def made_by(grid: ComparisonGrid, page: Path) -> str:
    """Command, raw files, machines and versions."""
    runs = [one for one in map(found, grid.cells()) if one]
    cpus = sorted({one.made["cpu"] for one in runs})
    versions = sorted(
        {f"Python {one.made['versions']['python']}, torch {one.made['versions']['torch']}" for one in runs}
    )
    command = f"Made by `fedpeptao compare {Path(*grid.path.resolve().parts[-3:])}`"
    where = f"[its raw files]({Path(os.path.relpath(grid.folder, page.parent)).as_posix()}/)"
    return f"{command} from {where}: {len(runs)} runs, on {'; '.join(cpus) or '-'}; {'; '.join(versions) or '-'}."


def rates_table(grid: ComparisonGrid) -> str:
    """Each candidate's figure; the chosen one bold."""
    figures = candidate_figures(grid)
    rates = sorted({rate for row in figures.values() for rate in row})
    rows = []
    for method, row in figures.items():
        whole = not any(figure is None for figure in row.values())
        chosen = best(row) if whole else None
        cells = []
        for rate in rates:
            figure = row.get(rate)
            text = ("" if rate not in row else MISSING) if figure is None else f"{100 * figure:.1f}"
            cells.append(f"**{text}**" if rate == chosen else text)
        edge = "an end of the candidates" if chosen in (min(row), max(row)) else ""
        rows.append([grid.methods[method].title or method, *cells, edge])
    return markdown(["personalised, all clients", *(f"{rate:g}" for rate in rates), ""], rows)


def _places(grid: ComparisonGrid, report: Report) -> Iterator[str]:
    places = load_places(grid)
    compared = [place for place in places if place.of(report.reference)]
    if len(compared) > 1:
        yield "### Side by side"
        yield "Means over seeds; in brackets the mean paired difference to the reference. The tables further down have intervals."
        yield overview({_heading(grid, place): place for place in compared}, report)
    for place in compared:
        yield f"### {_heading(grid, place)}"
        yield f"{_figures(place)} {_seeds(place, report)} {_differences(place, grid, report)}"
        yield from [choice(place, report)] if report.choice else []
        yield from (table(place, report) for table in (equal_rounds, last_evaluations, equal_bytes, to_target))
        name = "-".join(
            ["compare", grid.path.stem, *([place.task] if place.task else []), f"alpha{place.alpha or 0:g}"]
        )
        picture = Path("images") / f"{name}.svg"
        if draw(place, report.page.parent / picture):
            yield f"![{_heading(grid, place)}: personalised figure by round and by traffic]({picture.as_posix()})"
    if waiting := [_heading(grid, place) for place in places if not place.of(report.reference)]:
        yield f"Without a run of the reference so far, and so without tables: {'; '.join(waiting)}."


def _heading(grid: ComparisonGrid, place: Place) -> str:
    skew = "" if place.alpha is None else f", alpha {place.alpha:g}"
    return f"{place.task or grid.path.stem}{skew}"


def _figures(place: Place) -> str:
    return f"{NAMES[place.metric][:1].upper()}{NAMES[place.metric][1:]} in percent, differences in points."


def _seeds(place: Place, report: Report) -> str:
    """Those that the reference has run with."""
    there = list(place.of(report.reference))
    waiting = ", ".join(str(seed) for seed in place.seeds if seed not in there)
    also = f" (not yet: {waiting})" if waiting else ""
    if len(there) == 1:
        return f"Seed {there[0]}{also}."
    return f"Mean and standard deviation over seeds {', '.join(map(str, there))}{also}."


def _differences(place: Place, grid: ComparisonGrid, report: Report) -> str:
    """Which interval there is."""
    name = grid.methods[report.reference].title or report.reference
    there = len(place.of(report.reference))
    if there >= FEWEST_SEEDS:
        how = f"95 % t intervals over the {there} seeds"
    else:
        runs = "this run" if there == 1 else f"each of the {there} runs"
        how = f"95 % intervals of a paired bootstrap over the clients of {runs}, where there is one"
    return f"Reference: {name}; in brackets {how}."

"""A grid's part of the page of results, between two comments that bear its name: from the raw files alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from federation.durable import make_folder, write_atomically
from federation.metrics import NAMES
from fedpeptao.comparison.choice import LEVEL, choice
from fedpeptao.comparison.curves import draw
from fedpeptao.comparison.grid import ComparisonGrid, Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.overview import overview
from fedpeptao.comparison.pairs import pairs
from fedpeptao.comparison.places import Place, load_places
from fedpeptao.comparison.rates import best, candidate_figures
from fedpeptao.comparison.raw import found
from fedpeptao.comparison.table_text import MISSING, markdown
from fedpeptao.comparison.tables import equal_bytes, equal_rounds, last_evaluations, to_target
from fedpeptao.errors import InputError


def write_page(grid: ComparisonGrid, report: Report) -> None:
    """Puts the grid's figures and pictures into its page, and all its tables into a page of the grid's own beside it.

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
    if grid.candidates:
        parts = [made_by(grid, report.page), rates_table(grid)]
    else:
        places = load_places(grid)
        tables = report.page.parent / report.page.stem.lower() / f"{grid.path.stem}.md"
        parts = [made_by(grid, report.page), *_summary(grid, report, places, tables)]
        make_folder(tables.parent)
        write_atomically(tables, _whole(grid, report, places, tables).encode())
    whole = "\n\n".join(parts)
    write_atomically(report.page, f"{before}{begin}\n{whole}\n{end}{after}".encode())


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


def _summary(grid: ComparisonGrid, report: Report, places: list[Place], tables: Path) -> Iterator[str]:
    """What a reader wants first: each figure of all places side by side (of a single place its table), and the pictures."""
    compared = [place for place in places if place.of(report.reference)]
    if len(compared) > 1:
        yield "Means over seeds; in brackets the mean paired difference to the reference, over the seeds that both have."
        yield overview({f"{_heading(grid, place)} ({_count(place, report)})": place for place in compared}, report)
    for place in compared if len(compared) == 1 else ():
        yield f"**{_heading(grid, place)}.** {_told(place, grid, report)}"
        yield equal_rounds(place, report)
    if compared:
        yield from pairs({_heading(grid, place): place for place in compared}, report)
        yield from _choice(grid, report, compared)
    for place in compared:
        yield from _pictures(grid, report, place)
    if compared:
        link = tables.relative_to(report.page.parent).as_posix()
        yield f"[All tables]({link}): intervals, the last evaluations, equal bytes, rounds, bytes and seconds to a target."
    if waiting := [_heading(grid, place) for place in places if not place.of(report.reference)]:
        yield f"Without a run of the reference so far, and so without tables: {'; '.join(waiting)}."


def _choice(grid: ComparisonGrid, report: Report, places: list[Place]) -> Iterator[str]:
    """Nothing where no methods were named for it, or none have met."""
    heads, unlike = {}, False
    for place in places:
        told = any(_unlike_machines(place, [method for method in place.shown if method.name in report.choice]))
        heads[f"{_heading(grid, place)}{' *' if told else ''}"] = place
        unlike = unlike or told
    if tables := choice(heads, report):
        bold = f"Bold: the best at a place, and what is less than {100 * LEVEL:g} point below it."
        roughly = "* Seconds are of several types of CPU or taken in two ways, and compare roughly at best."
        yield " ".join(["**Which to choose when.**", bold, *([roughly] if unlike else [])])
        yield tables


def _pictures(grid: ComparisonGrid, report: Report, place: Place) -> Iterator[str]:
    """Those that the grid names; without any, one of all methods."""
    whole = f"{_heading(grid, place)}: figures by round and by traffic"
    for name, methods in (report.pictures or {"": tuple(grid.methods)}).items():
        path = Path("images") / f"{'-'.join([_file_name(grid, place), *name.split()])}.svg"
        if draw(place, [grid.methods[method] for method in methods], report.page.parent / path):
            yield f"![{', '.join([whole, *([name] if name else [])])}]({path.as_posix()})"


def _whole(grid: ComparisonGrid, report: Report, places: list[Place], page: Path) -> str:
    """The page of all the grid's tables, a section for each place."""
    back = Path(os.path.relpath(report.page, page.parent)).as_posix()
    parts = [f"# All tables of {grid.path.stem}", f"{made_by(grid, page)} [How to read them]({back})."]
    for place in places:
        if place.of(report.reference):
            parts += [f"## {_heading(grid, place)}", _told(place, grid, report)]
            parts += [table(place, report) for table in (equal_rounds, last_evaluations, equal_bytes, to_target)]
    return "\n\n".join(parts) + "\n"


def _file_name(grid: ComparisonGrid, place: Place) -> str:
    return "-".join(["compare", grid.path.stem, *([place.task] if place.task else []), f"alpha{place.alpha or 0:g}"])


def _told(place: Place, grid: ComparisonGrid, report: Report) -> str:
    """Unit, seeds, the reference, what is not there, and where seconds are of unlike machines."""
    said = [
        _figures(place),
        _seeds(place, report),
        f"Reference: {grid.methods[report.reference].title or report.reference}.",
    ]
    if place.waiting:
        said.append(f"Not run here: {'; '.join(method.title or method.name for method in place.waiting)}.")
    return " ".join([*said, *_unlike_machines(place, place.shown)])


def _unlike_machines(place: Place, methods: Sequence[Method]) -> Iterator[str]:
    """What is to be said of their seconds where there are some, or where they were taken in two ways."""
    runs = [one for method in methods for one in place.of(method.name).values()]
    cpus, clocks = {one.made["cpu"] for one in runs}, {one.made.get("clock") for one in runs}
    several = [f"of {len(cpus)} types of CPU"] if len(cpus) > 1 else []
    several += ["taken in two ways"] if len(clocks) > 1 else []
    if several:
        yield f"Seconds are {' and '.join(several)}, and compare roughly at best."


def _heading(grid: ComparisonGrid, place: Place) -> str:
    skew = "" if place.alpha is None else f", alpha {place.alpha:g}"
    return f"{place.task or grid.path.stem}{skew}"


def _figures(place: Place) -> str:
    return f"{NAMES[place.metric][:1].upper()}{NAMES[place.metric][1:]} in percent, differences in points."


def _count(place: Place, report: Report) -> str:
    """How many seeds the reference has run with, of how many."""
    there, planned = len(place.of(report.reference)), len(place.seeds)
    return f"{there}{'' if there == planned else f' of {planned}'} seed{'' if planned == 1 else 's'}"


def _seeds(place: Place, report: Report) -> str:
    """Those that the reference has run with."""
    there = list(place.of(report.reference))
    waiting = ", ".join(str(seed) for seed in place.seeds if seed not in there)
    also = f" (not yet: {waiting})" if waiting else ""
    if len(there) == 1:
        return f"Seed {there[0]}{also}."
    return f"Mean and standard deviation over seeds {', '.join(map(str, there))}{also}."

"""Grid files: what they may say, and the grid that they come to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.settings import Scalar, defaults, parse
from fedpeptao.comparison.curves import COLOURS
from fedpeptao.comparison.grid import ComparisonGrid, Report
from fedpeptao.comparison.methods import Method, find, read_methods
from fedpeptao.comparison.rates import chosen_rates
from fedpeptao.comparison.sources import in_folder, mixing
from fedpeptao.comparison.yaml_files import check_keys, of_type, read_yaml, without_repeats
from fedpeptao.errors import InputError

KEYS = ("base", "methods", "methods-from", "tasks", "skews", "seeds", "learning-rates", "report")
REPORT_KEYS = ("page", "reference", "target")
EXAMPLE = "Give a YAML file with base, methods and seeds, such as results/demo.yaml"
CANDIDATES = "candidates"


def read_grid(path: Path) -> ComparisonGrid:
    """A grid from its YAML file, with the rates that its tuning has chosen so far.

    Raises:
        InputError: the file, or anything it names, cannot be used.
    """
    content = read_yaml(path, EXAMPLE)
    check_keys(path, "grid", content, KEYS)
    if not content.get("methods"):
        raise InputError("grid", str(path), "it names no methods", EXAMPLE)
    methods = _methods(path, content)
    base = {**defaults(), **of_type(path, "base", content.get("base") or {}, dict, "settings and values")}
    tuning, candidates, chosen = _tuning(path, content.get("learning-rates"))
    report = _report(path, content.get("report"), methods, candidates)
    grid = ComparisonGrid(
        path, base, methods, _tasks(path, content), _seeds(path, content), tuning, candidates, report, chosen
    )
    for method in methods.values():  # a wrong setting is found before any cell runs
        rate = method.rates[0] if method.rates else None
        for task in grid.tasks:
            cell = grid.cell(method.name, task, next(iter(grid.seeds)), 0, rate)
            parse({**in_folder(cell.settings, Path("/")), **mixing(Path("/", name) for name in cell.prompt_sources)})
            for settings in cell.prompt_sources.values():
                parse(in_folder(settings, Path("/")))
    return grid


def _methods(path: Path, content: Mapping[str, Any]) -> dict[str, Method]:
    """By name from the file they share, or with their settings right here."""
    named = content["methods"]
    if isinstance(named, dict):
        rows = {name: of_type(path, name, row or {}, dict, "settings and values") for name, row in named.items()}
        return {str(name): Method(str(name), str(name), settings) for name, settings in rows.items()}
    of_type(path, "methods", named, list, "names of methods, or methods with their settings")
    shared = path.parent / str(content.get("methods-from", "methods.yaml"))
    known = read_methods(shared)
    return {name: find(known, name, "methods", path) for name in without_repeats(path, "methods", named)}


def _tasks(path: Path, content: Mapping[str, Any]) -> dict[str, Mapping[str, Scalar]]:
    tasks = of_type(path, "tasks", content.get("tasks") or {"": {}}, dict, "names of tasks with their settings")
    return {str(name): of_type(path, name, own or {}, dict, "settings and values") for name, own in tasks.items()}


def _seeds(path: Path, content: Mapping[str, Any]) -> dict[float | None, list[int]]:
    if "skews" not in content:
        return {None: _seed_list(path, "seeds", content.get("seeds"))}
    if "seeds" in content:
        problem = "skews name the seeds of each alpha already"
        raise InputError(f"seeds in {path.name}", content["seeds"], problem, "Leave one of them out")
    skews = of_type(path, "skews", content["skews"], dict, "alphas, each with a list of seeds")
    for alpha in skews:
        of_type(path, "skews", alpha, (int, float), "alphas, each with a list of seeds")
    return {float(alpha): _seed_list(path, f"skews: {alpha}", seeds) for alpha, seeds in skews.items()}


def _seed_list(path: Path, key: str, seeds: Any) -> list[int]:
    seeds = of_type(path, key, seeds, list, "a list of whole numbers, such as [0, 1]")
    if not seeds:
        raise InputError(f"{key} in {path.name}", seeds, "there is no seed", "Give at least one")
    return without_repeats(path, key, [of_type(path, key, seed, int, "a list of whole numbers") for seed in seeds])


def _tuning(path: Path, named: Any) -> tuple[ComparisonGrid | None, bool, dict[str, float]]:
    if named is None or named == CANDIDATES:
        return None, named == CANDIDATES, {}
    key = "learning-rates"
    tuning = read_grid(path.parent / of_type(path, key, named, str, f"{CANDIDATES}, or the grid that chose them"))
    if not tuning.candidates:
        problem = "this grid chooses no learning rates"
        raise InputError(f"{key} in {path.name}", named, problem, f"Name one that says {key}: {CANDIDATES}")
    return tuning, False, chosen_rates(tuning)


def _report(path: Path, content: Any, methods: Mapping[str, Method], candidates: bool) -> Report | None:
    """A grid that chooses learning rates has a page, and nothing to measure against."""
    if content is None:
        return None
    of_type(path, "report", content, dict, "page, reference and target")
    check_keys(path, "report", content, (*REPORT_KEYS, "choice", "pairs", "pictures"))
    wanted = REPORT_KEYS[:1] if candidates else REPORT_KEYS
    if missing := [key for key in wanted if key not in content]:
        raise InputError(f"report in {path.name}", missing[0], "it is missing", f"Give {', '.join(wanted)}")
    if candidates:
        return Report(path.parent / str(content["page"]), "", 0.0)
    find(methods, content["reference"], "report: reference", path)
    target = of_type(path, "report: target", content["target"], (int, float), "a share, such as 0.95")
    chosen = _names(path, "report: choice", content.get("choice", []), methods)
    return Report(
        path.parent / str(content["page"]),
        content["reference"],
        float(target),
        chosen,
        _pairs(path, content, methods),
        _pictures(path, content, methods),
    )


def _pairs(path: Path, content: Mapping[str, Any], methods: Mapping[str, Method]) -> tuple[tuple[str, str], ...]:
    key, wanted = "report: pairs", "a list of pairs of methods, such as [[fedpeptao, p-tuning-v2]]"
    pairs = [_names(path, key, pair, methods) for pair in of_type(path, key, content.get("pairs", []), list, wanted)]
    for pair in pairs:
        if len(pair) != 2:
            raise InputError(f"{key} in {path.name}", ", ".join(pair), "a pair is of two methods", f"Give {wanted}")
    return tuple((one, other) for one, other in pairs)


def _pictures(path: Path, content: Mapping[str, Any], methods: Mapping[str, Method]) -> dict[str, tuple[str, ...]]:
    named = of_type(path, "report: pictures", content.get("pictures", {}), dict, "names, each with a list of methods")
    pictures = {
        str(name): _names(path, f"report: pictures: {name}", several, methods) for name, several in named.items()
    }
    for name, several in pictures.items():
        if not 0 < len(several) <= len(COLOURS):
            problem = f"a picture has 1 to {len(COLOURS)} rows: so many colours can be told apart"
            raise InputError(f"report: pictures: {name} in {path.name}", len(several), problem, "Make it two pictures")
        if not re.fullmatch("[A-Za-z0-9 ]+", name):
            problem = "it becomes a file's name, and has others than letters, digits and spaces"
            raise InputError(f"report: pictures in {path.name}", name, problem, "Give it another name")
    return pictures


def _names(path: Path, key: str, content: Any, methods: Mapping[str, Method]) -> tuple[str, ...]:
    """Of methods of the grid."""
    names = without_repeats(path, key, of_type(path, key, content, list, "a list of names of methods"))
    for name in names:
        find(methods, name, key, path)
    return tuple(names)

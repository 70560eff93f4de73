"""The raw files of one task and skew, by method and seed: what a table is made of. What is missing stays missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from federation.metrics import ACCURACY
from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.raw import Point, Result, evened, found
from fedpeptao.comparison.statistics import FEWEST_SEEDS, Interval, Pair, at_most_rounds, bootstrap_interval, t_interval
from fedpeptao.errors import InputError

Figure = Callable[[Point], float | None]


def personalised(point: Point) -> float | None:
    """Clients' shards, each with its own model."""
    return point.personalised


def shared(point: Point) -> float | None:
    """Clients' shards with the shared model; None while nothing has travelled that made it one."""
    return point.shared if point.sent else None


def global_test(point: Point) -> float | None:
    """The shared model on the common test set; None while nothing has travelled."""
    return point.global_test if point.sent else None


@dataclass(frozen=True)
class Place:
    """One task at one skew.

    Attributes:
        task, alpha: which; "" and None where the grid does not vary them.
        methods: in the order of the tables.
        seeds: planned.
        rounds: of the grid: where equal rounds are read. A method that sends less may be run on, for equal bytes.
        results: method -> seed -> its raw file, None where there is none.
    """

    task: str
    alpha: float | None
    methods: Sequence[Method]
    seeds: Sequence[int]
    rounds: int
    results: Mapping[str, Mapping[int, Result | None]]

    @property
    def shown(self) -> list[Method]:
        """Those that have been run here, with whatever end."""
        return [method for method in self.methods if any(self.results[method.name].values())]

    @property
    def waiting(self) -> list[Method]:
        """Those that have not."""
        return [method for method in self.methods if method not in self.shown]

    def of(self, method: str) -> dict[int, Result]:
        """The runs that came to their end, by seed."""
        return {seed: one for seed, one in self.results[method].items() if one is not None and one.completed}

    def closing(self, method: str) -> dict[int, Point]:
        """The evaluation that stands for a run at equal rounds, by seed; a floor's and a ceiling's is its last."""
        role = next(one.role for one in self.methods if one.name == method)
        points = {
            seed: at_most_rounds(one.points, self.rounds) if role == "method" else one.last
            for seed, one in self.of(method).items()
        }
        return {seed: point for seed, point in points.items() if point is not None}

    def gaps(self, method: str) -> str:
        """What a row has to say of the seeds that it lacks; "" where all are there."""
        runs, wanted = self.results[method], len(self.seeds)
        failed = sum(one is not None and not one.completed for one in runs.values())
        there = len(self.of(method))
        if there == wanted:
            return ""
        return f"{there} of {wanted} seeds{f', {failed} could not go on' if failed else ''}"

    @property
    def metric(self) -> str:
        """Of its runs.

        Raises:
            InputError: they have different ones.
        """
        known = {str(one.made["metric"]) for method in self.methods for one in self.of(method.name).values()}
        if len(known) > 1:
            problem = f"its runs are judged by {' and by '.join(sorted(known))}, which cannot stand in one table"
            raise InputError("metric", ", ".join(sorted(known)), problem, "Give base one metric")
        return next(iter(known), ACCURACY)

    def figures(self, method: str, figure: Figure) -> list[float | None]:
        """At equal rounds, by seed; None where a run has none."""
        return [figure(point) for point in self.closing(method).values()]

    def commonest(self) -> dict[int, float | None]:
        """Accuracy where each client always answers its commonest training label, by seed: the same beside every method.

        None where the runs are judged by another figure.
        """
        floors: dict[int, float | None] = {}
        for method in self.methods:
            for seed, one in self.of(method.name).items() if method.skewed else ():
                floors.setdefault(seed, one.end["commonest_label"] if self.metric == ACCURACY else None)
        return {seed: floors[seed] for seed in self.seeds if seed in floors}


def load_places(grid: ComparisonGrid) -> list[Place]:
    """All of a grid's, from its raw files alone."""
    found_places = []
    for task, alpha in grid.places():
        seeds = grid.seeds[alpha]
        results = {
            name: {seed: _result(grid, method, task, alpha, seed) for seed in seeds}
            for name, method in grid.methods.items()
        }
        rounds = int({**grid.base, **grid.tasks[task]}["rounds"])
        found_places.append(Place(task, alpha, tuple(grid.methods.values()), seeds, rounds, results))
    return found_places


def _result(grid: ComparisonGrid, method: Method, task: str, alpha: float | None, seed: int) -> Result | None:
    rates = grid.rates(method)
    result = found(grid.cell(method.name, task, alpha, seed, rates[0])) if rates else None
    return None if result is None else evened(result)


def difference(place: Place, method: str, reference: str, figure: Figure) -> Interval | float | None:
    """Mean difference at equal rounds, seed by seed, of those that both have; with an interval where there can be one.

    Over seeds where there are three or more; else over clients, where both had the same ones and the figure is an accuracy on
    their shards. None without a common seed.
    """
    ours, theirs = place.closing(method), place.closing(reference)
    common = [seed for seed in place.seeds if seed in ours and seed in theirs]
    differences = []
    for seed in common:
        one, other = figure(ours[seed]), figure(theirs[seed])
        if one is None or other is None:
            return None
        differences.append(one - other)
    if len(differences) >= FEWEST_SEEDS:
        return t_interval(differences)
    if not differences:
        return None
    pairs = [_pair(place, seed, method, reference, figure) for seed in common]
    whole = [pair for pair in pairs if pair is not None]
    if place.metric == ACCURACY and len(whole) == len(pairs):
        return bootstrap_interval(whole)
    return sum(differences) / len(differences)


def _pair(place: Place, seed: int, method: str, reference: str, figure: Figure) -> Pair | None:
    """None where the figure is not on clients' shards, the clients differ, or a run went on: counts are of last evaluations."""
    key = "personalised" if figure is personalised else "shared" if figure is shared else None
    ours, theirs = place.of(method)[seed], place.of(reference)[seed]
    if (place.closing(method)[seed], place.closing(reference)[seed]) != (ours.last, theirs.last):
        return None
    one, other = ours.end["clients"], theirs.end["clients"]
    if key is None or one["examples"] != other["examples"] or ours.made["data"] != theirs.made["data"]:
        return None
    return Pair(one["examples"], one[key], other[key])

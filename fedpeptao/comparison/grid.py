"""A grid of methods x tasks x skews x seeds, and the cells that it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.settings import Scalar
from fedpeptao.comparison.methods import Method


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method, task, alpha, seed, rate: its place; task "", alpha and rate None where the grid does not vary them.
        settings: complete and flat; files of the user's own by name alone (fedpeptao/comparison/sources.py says where they lie).
        path: its raw file.
        prompt_sources: name -> complete settings of the runs that come first; `prompt-sources` in settings has their names.
    """

    method: str
    task: str
    alpha: float | None
    seed: int
    rate: float | None
    settings: Mapping[str, Scalar]
    path: Path
    prompt_sources: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)

    @property
    def place(self) -> dict[str, str | float | None]:
        """Where it stands in its grid."""
        return {"method": self.method, "task": self.task, "alpha": self.alpha, "seed": self.seed, "rate": self.rate}


@dataclass(frozen=True)
class Report:
    """What a grid's tables are made for.

    Attributes:
        page: the page that they are put into.
        reference: the method that others are measured against: its bytes, its final figure, its clients.
        target: share of the reference's final personalised figure that is the target of the third table.
        choice: methods that a table of their own sets side by side, at equal bytes and at equal seconds; () for no such table.
        pairs: of methods that tables of their own set against each other, the first less the second.
        pictures: name -> the methods that one picture of each place shows; {}: a single one, of all, where colours suffice.
    """

    page: Path
    reference: str
    target: float
    choice: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    pictures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonGrid:
    """What is compared.

    Attributes:
        path: the grid file; raw files lie in a folder beside it, of its name.
        base: settings of all cells, complete: the defaults under the grid's own.
        methods: by name, in the order of the tables.
        tasks: name -> its settings; {"": {}} where the grid names none.
        seeds: alpha -> seeds; alpha None where the grid names none.
        tuning: the grid that chose the methods' learning rates; None: no method's is chosen.
        candidates: every method runs with each of its learning rates: this is a grid that chooses.
        report: None: one table beside the cells.
        chosen: method -> the learning rate that was chosen for it.
    """

    path: Path
    base: Mapping[str, Scalar]
    methods: Mapping[str, Method]
    tasks: Mapping[str, Mapping[str, Scalar]]
    seeds: Mapping[float | None, list[int]]
    tuning: ComparisonGrid | None = None
    candidates: bool = False
    report: Report | None = None
    chosen: Mapping[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the raw files."""
        return self.path.with_suffix("")

    def cells(self) -> list[Cell]:
        """All that can run, seed by seed: an early stop leaves whole tables. None of a method whose rate is not chosen."""
        seeds = sorted({seed for several in self.seeds.values() for seed in several})
        found = {
            cell.path: cell
            for seed in seeds
            for task in self.tasks
            for alpha, several in self.seeds.items()
            if seed in several
            for method in self.methods.values()
            for rate in self.rates(method)
            for cell in [self.cell(method.name, task, alpha, seed, rate)]
        }
        return list(found.values())

    def rates(self, method: Method) -> tuple[float | None, ...]:
        """The learning rates that a method runs with; None: its settings' own; (): not known yet, or nothing to choose."""
        if self.candidates:
            return method.rates
        if self.tuning is None or not method.tuned_as:
            return (None,)
        return (self.chosen[method.tuned_as],) if method.tuned_as in self.chosen else ()

    def untuned(self) -> list[str]:
        """Methods that wait for a choice of their learning rate."""
        return [] if self.candidates else [method.name for method in self.methods.values() if not self.rates(method)]

    def cell(self, method: str, task: str, alpha: float | None, seed: int, rate: float | None = None) -> Cell:
        """One cell; for a method that alpha does nothing to, the one that serves all."""
        row = self.methods[method]
        skew = alpha if row.skewed else None
        placed: dict[str, Scalar] = {"seed": seed}
        placed |= {} if skew is None else {"alpha": skew}
        placed |= {} if rate is None else {"learning-rate": rate}
        mixed = {name: {**self.base, "seed": seed, **own} for name, own in row.prompt_sources.items()}
        placed |= {"prompt-sources": ",".join(mixed)} if mixed else {}
        settings = {**self.base, **self.tasks[task], **row.settings, **placed}
        parts = [method, *([task] if task else []), *([] if skew is None else [f"alpha{skew:g}"]), f"seed{seed}"]
        parts += [f"rate{rate:g}"] if self.candidates and rate is not None else []
        path = self.folder / f"{'-'.join(parts)}.jsonl"
        return Cell(method, task, skew, seed, rate, settings, path, mixed)

    def places(self) -> Iterator[tuple[str, float | None]]:
        """Each (task, alpha): a table of its own."""
        return ((task, alpha) for task in self.tasks for alpha in self.seeds)

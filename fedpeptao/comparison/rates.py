"""The learning rate of each method: that of its candidates whose runs end with the best personalised figure over all clients.

The figure is on clients' validation shards, of a seed that no table of figures uses: other rows, other clients.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.raw import found


def candidate_figures(tuning: ComparisonGrid) -> dict[str, dict[float, float | None]]:
    """Method -> rate -> mean of the final personalised figures over the grid's cells; None where one is missing.

    A run that could not go on counts as 0.
    """
    return {
        method.name: {rate: _figure(tuning, method.name, rate) for rate in method.rates}
        for method in tuning.methods.values()
        if method.rates
    }


def chosen_rates(tuning: ComparisonGrid) -> dict[str, float]:
    """Method -> rate, of those all of whose candidates have run."""
    return {
        method: best(figures)
        for method, figures in candidate_figures(tuning).items()
        if not any(figure is None for figure in figures.values())
    }


def best(figures: Mapping[float, float | None]) -> float:
    """The rate with the highest figure; of several the smallest."""
    return max(sorted(figures), key=lambda rate: figures[rate] or 0.0)


def _figure(tuning: ComparisonGrid, method: str, rate: float) -> float | None:
    cells = {
        cell.path: cell
        for task, alpha in tuning.places()
        for seed in tuning.seeds[alpha]
        for cell in [tuning.cell(method, task, alpha, seed, rate)]
    }
    results = [found(cell) for cell in cells.values()]
    if any(result is None for result in results):
        return None
    return statistics.mean(one.last.personalised if one and one.completed else 0.0 for one in results)

"""How tables say their numbers: percent and points to one decimal, mean and spread over seeds, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from fedpeptao.comparison.statistics import Interval, mean_and_spread

MISSING = "missing"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(values: Sequence[float | None], never: str = "-") -> str:
    """Shares as percent: mean, spread over seeds, and in how many seeds there was none."""
    return _spread([None if value is None else 100 * value for value in values], 1, never)


def number(values: Sequence[float | None], never: str = "-") -> str:
    """Numbers as they are: no decimals from 100 on."""
    there = [value for value in values if value is not None]
    return _spread(values, 0 if there and max(there) >= 100 else 1, never)


def points(difference: Interval | float | None) -> str:
    """A difference of two shares, in points; its interval in square brackets if over seeds, in round ones if over clients."""
    if difference is None:
        return ""
    if isinstance(difference, float):
        return f"{100 * difference:+.1f}"
    opening, closing = ("[", "]") if difference.over_seeds else ("(", ")")
    return f"{100 * difference.mean:+.1f} {opening}{100 * difference.low:+.1f}, {100 * difference.high:+.1f}{closing}"


def _spread(values: Sequence[float | None], digits: int, never: str) -> str:
    there = [value for value in values if value is not None]
    if not values:
        return MISSING
    if not there:
        return never
    mean, spread = mean_and_spread(there)
    text = f"{mean:,.{digits}f}" + ("" if spread is None else f" ± {spread:,.{digits}f}")
    lacking = len(values) - len(there)
    return text + (f" ({never} in {lacking} of {len(values)})" if lacking else "")

"""What the page's plots have in common: a frame of one size with axes, a legend, and marks that tell their numbers.

All are drawn for 400 units of width, which is about what a column has on a phone and on a wide screen, so that letters keep
their size. Colours are classes, which the page's style gives values for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from matplotlib.ticker import MaxNLocator

from server_app.report.markup import Element, tag

WIDTH, HEIGHT = 400, 264
LEFT, RIGHT, BOTTOM = 44, 10, 40
_LEGEND_ROW, _ABOVE = 18, 28


@dataclass(frozen=True)
class Axis:
    """One direction: what it shows, from where to where, and where ticks stand (value, text).

    log: values are drawn by their logarithm.
    """

    name: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies, from 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(at, low))
        return (at - low) / (high - low)


def axis(name: str, low: float, high: float, whole: bool = False, unit: float = 1.0, tight: bool = False) -> Axis:
    """A linear axis that ends at the first tick above (or at) high.

    Args:
        name: shown.
        low: where it begins.
        high: the largest value.
        whole: ticks at whole numbers only.
        unit: what tick texts count.
        tight: end at high itself.
    """
    high = high if high > low else low + unit
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole)
    ticks = [float(at) for at in locator.tick_values(low / unit, high / unit)]
    kept = [at for at in ticks if at >= low / unit - 1e-9]
    end = high / unit if tight else next((at for at in kept if at >= high / unit - 1e-9), kept[-1])
    step = kept[1] - kept[0] if len(kept) > 1 else 1.0
    digits = max(0, -int(Decimal(f"{step:.3g}").normalize().as_tuple().exponent))
    return Axis(
        name, low, max(end * unit, high), tuple((at * unit, f"{at:,.{digits}f}") for at in kept if at <= end + 1e-9)
    )


def log_axis(name: str, low: float, high: float) -> Axis:
    """A logarithmic axis with a tick at each (or each second, third, ..) power of ten."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first) / 5))
    powers = range(first, last + 1, step)
    return Axis(name, low, high, tuple((10.0**power, f"1e{power}" if power else "1") for power in powers), log=True)


@dataclass(frozen=True)
class Key:
    """A line of the legend: its text, its class of colour, and its mark (line, dots, dot, diamond, triangle, square)."""

    text: str
    colour: str
    mark: str


class Frame:
    """A plot that marks are added to, in its own values; `element` is the whole.

    Args:
        title: for readers who do not see it.
        x: across.
        y: upwards.
        legend: in two columns above.
    """

    def __init__(self, title: str, x: Axis, y: Axis, legend: Sequence[Key] = ()) -> None:
        rows = (len(legend) + 1) // 2
        self.x_axis, self.y_axis = x, y
        self._top = _ABOVE + rows * _LEGEND_ROW
        self._bottom = HEIGHT + rows * _LEGEND_ROW - BOTTOM
        height = HEIGHT + rows * _LEGEND_ROW
        self.element = tag(
            "svg", class_="plot", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title, focusable="true"
        )
        self.element.extend(_legend(legend))
        self._axes()

    def x(self, value: float) -> float:
        """Where a value of x lies, in units of the drawing."""
        return LEFT + self.x_axis.share(value) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value of y lies."""
        return self._bottom - self.y_axis.share(value) * (self._bottom - self._top)

    def line(self, xs: Sequence[float], ys: Sequence[float], class_: str, stepped: bool = False) -> None:
        """A line through points; stepped: level until the next one."""
        points = [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)]
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for x, y in points[1:]:
            path += f"H{x:.1f}V{y:.1f}" if stepped else f"L{x:.1f} {y:.1f}"
        self.element.append(tag("path", d=path, class_=f"line {class_}"))

    def marks(self, xs: Iterable[float], ys: Iterable[float], class_: str, mark: str) -> None:
        """A mark at each point."""
        for x, y in zip(xs, ys, strict=True):
            self.element.append(symbol(mark, self.x(x), self.y(y), class_))

    def circle(self, x: float, y: float, radius: float, class_: str, tip: str) -> None:
        """A circle that tells its numbers."""
        self.element.append(tag("circle", cx=self.x(x), cy=self.y(y), r=radius, class_=class_, data_tip=tip))

    def bar(self, left: float, right: float, low: float, high: float, class_: str, gap: float = 0.0) -> None:
        """A bar from low to high; gap: units left free at each side."""
        x, width = self.x(left) + gap, self.x(right) - self.x(left) - 2 * gap
        top, bottom = self.y(high), self.y(low)
        self.element.append(tag("rect", x=x, y=top, width=max(width, 0.5), height=bottom - top, class_=class_))

    def band(self, left: float, right: float, tip: str) -> None:
        """An invisible column over the whole height that tells its numbers."""
        x, end = max(self.x(left), LEFT), min(self.x(right), WIDTH - RIGHT)
        self.element.append(
            tag("rect", x=x, y=self._top, width=end - x, height=self._bottom - self._top, class_="band", data_tip=tip)
        )

    def bands(self, values: Sequence[float], tips: Sequence[str]) -> None:
        """A column around each value, up to half way to the next."""
        middles = [(a + b) / 2 for a, b in pairwise(values)]
        ends = [self.x_axis.low, *middles, self.x_axis.high]
        for (left, right), tip in zip(pairwise(ends), tips, strict=True):
            self.band(left, right, tip)

    def level(self, value: float, text: str, class_: str) -> None:
        """A dashed line across, with its name on it."""
        y = self.y(value)
        self.element.append(tag("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_=f"level {class_}"))
        self.element.append(tag("text", text, x=WIDTH - RIGHT, y=y - 5, class_="note end"))

    def _axes(self) -> None:
        for value, text in self.y_axis.ticks:
            y = self.y(value)
            self.element.append(tag("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_="grid"))
            self.element.append(tag("text", text, x=LEFT - 7, y=y + 4, class_="tick end"))
        for value, text in self.x_axis.ticks:
            x = self.x(value)
            self.element.append(tag("path", d=f"M{x:.1f} {self._bottom}v4", class_="axis"))
            self.element.append(tag("text", text, x=x, y=self._bottom + 17, class_="tick middle"))
        self.element.append(tag("path", d=f"M{LEFT} {self._bottom}H{WIDTH - RIGHT}", class_="axis"))
        self.element.append(tag("text", self.y_axis.name, x=0, y=self._top - 10, class_="label"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.element.append(tag("text", self.x_axis.name, x=middle, y=self._bottom + 35, class_="label middle"))


def symbol(mark: str, x: float, y: float, class_: str) -> Element:
    """A mark of its own shape, so that colour is not needed to tell it from others."""
    if mark == "diamond":
        return tag("path", d=f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z", class_=f"mark {class_}")
    if mark == "triangle":
        return tag("path", d=f"M{x:.1f} {y - 6:.1f}l6 11h-12z", class_=f"mark {class_}")
    if mark == "square":
        return tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_=f"fill {class_}")
    return tag("circle", cx=x, cy=y, r=1.8 if mark == "dots" else 3.6, class_=f"mark {class_}")


def _legend(keys: Sequence[Key]) -> Iterable[Element]:
    for place, key in enumerate(keys):
        x, y = (0 if place % 2 == 0 else WIDTH / 2 + 4), _LEGEND_ROW * (place // 2) + 9
        if key.mark in ("line", "dots", "dot"):
            yield tag(
                "path", d=f"M{x:.0f} {y:.0f}h20", class_=f"line {key.colour}{' thin' if key.mark == 'dots' else ''}"
            )
        if key.mark != "line":
            yield symbol(key.mark, x + 10, y, key.colour)
        yield tag("text", key.text, x=x + 26, y=y + 4, class_="key")

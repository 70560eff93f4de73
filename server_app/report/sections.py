"""A section of the page: a heading, plots side by side, and the tables behind them."""

from __future__ import annotations

from collections.abc import Iterable

from server_app.report.markup import Child, Element, tag


def section(name: str, title: str, plots: Iterable[Element | None], *below: Child | None) -> Element:
    """name: its anchor; plots: None where the run has no figures for one; below: what stands under them."""
    here = [plot for plot in plots if plot is not None]
    content: list[Child] = [tag("div", here, class_="plots")] if here else []
    content += [one for one in below if one is not None]
    if not content:
        content = [tag("p", "The run has no figures for this.", class_="quiet")]
    return tag("section", tag("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title")


def figure(title: str, drawing: Element | None, caption: Child, wide: bool = False) -> Element | None:
    """A drawing under its title and over its caption; None without a drawing. wide: two columns, where there are."""
    if drawing is None:
        return None
    return tag("figure", tag("h3", title), drawing, tag("figcaption", caption), class_="wide" if wide else None)

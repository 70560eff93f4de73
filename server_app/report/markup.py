"""HTML and SVG as elements of the standard library, which escapes whatever a run's files hold."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | Iterable["Element | str"]


def tag(name: str, /, *children: Child, **attributes: object) -> Element:
    """An element; class_ is class, aria_label is aria-label, and what is None is left out."""
    named = {key.rstrip("_").replace("_", "-"): _text(value) for key, value in attributes.items() if value is not None}
    element = Element(name, named)
    for child in children:
        for one in [child] if isinstance(child, (str, Element)) else child:
            _append(element, one)
    return element


def render(page: Element) -> str:
    """The whole document."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]], caption: str, numbers: bool = True) -> Element:
    """A table that scrolls by itself where the screen is narrow; the first column names the row.

    numbers: whether the other columns stand to the right.
    """
    body = [tag("tr", (_cell(place, str(value)) for place, value in enumerate(row))) for row in rows]
    head_row = tag("tr", (tag("th", name, scope="col") for name in head))
    whole = tag("table", tag("thead", head_row), tag("tbody", body), class_="numbers" if numbers else None)
    # the caption stands outside of what scrolls, or it would be as wide as the table
    region = tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return tag("div", tag("p", caption, class_="caption"), region, class_="table")


def folded(summary: str, *children: Child) -> Element:
    """Something that opens on request."""
    return tag("details", tag("summary", summary), *children)


def _cell(place: int, text: str) -> Element:
    return tag("td", text) if place else tag("th", text, scope="row")


def _append(element: Element, child: Element | str) -> None:
    if isinstance(child, Element):
        element.append(child)
    elif len(element):
        element[-1].tail = (element[-1].tail or "") + child
    else:
        element.text = (element.text or "") + child


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

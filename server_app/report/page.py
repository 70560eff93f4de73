"""The whole page: sections in their order, looks and script inside it, nothing outside of it."""

from __future__ import annotations

from pathlib import Path

from federation.durable import write_atomically
from fedpeptao import __version__
from server_app.report.clients import clients_section
from server_app.report.curves import curves_section
from server_app.report.facts import Run, read_run
from server_app.report.layers import layers_section
from server_app.report.markup import Element, render, tag
from server_app.report.style import SCRIPT, STYLE
from server_app.report.traffic import traffic_section
from server_app.report.words import header, losses_section, machine_section, settings_section, title

REPORT = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Writes the page of a run's folder, also of one that was cut short, and returns its path.

    Args:
        folder: of the run.
        output: None: report.html in that folder.

    Raises:
        ValueError: a file of the run is damaged.
        OSError: the page cannot be written.
    """
    path = output or folder / REPORT
    write_atomically(path, page(read_run(folder)).encode())
    return path


def page(run: Run) -> str:
    """The document."""
    sections = [
        curves_section(run),
        layers_section(run),
        clients_section(run),
        traffic_section(run),
        losses_section(run),
    ]
    sections += [settings_section(run), machine_section(run)]
    there = [one for one in sections if one is not None]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title(run)}, run {run.name}"),
        tag("style", STYLE),
    )
    footer = tag(
        "footer", f"Made by fedpeptao {__version__} from the run's folder alone. RUNS.md says what each figure is."
    )
    main = tag("main", header(run), _contents(there), *there, footer, id="main")
    body = tag("body", tag("a", "Skip to the figures", href="#curves", class_="skip"), main, tag("script", SCRIPT))
    return render(tag("html", head, body, lang="en"))


def _contents(sections: list[Element]) -> Element:
    links = [tag("a", one[0].text or "", href=f"#{one.get('id')}") for one in sections]
    return tag("nav", links, aria_label="Sections")

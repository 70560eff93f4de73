"""The page holds a run's figures, needs nothing from outside, and can be made of whatever a run left."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from federation.settings import defaults
from server_app.finish import close_interrupted
from server_app.report.facts import read_run
from server_app.report.page import REPORT, page, write_report
from server_app.run_folder import RunFolder

DEMO = Path(__file__).parents[3] / "results" / "make-demo"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Tags, texts by tag, ids and links of a document; unbalanced tags raise."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(document)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open:
            self.texts.append((self._open[-1], data))

    def of(self, tag: str, class_: str | None = None) -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.tags if name == tag]
        return [one for one in found if class_ is None or class_ in one.get("class", "").split()]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def outline(folder: Path) -> Outline:
    return Outline(page(read_run(folder)))


def files(folder: Path, **contents: Any) -> Path:
    """A run's folder with these files, by name without ending; metrics are lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if name == "metrics":
            lines = "".join(json.dumps(line) + "\n" for line in content)
            (folder / "metrics.jsonl").write_text(lines, encoding="utf8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf8")
    return folder


def demo(name: str) -> Any:
    return json.loads((DEMO / f"{name}.json").read_text(encoding="utf8"))


def demo_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "metrics.jsonl").read_text(encoding="utf8").splitlines()]


# -- a whole run --------------------------------------------------------------------------------------------


def test_nothing_is_fetched_from_anywhere() -> None:
    document = page(read_run(DEMO))
    found = Outline(document)
    for tag, attributes in found.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest|import\(", document)
    (policy,) = [one["content"] for one in found.of("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none';")


def test_the_final_figures_stand_in_front() -> None:
    found, summary = outline(DEMO), demo("summary")
    values = dict(zip(found.said("dt")[:5], [text for text in found.said("dd") if len(text) < 9][:5], strict=True))
    assert values == {
        "Personalised accuracy": f"{summary['final']['personalised_accuracy']:.3f}",
        "Shared accuracy": f"{summary['final']['shared_accuracy']:.3f}",
        "Global accuracy": f"{summary['final']['global_accuracy']:.3f}",
        "Training traffic": f"{(summary['bytes']['down'] + summary['bytes']['up']) / 1e6:.1f} MB",
        "Numbers per message": "48,775",
    }
    share = summary["final"]["personalised_accuracy"]
    error = math.sqrt(share * (1 - share) / 636)
    assert f"all clients, own models: 636 examples, ±\N{NO-BREAK SPACE}{error:.3f}" in found.said("dd")
    assert found.said("h1") == ["stdlib-docs with all-MiniLM-L6-v2"]
    assert "100 clients, 10 a round, 20 rounds of 2 local epochs" in found.said("p")[1]
    assert "layers 1, 2, 3 of 6 travel" in found.said("p")[1]


def test_every_plot_has_a_name_a_table_and_a_place_in_the_contents() -> None:
    found = outline(DEMO)
    plots = found.of("svg", "plot")
    assert len(plots) == 10
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 10 for plot in plots)
    assert len(found.of("details")) >= 4
    regions = [one for one in found.of("div") if one.get("role") == "region"]
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    assert len(regions) == len(found.of("table"))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {one["href"][1:] for one in found.of("a")} <= set(ids)
    assert {one["aria-labelledby"] for one in found.of("section")} <= set(ids)
    assert found.of("html") == [{"lang": "en"}]


def test_light_dark_and_narrow_are_provided_for() -> None:
    document = page(read_run(DEMO))
    assert "prefers-color-scheme: dark" in document
    assert 'content="width=device-width, initial-scale=1"' in document
    variables = [set(re.findall(r"--\w+(?=:)", part)) for part in document.split("prefers-color-scheme")[:2]]
    assert variables[0] - {"--c"} == variables[1] - {"--c"}  # each colour has both values


def test_changed_settings_come_first(tmp_path: Path) -> None:
    settings = {**defaults(), "rounds": 7, "layers": "1,2", "runs-dir": "/somewhere"}
    found = outline(files(tmp_path, settings=settings))
    rows = found.said("td")
    assert rows == ["7", "20", '"1,2"', '"auto"']
    assert "/somewhere" not in " ".join(text for _, text in found.texts)
    assert any(text.startswith("The other ") for text in found.said("summary"))


def test_a_page_takes_less_than_a_second_and_is_written_whole(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "run")
    started = time.monotonic()
    assert write_report(tmp_path / "run") == tmp_path / "run" / REPORT
    assert time.monotonic() - started < 1
    assert (tmp_path / "run" / REPORT).read_text(encoding="utf8") == page(read_run(tmp_path / "run"))


# -- what comes from outside, and what is not there ------------------------------------------------------------


def test_texts_of_a_run_are_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> & \"'</svg>"
    summary = {**demo("summary"), "labels": [evil, "b"], "status": "failed"}
    lines = [{**demo_lines()[1], "failed": {"3": evil}}]
    settings = {**demo("settings"), "dataset": evil, "model": evil}
    found = outline(files(tmp_path, settings=settings, summary=summary, metrics=lines, facts={"cpu": evil}))
    assert len(found.of("script")) == 1
    assert evil in found.said("td")  # the reason of the failure, as it was
    assert any(evil in text for text in found.said("h1"))


@pytest.mark.parametrize(
    "there", [[], ["settings"], ["settings", "metrics"], ["summary"], ["settings", "summary", "facts"]]
)
def test_any_part_of_a_folder_makes_a_page(tmp_path: Path, there: list[str]) -> None:
    contents = {name: demo(name) for name in there if name != "metrics"}
    if "metrics" in there:
        contents["metrics"] = demo_lines()[:4]
    found = outline(files(tmp_path, **contents))
    assert len(found.said("h2")) == 6
    assert "The run has no figures for this." in found.said("p")


def test_a_run_that_was_cut_short_says_so_and_has_its_page(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "cut")
    folder.write_facts(demo("settings"), {})
    folder.write_summary({"status": "running", "labels": ["a", "b"]})
    for line in demo_lines()[:3]:
        folder.append(line)
    folder.close()
    close_interrupted(folder.path)
    found = Outline((folder.path / REPORT).read_text(encoding="utf8"))
    assert "interrupted after round 2" in found.said("span")
    assert "Accuracy by round" in found.said("h3")


def test_lost_replies_are_listed(tmp_path: Path) -> None:
    assert "Replies that were not used" not in outline(DEMO).said("h2")
    lines = demo_lines()[:3]
    lines[1] |= {"failed": {"20": "it burst"}, "missing": [69]}
    lines[2] |= {"evaluation_failed": {"7": "no room"}, "evaluation_missing": []}
    found = outline(files(tmp_path, metrics=lines))
    assert "Replies that were not used" in found.said("h2")
    cells = found.said("td")
    at = cells.index("it burst")
    assert cells[at - 2 : at + 4] == ["20", "training", "it burst", "69", "training", "no answer by the deadline"]
    assert cells[cells.index("no room") - 2 : cells.index("no room")] == ["7", "evaluation"]


def test_a_page_by_another_metric(tmp_path: Path) -> None:
    final = {"personalised_accuracy": 0.75, "personalised_matthews": -0.125}
    summary = {
        "status": "completed",
        "metric": "matthews",
        "final": final,
        "floor": {"commonest_label_accuracy": 0.625},
    }
    metrics = [{"round": 0, "global_matthews": -0.5, "global_accuracy": 0.25, "cumulative_bytes": 0}]
    found = outline(files(tmp_path / "run", settings={}, facts={}, summary=summary, metrics=metrics))
    assert "Personalised Matthews" in found.said("dt")
    assert "-0.125" in found.said("dd")
    assert any("accuracy 0.750" in text for text in found.said("dd"))
    assert "Floor: accuracy 0.625 if each client always answers its commonest training label." in found.said("p")
    assert "Matthews by round" in found.said("h3")
    assert "-0.500" in found.said("td")
    marks = [one for one in found.of("circle") if "blue" in one.get("class", "") and float(one["cy"]) > 100]
    assert len(marks) == 2  # by round and by traffic
    assert all(float(mark["cy"]) <= 264 + 18 - 40 + 0.1 for mark in marks)  # within the frame, whose axis goes below 0

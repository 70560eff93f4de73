"""Grid files: what they come to, and what is refused before any cell runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.settings import defaults
from fedpeptao.comparison.grid_files import read_grid
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import METHODS, fill, point, write_yaml

RESULTS = Path(__file__).parents[3] / "results"
PLAIN: dict[str, Any] = {"base": {}, "methods": METHODS, "seeds": [0, 1]}
REPORT: dict[str, Any] = {"page": "p.md", "reference": "ours", "target": 0.9}
NINE = {"a": [f"m{number}" for number in range(9)]}
SHARED: dict[str, Any] = {
    "tuned": {"title": "Tuned", "settings": {"layers": "all"}, "learning-rates": [0.02, 0.01]},
    "like-tuned": {"like": "tuned", "settings": {"prompt-tokens": 5}},
    "fixed": {"settings": {"learning-rate": 0.5}},
    "pooled": {"settings": {"clients": 1, "clients-per-round": 1}, "skewed": False, "role": "ceiling"},
}


def shared(folder: Path, **grid: Any) -> Path:
    """A grid that names methods of a file beside it."""
    write_yaml(folder / "methods.yaml", SHARED)
    seeds = {} if "skews" in grid else {"seeds": [0]}
    return write_yaml(folder / "g.yaml", {"methods": list(SHARED), **seeds, **grid})


def test_a_small_grid_is_methods_by_seeds_in_files_beside_it(tmp_path: Path) -> None:
    grid = read_grid(write_yaml(tmp_path / "g.yaml", {**PLAIN, "base": {"rounds": 3}}))
    assert [cell.path for cell in grid.cells()] == [
        tmp_path / "g" / f"{method}-seed{seed}.jsonl" for seed in (0, 1) for method in METHODS
    ]
    assert grid.cells()[1].settings == {
        **defaults(),
        **{"rounds": 3, "layers": "all", "drift-correction": "none", "seed": 0},
    }


def test_a_whole_grid_is_methods_by_tasks_by_skews_by_seeds(tmp_path: Path) -> None:
    tasks = {"stdlib-docs": None, "sst2": {"task": "sst2", "dataset": "sst2.train.jsonl", "test": "sst2.dev.jsonl"}}
    grid = read_grid(shared(tmp_path, methods=["fixed"], tasks=tasks, skews={0.1: [0], 0.3: [0, 1]}))
    found = [(cell.task, cell.alpha, cell.seed) for cell in grid.cells()]
    both = ("stdlib-docs", "sst2")
    assert found == [*((task, alpha, 0) for task in both for alpha in (0.1, 0.3)), *((task, 0.3, 1) for task in both)]
    cell = grid.cells()[2]
    assert cell.path.name == "fixed-sst2-alpha0.1-seed0.jsonl"
    assert [cell.settings[key] for key in ("task", "dataset", "alpha")] == ["sst2", "sst2.train.jsonl", 0.1]


def test_a_cell_that_mixes_prompts_names_the_runs_that_come_first(tmp_path: Path) -> None:
    mixing: dict[str, Any] = {
        "settings": {"tuned": "mixed-prompts", "layers": "all"},
        "prompt-sources": {"like": "source", "tasks": {"one": {"dataset": "one.jsonl"}, "two": {}}},
    }
    source = {"settings": {"tuned": "input-prompts", "layers": "all"}}
    write_yaml(tmp_path / "methods.yaml", {"mixing": mixing, "source": source})
    grid = {"base": {"rounds": 7}, "methods": ["mixing"], "seeds": [3]}
    (cell,) = read_grid(write_yaml(tmp_path / "g.yaml", grid)).cells()
    assert cell.settings["prompt-sources"] == "one,two"
    assert cell.prompt_sources["one"] == {
        **defaults(),
        **{"rounds": 7, "tuned": "input-prompts", "layers": "all", "dataset": "one.jsonl", "seed": 3},
    }
    mixing["prompt-sources"]["tasks"]["two"] = {"rounds": -1}
    write_yaml(tmp_path / "methods.yaml", {"mixing": mixing, "source": source})
    with pytest.raises(InputError, match="rounds = -1"):
        read_grid(tmp_path / "g.yaml")


def test_a_method_that_alpha_does_nothing_to_runs_once_for_all(tmp_path: Path) -> None:
    grid = read_grid(shared(tmp_path, methods=["pooled"], skews={0.1: [0], 0.3: [0, 1]}))
    assert [cell.path.name for cell in grid.cells()] == ["pooled-seed0.jsonl", "pooled-seed1.jsonl"]
    assert grid.cell("pooled", "", 0.1, 0) == grid.cell("pooled", "", 0.3, 0)


def test_a_grid_that_chooses_runs_each_candidate(tmp_path: Path) -> None:
    grid = read_grid(shared(tmp_path, **{"learning-rates": "candidates"}))
    assert [(cell.method, cell.rate, cell.settings["learning-rate"]) for cell in grid.cells()] == [
        ("tuned", 0.01, 0.01),
        ("tuned", 0.02, 0.02),
    ]
    assert grid.cells()[0].path.name == "tuned-seed0-rate0.01.jsonl"
    assert grid.untuned() == []


def test_the_other_grids_take_the_rate_that_was_chosen(tmp_path: Path) -> None:
    tuning = read_grid(
        write_yaml(
            shared(tmp_path).with_name("t.yaml"), {"methods": ["tuned"], "seeds": [100], "learning-rates": "candidates"}
        )
    )
    path = shared(tmp_path, **{"learning-rates": "t.yaml"})
    before = read_grid(path)
    assert before.untuned() == ["tuned", "like-tuned"]
    assert {cell.method for cell in before.cells()} == {"fixed", "pooled"}
    for cell, figure in zip(tuning.cells(), (0.7, 0.6), strict=True):
        fill(cell, [point(1, 0.9), point(2, figure)])
    after = read_grid(path)
    assert after.untuned() == []
    assert {cell.method: cell.settings["learning-rate"] for cell in after.cells()} == {
        **{"tuned": 0.01, "like-tuned": 0.01, "fixed": 0.5, "pooled": defaults()["learning-rate"]},
    }
    assert after.cells()[1].settings["layers"] == "all"  # what it is like, under its own
    assert after.cells()[1].settings["prompt-tokens"] == 5


@pytest.mark.parametrize(
    "text", ["", "base: 1", "base: {}\nmethods: {}", "[1, 2]", "base: {a", "base: {}\nmethods: 3\nseeds: [0]", "\0"]
)
def test_a_file_that_is_no_grid_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text, encoding="utf8")
    with pytest.raises(InputError) as caught:
        read_grid(path)
    assert caught.value.mend


def test_a_missing_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_grid(tmp_path / "absent.yaml")
    assert "results/demo.yaml" in caught.value.mend


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {**METHODS, "typo": {"layer": 3}}}, r"layer = 3: there is no such setting\. Did you mean layers"),
        ({"methods": {**METHODS, "odd": 3}}, r"odd in g.yaml = 3: it has to be settings and values"),
        ({"seed": [0]}, r"grid in g.yaml = 'seed': there is no such key\. Known are base"),
        ({"seeds": [0, 1, 0]}, r"seeds in g.yaml = 0: it stands twice"),
        ({"seeds": []}, r"there is no seed"),
        ({"seeds": "0"}, r"it has to be a list of whole numbers"),
        ({"skews": {0.3: [0]}}, r"seeds in g.yaml = \[0, 1\]: skews name the seeds of each alpha already"),
        ({"report": {"page": "p.md"}}, r"report in g.yaml = 'reference': it is missing"),
        (
            {"report": {"page": "p", "reference": "our", "target": 0.9}},
            r"reference in g.yaml = 'our'.*Did you mean ours",
        ),
        ({"report": {**REPORT, "pairs": "ours"}}, r"pairs in g.yaml.*a list of pairs of methods"),
        ({"report": {**REPORT, "pairs": ["ours"]}}, r"pairs in g.yaml.*a list of names of methods"),
        ({"report": {**REPORT, "pairs": [["ours"]]}}, r"pairs in g.yaml = 'ours': a pair is of two methods"),
        ({"report": {**REPORT, "pairs": [["ours", "our"]]}}, r"pairs in g.yaml = 'our'.*Did you mean ours"),
        ({"report": {**REPORT, "pictures": ["ours"]}}, r"pictures in g.yaml.*names, each with a list of methods"),
        ({"report": {**REPORT, "pictures": {"a": "ours"}}}, r"pictures: a in g.yaml.*a list of names of methods"),
        ({"report": {**REPORT, "pictures": {"a": ["our"]}}}, r"pictures: a in g.yaml = 'our'.*Did you mean ours"),
        ({"report": {**REPORT, "pictures": {"a": []}}}, r"pictures: a in g.yaml = 0: a picture has 1 to 8 rows"),
        (
            {"report": {**REPORT, "pictures": {"a/b": ["ours"]}}},
            r"pictures in g.yaml = 'a/b': it becomes a file's name",
        ),
        (
            {"methods": {f"m{i}": {} for i in range(9)}, "report": {**REPORT, "reference": "m0", "pictures": NINE}},
            r"pictures: a in g.yaml = 9: a picture has 1 to 8 rows",
        ),
        ({"learning-rates": "absent.yaml"}, r"absent.yaml': it cannot be read"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_grid(write_yaml(tmp_path / "g.yaml", {**PLAIN, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"methods": ["tuned", "tunned"]},
            r"methods in g.yaml = 'tunned': there is no such method\. Did you mean tuned",
        ),
        ({"methods": ["tuned", "tuned"]}, r"methods in g.yaml = 'tuned': it stands twice"),
        ({"methods-from": "absent.yaml"}, r"absent.yaml': it cannot be read"),
        ({"learning-rates": "g2.yaml"}, r"learning-rates in g.yaml = 'g2.yaml': this grid chooses no learning rates"),
        ({"learning-rates": 3}, r"it has to be candidates, or the grid that chose them"),
        ({"skews": {0.3: [0]}, "seeds": None}, r"seeds in g.yaml = None"),
        ({"tasks": ["sst2"]}, r"tasks in g.yaml = \['sst2'\]: it has to be names of tasks with their settings"),
    ],
)
def test_what_is_wrong_beside_a_grid_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_yaml(tmp_path / "g2.yaml", PLAIN)
    with pytest.raises(InputError, match=message):
        read_grid(shared(tmp_path, **change))


def test_a_name_that_stands_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("methods:\n  a: {}\n  b: {}\n  a: {rounds: 3}\nseeds: [0]\n", encoding="utf8")
    with pytest.raises(InputError, match="'a' stands twice"):
        read_grid(path)


GRIDS = [
    RESULTS / "demo.yaml",
    *(
        RESULTS / "compare" / f"{one}.yaml"
        for one in ("tuning", "main", "rivals", "ablation", "parts", "fibecfed", "ci")
    ),
]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_grids_that_come_along_can_be_used(path: Path) -> None:
    grid = read_grid(path)
    assert grid.methods
    assert [method.name for method in grid.methods.values() if not method.title] == []
    assert grid.cells() or grid.untuned()

"""Methods of a file: what a row may say; and each row that comes along runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedpeptao.comparison.methods import read_methods
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import write_yaml
from tests.small_runs import go

FILE = Path(__file__).parents[3] / "results" / "compare" / "methods.yaml"
METHODS = read_methods(FILE)


def test_a_row_that_is_like_another_has_its_settings_and_its_rate(tmp_path: Path) -> None:
    rows = {
        "one": {"settings": {"layers": "all", "rounds": 3}, "learning-rates": [0.2, 0.1]},
        "like": {"like": "one", "settings": {"rounds": 5}},
        "own-rates": {"like": "one", "learning-rates": [0.3]},
        "fixed": {"settings": {"rounds": 2}},
        "like-fixed": {"like": "fixed"},
    }
    found = read_methods(write_yaml(tmp_path / "m.yaml", rows))
    assert found["one"].rates == (0.1, 0.2)
    assert found["like"].settings == {"layers": "all", "rounds": 5}
    assert {name: one.tuned_as for name, one in found.items()} == {
        **{"one": "one", "like": "one", "own-rates": "own-rates", "fixed": "", "like-fixed": ""},
    }


def test_prompts_to_mix_are_trained_as_another_row_says_a_task_each(tmp_path: Path) -> None:
    rows = {
        "source": {"settings": {"tuned": "input-prompts", "rounds": 3}},
        "mixing": {"prompt-sources": {"like": "source", "tasks": {"one": {"task": "cola"}, "two": {"rounds": 5}}}},
    }
    assert read_methods(write_yaml(tmp_path / "m.yaml", rows))["mixing"].prompt_sources == {
        "one": {"tuned": "input-prompts", "rounds": 3, "task": "cola"},
        "two": {"tuned": "input-prompts", "rounds": 5},
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 3}, r"a in m.yaml = 3: it has to be a row of title and settings"),
        ({"a": {"setings": {}}}, r"a in m.yaml = 'setings': there is no such key\. Known are title, settings"),
        (
            {"a": {"role": "judge"}},
            r"a: role in m.yaml = 'judge': there is no such role\. Known are method, floor, ceiling",
        ),
        ({"a": {"like": "b"}}, r"a: like in m.yaml = 'b': there is no such method"),
        ({"a": {}, "b": {"like": "a"}, "c": {"like": "b"}}, r"c: like in m.yaml = 'b': it is like another one itself"),
        ({"a": {"learning-rates": 0.1}}, r"a: learning-rates in m.yaml = 0.1: it has to be a list of numbers"),
        ({"a": {"learning-rates": ["fast"]}}, r"learning-rates in m.yaml = 'fast'"),
        ({"a": {"learning-rates": [0.1, 0.1]}}, r"learning-rates in m.yaml = 0.1: it stands twice"),
        ({"a": {"prompt-sources": ["b"]}}, r"a: prompt-sources in m.yaml = \['b'\]: it has to be like and tasks"),
        ({"a": {"prompt-sources": {"like": "a"}}}, r"prompt-sources in m.yaml = 'tasks': it is missing"),
        (
            {"a": {"prompt-sources": {"like": "b", "tasks": {"c": {}}}}},
            r"prompt-sources: like in m.yaml = 'b': there is",
        ),
        ({"a": {"prompt-sources": {"like": "a", "tasks": {"c": 3}}}}, r"prompt-sources: c in m.yaml = 3"),
    ],
)
def test_what_is_wrong_in_a_row_is_named(tmp_path: Path, rows: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_methods(write_yaml(tmp_path / "m.yaml", rows))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
@pytest.mark.usefixtures("no_plots")
def test_each_row_that_comes_along_runs(method: Any, make_flat: Any) -> None:
    """Two rounds of a small model, which has two layers; a curriculum comes to its end in five."""
    own = {**method.settings, **({"layers": "1"} if str(method.settings.get("layers", "all"))[0].isdigit() else {})}
    own |= {"rounds": 5, "curvature-steps": 4, "curvature-examples": 2} if "curriculum" in own else {}
    if method.prompt_sources:
        sources = [
            go(make_flat(**{key: value for key, value in given.items() if key not in ("task", "dataset")}))
            for given in method.prompt_sources.values()
        ]
        own["prompt-sources"] = ",".join(str(one.folder) for one in sources)
    flat = make_flat(**own, **({"learning-rate": method.rates[0]} if method.rates else {}))
    summary = go(flat).summary
    assert summary["status"] == "completed"
    assert summary["final"]["personalised_accuracy"] is not None

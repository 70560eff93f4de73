from pathlib import Path
from typing import Any

import pytest
import yaml

from data.tasks import METRICS, Task, listed, load_task
from fedpeptao.errors import InputError

OWN: dict[str, Any] = {
    "template": "{a} . It was [MASK] .",
    "metric": "f1",
    "labels": {"ham": {"word": "fine", "values": [0]}, "spam": {"word": "junk", "values": [1, "bad"]}},
}
PUBLISHED = {  # section 2.7 of docs/ALGORITHMS.md
    **dict.fromkeys(("sst2", "mr", "mpqa"), ("{a} . It was [MASK] .", "terrible great", "accuracy")),
    "cola": ("{a} . It was [MASK] .", "unacceptable acceptable", "matthews"),
    "subj": ("{a} . It was [MASK] .", "subjective objective", "accuracy"),
    "trec": ("[MASK] : {a}", "Description Entity Expression Human Location Number", "accuracy"),
    "mrpc": ("{a} ? [MASK] , {b}", "No Yes", "accuracy-and-f1"),
    **dict.fromkeys(("rte", "qnli"), ("{a} ? [MASK] , {b}", "Yes No", "accuracy")),
    "boolq": ("{a} ? [MASK] , {b}", "No Yes", "accuracy"),
}


def own(folder: Path, **changes: Any) -> Task:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(OWN | changes, sort_keys=False))
    task = load_task(str(path))
    assert task is not None
    return task


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tasks_are_as_published(name: str) -> None:
    task = load_task(name)
    assert task is not None
    assert (task.template, " ".join(task.words.values()), task.metric) == PUBLISHED[name]
    assert task.causal_template == ("{a} {b} They are" if task.pairs else "{a} It was")


def test_every_listed_task_loads() -> None:
    assert set(listed()) == {*PUBLISHED, "agnews", "mnli", "qqp"}
    for name in listed():
        task = load_task(name)
        assert task is not None
        assert task.hub
        assert tuple(task.words) == task.labels
        assert task.metric in METRICS


def test_values_of_rte_and_mrpc_mean_what_glue_says() -> None:
    rte, mrpc = load_task("rte"), load_task("mrpc")
    assert rte is not None
    assert mrpc is not None
    assert [rte.words[label] for label in rte.named(["0", "1"], "dataset", "x")] == ["Yes", "No"]
    assert [mrpc.words[label] for label in mrpc.named(["0", "1"], "dataset", "x")] == ["No", "Yes"]


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    task = own(tmp_path)
    assert (task.name, task.labels, task.pairs, task.dataset) == ("mine", ("ham", "spam"), False, "")
    assert task.named(["0", "bad", "ham"], "test", "x") == ["ham", "spam", "ham"]
    assert own(tmp_path, labels=["a", "b"], template="").words == {}
    with pytest.raises(InputError, match="example 2 has the label '7', which the task mine does not know") as caught:
        task.named(["0", "7"], "test", "/a/file")
    assert (caught.value.key, caught.value.value) == ("test", "/a/file")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"template": "It was [MASK]"}, r"no \{a\}, the place of the text"),
        ({"template": "{a} It was"}, r"no \[MASK\], the place of the label word"),
        ({"template": "{a} {a} [MASK]"}, r"has 2 \{a\}"),
        ({"causal_template": "{a} [MASK]"}, r"has 1 \[MASK\]"),
        ({"template": "{a} [MASK] {b}", "causal_template": "{a}"}, r"no \{b\}, the place of the second text"),
        ({"labels": {"ham": {"word": "fine"}, "spam": {}}}, "label spam has no word"),
        ({"labels": {"ham": {"word": "fine"}, "spam": {"word": "fine"}}}, "word fine stands for two"),
        ({"labels": {"ham": {"values": [0]}, "spam": {"values": [0]}}}, "value 0 stands for ham and for spam"),
        ({"labels": {"ham": {"word": True}, "spam": {"word": "x"}}}, "quotation marks"),
        ({"labels": {"ham": {"word": "fine"}}}, "at least two labels"),
        ({"labels": {"ham": "fine", "spam": "junk"}}, "not of the form"),
        ({"metric": "bleu"}, "no metric bleu"),
        ({"temlate": "x"}, "no key temlate"),
        ({"columns": {"txt": "x"}}, "columns is not a mapping"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        own(tmp_path, **changes)
    assert caught.value.key == "task"


def test_unknown_tasks_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean sst2") as caught:
        load_task("sst-2")
    assert "mrpc" in caught.value.mend
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a\n")
    for place, says in ((tmp_path / "no.yaml", "no such"), (tmp_path / "bad.yaml", "not YAML"), ("a.yaml", "relative")):
        with pytest.raises(InputError, match=says):
            load_task(str(place))
    with pytest.raises(InputError, match="does not hold the keys of one task"):
        load_task(str(tmp_path / "list.yaml"))
    assert load_task("") is None

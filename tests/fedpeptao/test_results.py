"""The subcommands on one small run: what they print, where, and their exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedpeptao.cli import main
from fedpeptao.loaded import open_model
from tests.small_runs import Ran, examples, go, small, write_jsonl


@pytest.fixture(scope="module")
def ran(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    flat = small(
        data_file, tmp_path_factory.mktemp("runs"), layers="1", clients_per_round=5, learning_rate=0.1, max_length=24
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_app.plots.draw", lambda *given, **named: None)
        return go(flat)


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], list[str]]:
    """Exit status, lines of stdout, lines of stderr."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return status, shown.out.splitlines(), shown.err.splitlines()


def test_predict_prints_a_table(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a very long text that goes on and on, until nobody reads it"
    status, out, err = called(capsys, "predict", ran.folder, "--text", "cat", "--text", long * 2)
    assert status == 0
    shares = open_model(ran.folder).predict(["cat"])[0]
    order = shares.argsort(descending=True).tolist()
    assert len(out) == 3
    assert out[1].split() == [part for i in order for part in (ran.summary["labels"][i], f"{shares[i]:.3f}")] + ["cat"]
    assert out[2].endswith("  " + (long * 2)[:57].rstrip() + "...")
    assert err == ["Remark: texts cut to 24 tokens (max-length): 1"]


def test_predict_speaks_json_lines(ran: Ran, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "texts.jsonl", [{"text": "cat"}, {"text": "Übung"}])
    status, out, err = called(capsys, "predict", ran.folder, "--file", file, "--format", "jsonl", "--client", "0")
    assert (status, err) == (0, [])
    found = [json.loads(line) for line in out]
    expected = open_model(ran.folder, client=0).predict(["cat", "Übung"])
    assert [row["text"] for row in found] == ["cat", "Übung"]
    assert "Übung" in out[1]
    for row, shares in zip(found, expected, strict=True):
        assert list(row["probabilities"]) == ran.summary["labels"]
        assert torch.tensor(list(row["probabilities"].values())).allclose(shares)
        assert row["label"] == ran.summary["labels"][int(shares.argmax())]


def test_evaluate_repeats_the_runs_figures(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = called(capsys, "evaluate", ran.folder, "--json")
    figures = json.loads("\n".join(out))
    final = ran.summary["final"]
    assert (status, figures["examples"], figures["client"]) == (0, 20, None)
    assert figures["accuracy"] == pytest.approx(final["global_accuracy"])
    assert figures["loss"] == pytest.approx(final["global_loss"], abs=1e-5)
    _, out, _ = called(capsys, "evaluate", ran.folder, "--json", "--client", "2")
    own, known = json.loads("\n".join(out)), final["per_client"]["2"]
    assert (own["examples"], own["client"]) == (known["examples"], 2)
    assert own["accuracy"] * own["examples"] == pytest.approx(known["correct"])
    assert own["loss"] * own["examples"] == pytest.approx(known["loss_sum"], abs=1e-4)


def test_evaluate_on_a_file(ran: Ran, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "more.jsonl", examples(10, seed=9))
    status, out, _ = called(capsys, "evaluate", ran.folder, "--data", file)
    assert status == 0
    assert out[0] == f"Shared model of {ran.folder.name}, on {file}"
    assert out[1].endswith("10 examples")
    write_jsonl(file, [{"text": "a", "label": "animals"}, {"text": "b", "label": "minerals"}])
    status, out, err = called(capsys, "evaluate", ran.folder, "--data", file)
    assert (status, out) == (2, [])
    assert "labels that the model does not know: minerals. The model's labels are animals, colours, verbs." in err[0]


def test_export_and_predict_from_it(ran: Ran, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = called(capsys, "export", ran.folder, "--client", "1", "--to", tmp_path / "mine")
    assert (status, out, err) == (0, [str(tmp_path / "mine")], [])
    assert (tmp_path / "mine" / "adapter" / "adapter_config.json").exists()
    rows = [
        called(capsys, "predict", folder, *client, "--text", "cat", "--format", "jsonl")[1]
        for folder, client in ((ran.folder, ("--client", 1)), (tmp_path / "mine", ()))
    ]
    assert rows[0] == rows[1]
    assert called(capsys, "export", ran.folder, "--to", tmp_path / "mine")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--text", "a", "--pair", "b", "--pair", "c"], "--pair"),
        (["--file", "x.txt", "--pair", "c"], "--pair"),
        (["--text", "a", "--state-dir", "/tmp"], "--state-dir"),
        (["--text", "a", "--client", "7"], "--client"),
        (["--text", "a", "--run-config", "roundz=3"], "roundz"),
        (["--file", "/no/such.txt"], "--file"),
    ],
)
def test_bad_arguments_are_one_line(
    ran: Ran, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = called(capsys, "predict", ran.folder, *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"fedpeptao: {named} = ")


def test_report_writes_where_it_is_told(ran: Ran, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = called(capsys, "report", ran.folder, "--output", tmp_path / "page.html")
    assert (status, out) == (0, [str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text(encoding="utf8").startswith("<!DOCTYPE html>")
    (ran.folder / "report.html").unlink(missing_ok=True)
    assert called(capsys, "report", ran.folder)[1] == [str(ran.folder / "report.html")]
    assert (ran.folder / "report.html").exists()


def test_a_report_that_cannot_be_made_is_one_line(ran: Ran, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        status, out, err = called(capsys, "report", *arguments)
        assert (status, out, len(err)) == (2, [], 1)
        return err[0]

    assert "this is no run's folder" in refused(tmp_path)
    assert "it cannot be looked for (File name too long)" in refused("x" * 300)
    assert "--output" in refused(ran.folder, "--output", tmp_path / "no" / "such" / "page.html")
    (tmp_path / "settings.json").write_text('{"rounds": 3')
    assert "it is damaged" in refused(tmp_path)
    status, _, err = called(capsys, "predict", tmp_path, "--text", "cat")
    assert (status, len(err)) == (2, 1)
    assert "settings.json': it is damaged" in err[0]

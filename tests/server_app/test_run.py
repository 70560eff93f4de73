"""Small whole runs: what is agreed on, what the folder holds, and how a run that cannot go on ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from client_app import host
from client_app.app import app
from federation import resources
from federation.evaluation import batch_inputs
from federation.grids import InProcessGrid
from federation.settings import parse
from fedpeptao.errors import InputError, RunError
from models.export import load_parameters
from models.random_models import random_model, random_tokenizer
from server_app.run import run
from strategies.selection import mean_scores
from tests.small_runs import Flat, Watched, go, model_of, shared_row

MakeFlat = Callable[..., Flat]


def summary_of(flat: Flat) -> dict[str, Any]:
    path = Path(str(flat["runs-dir"])) / str(flat["run-name"]) / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf8")))


# -- the folder --------------------------------------------------------------------------------------------


def test_what_a_run_leaves(make_flat: MakeFlat) -> None:
    """With pictures, this once."""
    flat = make_flat(layers="all")
    ran = go(flat)
    names = {path.name for path in ran.folder.iterdir()}
    assert names == {
        "settings.json",
        "resume.toml",
        "log.jsonl",
        "checkpoints",
        "facts.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "tensorboard",
        "parameters.safetensors",
        "adapter",
        "clients",
        *(path.name for path in ran.folder.glob("*.png")),
    }
    assert {"accuracy_by_round.png", "accuracy_by_bytes.png", "loss.png"} <= names
    assert list((ran.folder / "tensorboard").iterdir())
    assert json.loads((ran.folder / "settings.json").read_text(encoding="utf8")) == flat
    facts = json.loads((ran.folder / "facts.json").read_text(encoding="utf8"))
    assert facts["data"] == {
        "name": flat["dataset"],
        "sha256": resources.splits(ran.settings).sha256,
        "train": 60,
        "pairs": False,
    }
    assert facts["model"]["name"] == "random:bert"
    assert len(facts["model"]["fingerprint"]) == 64
    assert {"flwr", "torch", "transformers", "peft", "python", "fedpeptao"} <= set(facts["versions"])


@pytest.mark.usefixtures("no_plots")
def test_the_summary(make_flat: MakeFlat) -> None:
    flat = make_flat(run_name="mine")
    ran = go(flat)
    summary = summary_of(flat)
    assert summary == {**json.loads(json.dumps(ran.summary, default=str))}
    assert (summary["status"], summary["rounds"], summary["labels"]) == (
        "completed",
        2,
        ["animals", "colours", "verbs"],
    )
    assert len(summary["layer_scores"]) == 2
    best = max(range(2), key=lambda layer: summary["layer_scores"][layer])
    assert summary["layers"] == [best]
    assert summary["seconds"] > 0
    assert summary["parameters_per_message"] == sum(value.numel() for value in ran.parameters.values())
    assert {c: f["examples"] for c, f in summary["clients"].items()} == {
        str(c): len(rows) for c, rows in enumerate(resources.shards(ran.settings).train)
    }
    of_clients = [(one["examples"], one["scores"]) for one in summary["clients"].values()]
    assert mean_scores(of_clients) == pytest.approx(summary["layer_scores"])
    for way in ("down", "up"):
        assert summary["bytes"][way] == sum(line[f"{way}_bytes"] or 0 for line in ran.lines)
    assert summary["bytes"]["evaluation"] == ran.lines[-1]["evaluation_bytes"] > 0
    assert summary["final"]["global_accuracy"] == ran.lines[-1]["global_accuracy"]
    assert summary["paths"] == {"run_folder": str(Path(str(flat["runs-dir"])) / "mine")}


@pytest.mark.usefixtures("no_plots")
def test_what_is_shown(make_flat: MakeFlat, shown: list[str]) -> None:
    go(make_flat(layers="1"))
    text = "\n".join(shown)
    order = [
        "Settings (* changed)",
        "Run folder: ",
        "Roll call: 5 clients",
        "Classes, and how many of 5 clients have each: animals (",
        "Traffic per client",
        "    round  train loss",
    ]
    places = [text.index(part) for part in [*order, "0/2", "1/2", "2/2", "Run completed: 2 rounds"]]
    assert places == sorted(places)
    assert "Layers 1 (no scores" in text
    assert all(len(line) < 110 for line in shown if "/" not in line)


@pytest.mark.usefixtures("no_plots")
def test_the_parameters_load_and_give_the_runs_own_test_figures(make_flat: MakeFlat) -> None:
    ran = go(make_flat())
    layers = tuple(ran.summary["layers"])
    model, layout, start = model_of(ran.settings, layers, 3)
    loaded = load_parameters(ran.folder / "parameters.safetensors", layout)
    assert not torch.equal(loaded, start)
    assert torch.equal(layout.flatten(ran.parameters), loaded)
    model.bind(shared_row(ran, model))
    test = resources.tokenised(ran.settings).test
    assert test is not None
    counts = host.count(model, test, ran.summary["labels"], 32)
    assert counts.accuracy == ran.summary["final"]["global_accuracy"]
    assert counts.loss == pytest.approx(ran.summary["final"]["global_loss"], rel=1e-9)


# -- the adapter -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT as a checkpoint on disk, with weights large enough that prompts matter."""
    folder = tmp_path_factory.mktemp("base")
    model = random_model("bert", 5, "sdpa", torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    model.base_model.save_pretrained(folder)  # as released: without a head
    random_tokenizer("bert").save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(("layers", "unselected"), [("all", "none"), ("1", "local")])
def test_peft_loads_the_adapter_with_the_runs_logits_on_the_whole_test_set(
    make_flat: MakeFlat, base: Path, layers: str, unselected: str
) -> None:
    ran = go(make_flat(model=str(base), layers=layers, unselected_prompts=unselected, rounds=3, learning_rate=0.05))
    assert ran.summary["adapter_note"] is None
    model, _, _ = model_of(ran.settings, tuple(ran.summary["layers"]), 3)
    row = shared_row(ran, model)
    test = resources.tokenised(ran.settings).test
    assert test is not None
    labels = json.loads((ran.folder / "adapter" / "labels.json").read_text(encoding="utf8"))
    assert labels == ran.summary["labels"]
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    peft = PeftModel.from_pretrained(plain, str(ran.folder / "adapter")).eval()
    start = model.initial(0)[None]
    worst = moved = 0.0
    for begin in range(0, len(test), 8):
        inputs = batch_inputs(model.backbone, test, range(begin, min(begin + 8, len(test))))
        with torch.no_grad():
            model.bind(start)
            untrained = model.logits(inputs)
            model.bind(row)
            ours, theirs = model.logits(inputs), peft(**inputs).logits
        worst = max(worst, float((ours - theirs).abs().max()))
        moved = max(moved, float((ours - untrained).abs().max()))
    assert worst < 1e-5
    assert moved > 0.1


@pytest.mark.usefixtures("no_plots")
def test_where_peft_cannot_hold_the_model_a_line_says_so(make_flat: MakeFlat, shown: list[str]) -> None:
    ran = go(make_flat(layers="1", unselected_prompts="none"))
    assert "layers [0] have none: no adapter written" in ran.summary["adapter_note"]
    assert ran.summary["adapter_note"] in shown
    assert not (ran.folder / "adapter").exists()


# -- what is agreed on -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
def test_the_settings_labels_give_their_order_to_everybody(make_flat: MakeFlat) -> None:
    watched = Watched()
    ran = go(make_flat(labels="verbs,colours,unseen,animals"), client_app=watched)
    assert ran.summary["labels"] == ["verbs", "colours", "unseen", "animals"]
    assert {tuple(passed.content["round"]["labels"]) for passed in watched.of("train")} == {
        tuple(ran.summary["labels"])
    }
    assert ran.parameters["head.classifier.bias"].shape == (4,)


def stops(flat: Flat, error: type[Exception], match: str, instead: Any = lambda message, context: None) -> Watched:
    """The run ends with the error, its folder as failed, and nobody trained."""
    watched = Watched(instead)
    with pytest.raises(error, match=match):
        run(InProcessGrid(watched, flat, 2), parse(flat))
    assert not watched.of("train")
    assert summary_of(flat)["status"] == "failed"
    return watched


def in_the_roll_call(change: Callable[[int, Any], None]) -> Callable[[Message, Context], Message | None]:
    """Changes clients' records in the real answer to the roll call."""

    def instead(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type != "query.roll_call":
            return None
        reply = app(message, context)
        for name, record in reply.content.config_records.items():
            change(int(name.split(".")[1]), record)
        return reply

    return instead


@pytest.mark.usefixtures("no_plots")
def test_a_label_that_the_setting_lacks_stops_before_training(make_flat: MakeFlat) -> None:
    stops(make_flat(labels="animals,verbs", run_name="bad"), InputError, "labels = .*clients also have colours")


@pytest.mark.usefixtures("no_plots")
def test_a_client_at_fault_stops_before_training(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.roll_call

    def broken(settings: Any, client: int, score: bool) -> Any:
        if client == 4:
            raise OSError("cannot read its data")
        return real(settings, client, score)

    monkeypatch.setattr(host, "roll_call", broken)
    stops(make_flat(run_name="bad"), InputError, "client 4 is at fault: OSError: cannot read its data")


@pytest.mark.usefixtures("no_plots")
def test_one_client_with_other_data_stops_before_training(make_flat: MakeFlat) -> None:
    def other(client: int, record: Any) -> None:
        if client == 3:
            record["data"] = "0" * 64

    stops(make_flat(run_name="bad"), InputError, "clients hold 2 different versions", in_the_roll_call(other))


@pytest.mark.usefixtures("no_plots")
def test_clients_that_agree_on_other_data_than_the_server_stop_before_training(make_flat: MakeFlat) -> None:
    def other(client: int, record: Any) -> None:
        record["data"] = "0" * 64

    match = "client 0 holds another version of it than the server"
    stops(make_flat(run_name="bad"), InputError, match, in_the_roll_call(other))


@pytest.mark.usefixtures("no_plots")
def test_a_client_with_another_model_under_the_same_name_stops_before_training(make_flat: MakeFlat) -> None:
    def other(client: int, record: Any) -> None:
        if client == 2:
            record["model"] = "0" * 16

    match = "model = 'random:bert': client 2 holds another version of it than the server"
    stops(make_flat(run_name="bad"), InputError, match, in_the_roll_call(other))


@pytest.mark.usefixtures("no_plots")
def test_a_node_that_fails_in_the_roll_call_stops_before_training(make_flat: MakeFlat) -> None:
    def dies(message: Message, context: Context) -> Message | None:
        raise MemoryError("killed")

    stops(make_flat(run_name="bad"), RunError, "node 1000 failed in the roll call .* MemoryError: killed", dies)


# -- how a run ends ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
def test_a_name_that_is_taken_leaves_the_first_run_alone(make_flat: MakeFlat) -> None:
    flat = make_flat(run_name="mine")
    ran = go(flat)
    before = {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="run-name = 'mine': it is taken"):
        go(flat)
    assert {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (ZeroDivisionError("a bug"), "failed"), (SystemExit(0), "failed")],
)
def test_whatever_ends_a_run_its_folder_is_closed(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    """With all that was known, and pictures of it."""
    flat = make_flat(run_name="cut", rounds=5)

    def ends(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == "train" and message.content["round"]["round"] == 3:
            raise error
        return None

    class Raising(InProcessGrid):
        def _answer(self, message: Message) -> bytes:
            ends(message, self._contexts[message.metadata.dst_node_id])
            return super()._answer(message)

    with pytest.raises(type(error)):
        run(Raising(app, flat, 2), parse(flat))
    summary = summary_of(flat)
    assert (summary["status"], summary["rounds"]) == (status, 2)
    assert summary["final"]["global_round"] == 2
    assert len(summary["clients"]) == 5
    folder = Path(str(flat["runs-dir"])) / "cut"
    assert (folder / "accuracy_by_round.png").exists()
    assert (folder / "parameters.safetensors").exists()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = [line["why"] for line in log if line["event"] == "ended from outside"]
    assert len(told) == isinstance(error, SystemExit)
    assert all("away for longer" in why and why.endswith(f"Go on with fedpeptao run --resume {folder}") for why in told)


@pytest.mark.usefixtures("no_plots")
def test_a_node_with_other_settings_refuses_what_it_gets(make_flat: MakeFlat) -> None:
    flat = make_flat(layers="1")
    with pytest.raises(RunError, match=r"node error 2: MessageError: prompt.1 in '\w+': it has shape \(2, 4, 3, 8\)"):
        run(InProcessGrid(app, {**flat, "prompt-tokens": 4}, 2), parse(flat))

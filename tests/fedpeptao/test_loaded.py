"""A model opened from a run's folder gives the run's own figures; an export of it gives them too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from client_app.disk_store import DiskStore
from client_app.state import ClientState
from federation import resources
from federation.evaluation import batch_inputs
from federation.messages import TRAIN
from fedpeptao.errors import InputError
from fedpeptao.loaded import last_accepted, open_model
from models.random_models import random_model
from tests.small_runs import Flat, Ran, Watched, examples, go, model_of, shared_row, write_jsonl

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
TEXTS = ["cat owl dog", "blue", "go and sit down at once, and eat", "the teal cow"]


@pytest.fixture(scope="module")
def ran(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run on layer 1 of 2, with two rounds of two clients: somebody is never sampled."""
    from tests.small_runs import small

    flat = small(
        data_file, tmp_path_factory.mktemp("runs"), layers="1", rounds=2, clients_per_round=2, learning_rate=0.1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_app.plots.draw", lambda *given, **named: None)
        return go(flat)


def by_hand(ran: Ran) -> torch.Tensor:
    """Class scores of the run's own test set by the run's own model, one text at a time."""
    model, _, _ = model_of(ran.settings, tuple(ran.summary["layers"]), 3)
    model.bind(shared_row(ran, model))
    encoded = resources.tokenised(ran.settings).test
    assert encoded is not None
    with torch.no_grad():
        return torch.cat([model.logits(batch_inputs(model.backbone, encoded, [i])) for i in range(len(encoded))])


def test_scores_are_the_runs_own(ran: Ran) -> None:
    loaded = open_model(ran.folder)
    rows = resources.splits(ran.settings).test
    assert rows is not None
    torch.testing.assert_close(loaded.logits(list(rows["text"])), by_hand(ran), rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.predict(TEXTS).sum(dim=1), torch.ones(4))
    torch.testing.assert_close(loaded.predict(TEXTS)[2:3], loaded.predict([TEXTS[2]]))
    assert loaded.labels == ("animals", "colours", "verbs")
    assert loaded.remarks == ()


@pytest.mark.parametrize("model", ["random:roberta", "random:gpt2", "random:llama"])
def test_other_families_come_back_too(make_flat: MakeFlat, model: str) -> None:
    ran = go(make_flat(model=model, head="model" if model == "random:roberta" else "linear", learning_rate=0.1))
    loaded = open_model(ran.folder)
    rows = resources.splits(ran.settings).test
    assert rows is not None
    torch.testing.assert_close(loaded.logits(list(rows["text"])), by_hand(ran), rtol=0, atol=1e-5)


def test_a_client_gets_the_figures_of_the_runs_last_evaluation(ran: Ran) -> None:
    shards, texts = resources.shards(ran.settings), resources.splits(ran.settings).validation
    differing = 0
    for client, figures in ran.summary["final"]["per_client"].items():
        loaded = open_model(ran.folder, client=int(client))
        rows = shards.validation[int(client)]
        labels = torch.tensor([loaded.labels.index(texts["label"][i]) for i in rows])
        scores = loaded.logits([texts["text"][i] for i in rows])
        loss = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
        assert float(loss) == pytest.approx(figures["loss_sum"], abs=1e-4)
        assert int((scores.argmax(dim=1) == labels).sum()) == figures["correct"]
        differing += abs(figures["loss_sum"] - figures["shared_loss_sum"]) > 1e-3
    assert differing >= 2  # else the shared model would have passed as everybody's


def test_a_client_that_never_took_part_has_the_initial_prompts(ran: Ran) -> None:
    asked = {client for line in ran.lines for client in line["clients"] or []}
    (absent, *_) = sorted(set(range(5)) - asked)
    loaded = open_model(ran.folder, client=absent)
    assert "never took part" in loaded.remarks[0]
    assert torch.equal(loaded.row, open_model(ran.folder).row)


def test_reading_changes_nothing_in_the_folder(ran: Ran) -> None:
    before = {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()}
    for client in (None, 0, 1):
        open_model(ran.folder, client=client).predict(TEXTS)
    assert {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()} == before


def test_another_model_in_between_does_no_harm(ran: Ran, make_flat: MakeFlat, tmp_path: Path) -> None:
    two = [{**row, "label": row["label"] if row["label"] != "verbs" else "animals"} for row in examples(100)]
    other = go(make_flat(dataset=str(write_jsonl(tmp_path / "two.jsonl", two))))
    first, second = open_model(ran.folder), open_model(other.folder)
    before = first.logits(TEXTS)
    assert second.logits(TEXTS).shape == (4, 2)
    assert torch.equal(first.logits(TEXTS), before)


@pytest.mark.parametrize("client", [None, 0])
def test_an_export_opens_to_the_same_scores(ran: Ran, tmp_path: Path, client: int | None) -> None:
    loaded = open_model(ran.folder, client=client)
    assert loaded.save(tmp_path / "out") is None
    again = open_model(tmp_path / "out")
    assert again.client == client
    assert torch.equal(again.logits(TEXTS), loaded.logits(TEXTS))
    kept = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf8"))
    assert set(kept) == {"status", "run", "client", "labels", "layers", "adapter_note"}  # nothing of the other clients


def test_a_clients_adapter_in_peft_is_its_personalised_model(ran: Ran, tmp_path: Path) -> None:
    loaded = open_model(ran.folder, client=0)
    assert not torch.equal(loaded.row, open_model(ran.folder).row)
    loaded.save(tmp_path / "out")
    base = AutoModelForSequenceClassification.from_config(random_model("bert", 0, "sdpa", torch.float32).config)
    base.config.num_labels = 3
    base = type(base)(base.config)
    base.bert.load_state_dict(random_model("bert", 0, "sdpa", torch.float32).bert.state_dict())
    model = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    inputs = loaded.model.backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, loaded.logits(TEXTS), rtol=0, atol=1e-5)


def test_without_other_prompts_our_own_format_holds_what_peft_cannot(make_flat: MakeFlat, tmp_path: Path) -> None:
    ran = go(make_flat(layers="1", unselected_prompts="none"))
    loaded = open_model(ran.folder, client=0)
    assert "no prompts of its own" in loaded.remarks[0]
    note = loaded.save(tmp_path / "out")
    assert note is not None
    assert "layers [0] have none" in note
    assert not (tmp_path / "out" / "adapter").exists()
    assert torch.equal(open_model(tmp_path / "out").logits(TEXTS), loaded.logits(TEXTS))


# -- on a node, and after a run that was cut short ------------------------------------------------------------


def test_a_node_needs_the_shared_files_and_its_own_states(ran: Ran, tmp_path: Path) -> None:
    expected = open_model(ran.folder, client=0).row
    node, copied = tmp_path / "node" / ran.folder.name, tmp_path / "copied"
    shutil.copytree(ran.folder / "clients", node / "clients")
    shutil.copytree(ran.folder, copied, ignore=shutil.ignore_patterns("clients"))
    with pytest.raises(InputError, match=r"its last, is not in .*--state-dir"):
        open_model(copied, client=0)
    assert torch.equal(open_model(copied, client=0, state_dir=tmp_path / "node").row, expected)
    (kept,) = (node / "clients" / "client-0").iterdir()
    kept.write_bytes(b"torn")
    with pytest.raises(InputError, match=rf"only {kept.name} of another round, run or version, or damaged"):
        open_model(copied, client=0, state_dir=tmp_path / "node")


def test_of_a_run_cut_short_the_state_of_the_last_used_reply_counts(make_flat: MakeFlat) -> None:
    """Client by client: what the server accepted last, be it in the pending file."""
    ended = 3

    def dies(message: object, context: object) -> None:
        kind, number = message.metadata.message_type, message.metadata.group_id  # type: ignore[attr-defined]
        if kind == TRAIN and number == str(ended):
            raise KeyboardInterrupt

    flat = make_flat(layers="1", rounds=5, clients_per_round=4, learning_rate=0.1, run_name="cut")
    with pytest.raises(KeyboardInterrupt):
        go(flat, nodes=1, client_app=Watched(dies))  # type: ignore[arg-type]
    folder = Path(str(flat["runs-dir"])) / "cut"
    last = {client: last_accepted(folder, client) for client in range(5)}
    assert set(last.values()) >= {2}
    for client, accepted in last.items():
        loaded = open_model(folder, client=client)
        assert "this run is interrupted: its parameters are those after round 2 of 5" in loaded.remarks[0]
        if accepted == 2:
            pending = folder / "clients" / f"client-{client}" / "round-2.safetensors"
            assert pending.exists()  # nobody has told the client yet
            assert not torch.equal(loaded.row, open_model(folder).row)


def test_shared_prompts_go_before_those_of_a_warm_up(ran: Ran, tmp_path: Path) -> None:
    """A client that was last asked in a warm-up round kept the prompts of all layers; the selected ones are shared."""
    copied, accepted = tmp_path / ran.folder.name, last_accepted(ran.folder, 0)
    shutil.copytree(ran.folder, copied)
    before = open_model(copied, client=0)
    kept = before.model.layout.unflatten(before.row)
    store = DiskStore(copied / "clients", before.saved.name, "any")
    local = {name: value + 1 for name, value in kept.items() if name.startswith("prompt.")}
    store.keep(0, ClientState(accepted, 0, local, warm_up=True))
    store.resume(0, accepted)
    after = before.model.layout.unflatten(open_model(copied, client=0).row)
    assert torch.equal(after["prompt.0"], kept["prompt.0"] + 1)
    assert all(torch.equal(after[name], kept[name]) for name in kept if name != "prompt.0")


def test_a_reply_that_was_not_used_does_not_count(tmp_path: Path) -> None:
    lines = [
        {"round": 0, "clients": None, "failed": None, "missing": None},
        {"round": 1, "clients": [1, 2, 3], "failed": {}, "missing": []},
        {"round": 2, "clients": [1, 2, 3], "failed": {"1": "why"}, "missing": [2]},
    ]
    write_jsonl(tmp_path / "metrics.jsonl", lines)
    assert [last_accepted(tmp_path, client) for client in (0, 1, 2, 3)] == [0, 1, 1, 2]


# -- bad input ----------------------------------------------------------------------------------------------


def refused(folder: Path | str, **given: object) -> InputError:
    with pytest.raises(InputError) as caught:
        open_model(folder, **given)  # type: ignore[arg-type]
    assert caught.value.mend
    return caught.value


def test_what_is_no_run_is_said(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpeptao.saved.runs_folder", lambda settings: ran.folder.parent)
    assert ran.folder.name in refused("nowhere").mend
    assert torch.equal(open_model(ran.folder.name).row, open_model(ran.folder).row)  # by its name
    assert "it has no settings.json" in refused(tmp_path).problem
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(ran.folder / "settings.json", cut)
    (cut / "summary.json").write_text('{"status": "failed"}', encoding="utf8")
    error = refused(cut)
    assert "no round of it was finished (status failed)" in error.problem
    assert "it holds settings.json, summary.json" in error.problem


def test_a_client_that_is_not_there_is_said(ran: Ran, tmp_path: Path) -> None:
    assert refused(ran.folder, client=5).mend == "The run has clients 0 to 4"
    open_model(ran.folder).save(tmp_path / "out")
    assert "no clients" in refused(tmp_path / "out", client=0).problem


def test_parameters_of_other_settings_are_refused(ran: Ran) -> None:
    error = refused(ran.folder, overriding={"prompt-tokens": 4})
    assert "prompt.1 has shape (2, 4, 3, 8), expected (2, 4, 4, 8)" in error.problem


def test_settings_of_another_version(ran: Ran, tmp_path: Path) -> None:
    """Those that are newer than the run have their defaults; those that this version lost are named."""
    copied = tmp_path / "copied"
    shutil.copytree(ran.folder, copied)
    flat = json.loads((copied / "settings.json").read_text(encoding="utf8"))
    del flat["proximal"]
    (copied / "settings.json").write_text(json.dumps(flat), encoding="utf8")
    assert open_model(copied).saved.settings.local.proximal == 0.0
    (copied / "settings.json").write_text(json.dumps({**flat, "flux": 3}), encoding="utf8")
    assert "flux, which this version does not know" in refused(copied).problem


def test_another_model_than_the_runs_is_remarked(ran: Ran) -> None:
    assert "not bit for bit the model of the run" in open_model(ran.folder, overriding={"seed": 1}).remarks[0]


def test_texts_have_to_be_of_the_runs_kind(ran: Ran, make_flat: MakeFlat, tmp_path: Path) -> None:
    loaded = open_model(ran.folder)
    with pytest.raises(InputError, match="text 2 is empty"):
        loaded.predict(["cat", " "])
    with pytest.raises(InputError, match="single texts"):
        loaded.predict(["cat"], ["dog"])
    rows = [{**row, "text_pair": "and more"} for row in examples(100)]
    paired = open_model(go(make_flat(dataset=str(write_jsonl(tmp_path / "pairs.jsonl", rows)))).folder)
    with pytest.raises(InputError, match="pairs of texts"):
        paired.predict(["cat"])
    assert not torch.equal(paired.logits(["cat"], ["dog"]), paired.logits(["cat"], ["red"]))


def test_an_export_goes_nowhere_but_into_a_new_folder(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("", encoding="utf8")
    with pytest.raises(InputError, match="not empty"):
        open_model(ran.folder).save(tmp_path)
    with pytest.raises(InputError, match="--to"):
        open_model(ran.folder).save(tmp_path / "mine.txt" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

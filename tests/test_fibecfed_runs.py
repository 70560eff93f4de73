"""Whole runs of FibecFed (section 3 of docs/ALGORITHMS.md): what travels, what moves, what is counted, and where it is FedAvg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from client_app import batching, host
from client_app.disk_store import peek
from client_app.start import shard_of
from client_app.state import DIFFICULTY, FISHER, ClientState, MemoryStore
from data.batches import pad
from federation import resources
from federation.evaluation import losses_on
from federation.messages import Ask
from federation.settings import Settings, parse
from fedpeptao.errors import InputError
from fedpeptao.loaded import open_model
from models.random_models import random_model, random_tokenizer
from models.technique_names import matrix_of
from tests.small_runs import Flat, Ran, Watched, equal, go, model_of
from tests.test_whole_run import FEDAVG, naive_fedavg

MakeFlat = Callable[..., Flat]
LABELS = ("animals", "colours", "verbs")
FIBECFED: dict[str, Any] = {
    **{"tuned": "lora", "lora_rank": 2, "score": "perturbation", "curriculum": "linear", "update_share": 0.5},
    **{"drift_correction": "none", "server_optimizer": "none", "rounds": 5, "batch_size": 2, "weight_decay": 0.1},
}

pytestmark = pytest.mark.usefixtures("no_plots")


def states_of(ran: Ran) -> dict[int, ClientState]:
    accepted = {client: line["round"] for line in ran.lines for client in line["clients"] or ()}
    found = {client: peek(ran.folder / "clients", ran.folder.name, client, made) for client, made in accepted.items()}
    return {client: state for client, state in found.items() if state is not None}


# -- whole runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["random:roberta", "random:llama"])
def test_a_whole_run(make_flat: MakeFlat, model: str) -> None:
    watched = Watched()
    ran = go(make_flat(**FIBECFED, model=model), client_app=watched)
    (layer,) = ran.layers
    travelled = {name for one in watched.passed for arrays in one.shapes.values() for name in arrays}
    assert travelled == set(ran.parameters)
    assert {name.split(".")[1] for name in travelled if name.startswith("lora.")} == {str(layer)}
    scores = ran.summary["layer_scores"]
    assert layer == max((0, 1), key=lambda one: (scores[one], -one))
    assert all(score > 0 for score in scores)
    names = model_of(ran.settings, (0, 1), 3)[0].layout.names
    for state in states_of(ran).values():
        kept = {name for name in state.local if not name.startswith(FISHER) and name != DIFFICULTY}
        assert kept == {name for name in names if name.startswith(f"lora.{1 - layer}.")}
        assert {name.removeprefix(FISHER) for name in state.local if name.startswith(FISHER)} == kept
    known = [state.local[DIFFICULTY] for state in states_of(ran).values() if DIFFICULTY in state.local]
    assert known  # of those that a round left batches out for
    assert all((one > 0).all() for one in known)
    own = open_model(ran.folder, client=next(iter(states_of(ran))))
    assert torch.isfinite(own.logits(["the cat 3"])).all()


def test_the_share_of_the_data_that_was_seen_is_in_each_rounds_line(make_flat: MakeFlat) -> None:
    ran = go(make_flat(**FIBECFED, local_epochs=2))
    examples = {client: len(rows) for client, rows in enumerate(resources.shards(ran.settings).train)}
    assert ran.lines[0]["data_share"] is None
    for line in ran.lines[1:]:
        wanted = 0.0
        for client in line["clients"]:
            batches = -(-examples[client] // 2)
            wanted += examples[client] * ran.settings.pacing.batches(batches, line["round"]) / batches
        assert line["data_share"] == pytest.approx(wanted / sum(examples[client] for client in line["clients"]))
    shares = [line["data_share"] for line in ran.lines[1:]]
    assert shares[0] < 0.8
    assert shares[-1] == 1.0
    assert [line["data_share"] for line in go(make_flat(rounds=1)).lines[1:]] == [1.0]


def test_all_layers_no_curriculum_and_no_mask_are_fedavg_of_lora(make_flat: MakeFlat) -> None:
    parts = {"curriculum": "none", "update_share": 1.0}
    ran = go(make_flat(**FEDAVG, tuned="lora", lora_rank=2, score="perturbation", **parts))
    theirs, moved = naive_fedavg(ran)
    model, layout, _ = model_of(ran.settings, (0, 1), 3)
    assert set(ran.parameters) == set(model.layout.names)
    assert float((layout.flatten(ran.parameters) - theirs).abs().max()) < 1e-6
    assert moved > 0.05


def test_clients_in_one_pass_do_as_each_alone(make_flat: MakeFlat) -> None:
    """Curriculum, order and mask are each one's own."""
    runs = [go(make_flat(**FIBECFED, clients_together=size, run_name=f"of-{size}")) for size in (1, 3)]
    alone, together = (ran.parameters for ran in runs)
    assert all(float((alone[name] - together[name]).abs().max()) < 1e-4 for name in alone)


# -- what moves --------------------------------------------------------------------------------------------


def question(settings: Settings, server_round: int, accepted: int = 0) -> Ask:
    _, _, shared = model_of(settings, (1,), LABELS)
    return Ask("run", server_round, LABELS, (1,), (2,), (accepted,), 0, False, shared)


def test_what_is_masked_stays_bit_equal_and_what_is_not_moves(make_flat: MakeFlat) -> None:
    """In the first round B = 0, so that all of A moves; in the second half the columns of A do, by F of both visits."""
    settings = parse(make_flat(**{**FIBECFED, "rounds": 10}, local_epochs=2))
    store = MemoryStore()
    model, _, _ = model_of(settings, (1,), LABELS)
    before = model.layout.unflatten(model.initial(settings.federation.seed))
    seen: list[dict[str, Tensor]] = []
    for server_round in (1, 2):
        host.train(settings, question(settings, server_round, server_round - 1), 2, server_round - 1, store)
        state = store.look(2, server_round)
        assert state is not None
        after = {name: value for name, value in state.local.items() if name in before}
        assert set(after) == {name for name in before if name.startswith("lora.0.")}
        for name, value in after.items():
            rows = value.ne(before[name]) if matrix_of(name) == "B" else value.ne(before[name]).T
            whole = server_round == 1 and matrix_of(name) == "A"
            assert int(rows.any(dim=1).sum()) == (len(rows) if whole else len(rows) // 2)
        seen.append({name: value for name, value in state.local.items() if name.startswith(FISHER)})
        before = {**before, **after}
    assert seen[0].keys() == seen[1].keys()
    assert not any(equal({name: seen[0][name]}, {name: seen[1][name]}) for name in seen[0])


def test_its_information_is_of_the_first_batches_and_those_before(make_flat: MakeFlat) -> None:
    """One batch of the round, example by example; gamma times that of the last visit beside it."""
    settings = parse(make_flat(**FIBECFED, fisher_batches=1, curriculum_order="random"))
    store, ask = MemoryStore(), question(settings, 1)
    begun = host.start(settings, ask, 2, 0, store)
    shard, _ = shard_of(settings, 2)
    name = "lora.0.query.B"
    where = begun.layout.slices[name]
    order = batching.in_order(settings, 2, shard, None)
    first = batching.of_round(settings, shard, 2, 1, order)[0]
    losses = losses_on(begun.model, shard, LABELS, begun.layout)
    squares = torch.zeros(where.stop - where.start)
    for example in first:
        leaf = begun.row[None].clone().requires_grad_()
        (grad,) = torch.autograd.grad(losses(leaf, [example]).sum(), leaf)
        squares += grad[0, where].square()
    host.train(settings, ask, 2, 0, store)
    state = store.look(2, 1)
    assert state is not None
    torch.testing.assert_close(state.local[FISHER + name].flatten(), squares / len(first), rtol=1e-4, atol=1e-12)


def test_information_of_the_last_visit_goes_on(make_flat: MakeFlat) -> None:
    """Both train alike in the first round, so that the second one's F_new is the same."""
    seen: dict[float, list[Tensor]] = {}
    for gamma in (0.0, 0.9):
        settings, store = parse(make_flat(**FIBECFED, fisher_momentum=gamma)), MemoryStore()
        for server_round in (1, 2):
            host.train(settings, question(settings, server_round, server_round - 1), 2, server_round - 1, store)
            state = store.look(2, server_round)
            assert state is not None
            seen.setdefault(gamma, []).append(state.local[FISHER + "lora.0.query.B"])
    assert torch.equal(seen[0.0][0], seen[0.9][0])
    assert not torch.allclose(seen[0.0][1], seen[0.0][0], rtol=0.01, atol=0)
    torch.testing.assert_close(seen[0.9][1], 0.9 * seen[0.0][0] + 0.1 * seen[0.0][1], rtol=1e-5, atol=0)


def test_difficulties_are_worked_out_once(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, store, asked = parse(make_flat(**FIBECFED)), MemoryStore(), []
    real = batching.difficulties
    monkeypatch.setattr(batching, "difficulties", lambda *given: asked.append(1) or real(*given))
    for server_round in (1, 2, 3):
        host.train(settings, question(settings, server_round, server_round - 1), 2, server_round - 1, store)
    assert len(asked) == 1
    host.train(settings, question(settings, 2), 2, 0, MemoryStore())  # its state was lost
    assert len(asked) == 2


def test_who_sees_all_its_batches_needs_no_difficulties_and_trains_alike_with_them(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last of five rounds p = 1, whether a client was there before or not."""
    settings, store = parse(make_flat(**{**FIBECFED, "update_share": 1.0})), MemoryStore()
    host.train(settings, question(settings, 1), 2, 0, store)
    state = store.resume(2, 1)
    assert state is not None
    known = MemoryStore()
    known.keep(2, ClientState(4, 0, {DIFFICULTY: state.local[DIFFICULTY]}))
    with_them = host.train(settings, question(settings, 5, 4), 2, 4, known)
    monkeypatch.setattr(batching, "difficulties", None)
    without = host.train(settings, question(settings, 5), 2, 0, MemoryStore())
    assert with_them.delta is not None
    assert without.delta is not None
    assert torch.equal(with_them.delta, without.delta)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_optimisers_memory_is_as_large_as_what_moves(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Both moments: of the layer that travels and the head all, of the other one that share of B's rows and of A's columns."""
    settings, store, made = parse(make_flat(**{**FIBECFED, "update_share": share, "rounds": 10})), MemoryStore(), []
    real = host.device_optimizer
    monkeypatch.setattr(host, "device_optimizer", lambda *given: made.append(real(*given)) or made[-1])
    for server_round in (1, 2):
        host.train(settings, question(settings, server_round, server_round - 1), 2, server_round - 1, store)
    model, layout, _ = model_of(settings, (1,), LABELS)
    outside = model.layout.size - layout.size
    moments = made[-1].moments
    assert moments.m.shape == moments.v.shape == (1, layout.size + share * outside)


# -- which matrix is trained, and which travels ------------------------------------------------------------


def test_with_a_frozen_b_alone_travels_and_a_is_as_it_began(make_flat: MakeFlat) -> None:
    ran = go(make_flat(**{**FIBECFED, "lora_train": "B", "layers": "1"}, final_local_epochs=1, ditto=0.1))
    model, _, _ = model_of(ran.settings, (1,), LABELS)
    initial = model.layout.unflatten(model.initial(ran.settings.federation.seed))
    assert {matrix_of(name) for name in ran.parameters} == {"B", ""}
    for client in states_of(ran):
        own = open_model(ran.folder, client=client)
        values = own.model.layout.unflatten(own.row)
        for name, value in values.items():
            assert torch.equal(value, initial[name]) is (matrix_of(name) == "A"), name


def test_with_a_travelling_alone_each_client_keeps_a_b_of_its_own(make_flat: MakeFlat) -> None:
    given = {**FIBECFED, "lora_travels": "A", "layers": "all", "update_share": 1.0, "unselected_prompts": "none"}
    ran = go(make_flat(**given))
    assert {matrix_of(name) for name in ran.parameters} == {"A", ""}
    one, two, *_ = (open_model(ran.folder, client=client) for client in states_of(ran))
    mine, theirs = (found.model.layout.unflatten(found.row) for found in (one, two))
    for name in mine:
        assert torch.equal(mine[name], theirs[name]) is (matrix_of(name) != "B"), name


# -- odd and bad input ---------------------------------------------------------------------------------------------


def test_clients_with_fewer_examples_than_a_batch_see_all_of_them_in_every_round(make_flat: MakeFlat) -> None:
    """One batch each, and no difficulties, which would order nothing."""
    ran = go(make_flat(**{**FIBECFED, "batch_size": 1000, "local_epochs": 2}))
    assert [line["data_share"] for line in ran.lines[1:]] == [1.0] * 5
    assert not any(DIFFICULTY in state.local for state in states_of(ran).values())
    assert all(any(name.startswith(FISHER) for name in state.local) for state in states_of(ran).values())


def test_a_rank_above_a_projections_size_stops_before_anybody_trains(make_flat: MakeFlat) -> None:
    with pytest.raises(InputError, match="no more than"):
        go(make_flat(**{**FIBECFED, "lora_rank": 4096}))


def test_a_model_without_the_named_projections_stops_too(make_flat: MakeFlat) -> None:
    with pytest.raises(InputError, match="no linear layer q_proj"):
        go(make_flat(**FIBECFED, lora_targets="q_proj"))


def test_its_adapter_loads_with_peft(make_flat: MakeFlat, tmp_path: Path) -> None:
    """LoRA on the layer that travels, and the head: the scores of the run's shared model."""
    base = tmp_path / "base"
    random_model("roberta", 7, "sdpa", torch.float32).base_model.save_pretrained(base)
    random_tokenizer("roberta").save_pretrained(base)
    ran = go(make_flat(**FIBECFED, model=str(base), head="model"))
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    read = PeftModel.from_pretrained(plain, str(ran.folder / "adapter")).eval()
    loaded, texts = open_model(ran.folder), ["the cat 3", "a red teal 4 of them"]
    encoded = loaded.encode(texts)
    inputs = pad(encoded, [0, 1], pad_token_id=1, device="cpu")
    with torch.no_grad():
        scores = read(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(scores, loaded.logits(texts), rtol=1e-4, atol=1e-5)
    moved = {name.split("layer.")[1][0] for name, value in read.named_parameters() if "lora_B" in name and value.any()}
    assert moved == {str(*ran.layers)}  # of the others the shared model has what all began with

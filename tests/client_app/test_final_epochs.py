"""Floor and ceiling by settings: final epochs of each client's own, runs without rounds, one client with all data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from client_app import host
from client_app.state import MemoryStore
from data.batches import length_batches
from federation import resources
from federation.evaluation import losses_on, targets
from federation.randomness import generator
from federation.settings import parse
from fedpeptao.loaded import open_model
from tests.client_app.test_host import CLIENT, LABELS, question
from tests.small_runs import Flat, Ran, Watched, equal, go

MakeFlat = Callable[..., Flat]


def counts_of(ran: Ran, client: int) -> tuple[int, float]:
    """Right predictions, and the sum of losses, of a client's exported model on its evaluation shard."""
    loaded = open_model(ran.folder, client=client)
    _, own = host.shard_of(ran.settings, client)
    scores, wanted = loaded.scores(own), targets(own, loaded.labels)
    loss = torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
    return int((scores.argmax(dim=1) == wanted).sum()), float(loss)


def test_one_final_step_is_a_gradient_step_on_its_own_shard(make_flat: MakeFlat) -> None:
    told = {"rounds": 3, "local_epochs": 3, "final_local_epochs": 1}
    flat = make_flat(**told, batch_size=1000, device_optimizer="sgd", clip_norm=1e9)
    settings, store = parse(flat), MemoryStore()
    ask = question(settings, 3)
    begun = host.start(settings, ask, CLIENT, 0, MemoryStore())
    own, _ = host.shard_of(settings, CLIENT)
    leaf = begun.row[None].clone().requires_grad_()
    loss = losses_on(begun.model, own, LABELS, begun.layout)(leaf, range(len(own)))
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    begun.model.unbind()
    host.evaluate(settings, ask, CLIENT, 0, store)
    kept = store.resume(CLIENT, 4)
    assert kept is not None
    expected = begun.row - settings.local.learning_rate * grad[0]
    assert float((expected - begun.row).abs().max()) > 1e-4
    torch.testing.assert_close(begun.layout.flatten(dict(kept.local)), expected, rtol=0, atol=1e-6)


def test_only_the_last_evaluation_has_them(make_flat: MakeFlat) -> None:
    settings, store = parse(make_flat(rounds=3, final_local_epochs=1)), MemoryStore()
    host.evaluate(settings, question(settings, 2), CLIENT, 0, store)
    assert store.resume(CLIENT, 3) is None
    host.train(settings, question(settings, 3), CLIENT, 0, store)
    host.evaluate(settings, question(settings, 3), CLIENT, 3, store)
    accepted = store.resume(CLIENT, 3)  # a run that goes on finds the state of its last round
    assert accepted is not None
    assert "head.bias" not in accepted.local


def test_they_change_the_personalised_figures_alone(make_flat: MakeFlat) -> None:
    flat = make_flat(run_name="run")
    plain = go({**flat, "runs-dir": f"{flat['runs-dir']}-plain"})
    final = go({**flat, "final-local-epochs": 2})
    assert plain.parameter_bytes == final.parameter_bytes
    changing = ("seconds", "all_personalised", "evaluation_bytes")
    assert plain.lines_without(*changing) == final.lines_without(*changing)
    before, after = plain.summary["final"]["per_client"], final.summary["final"]["per_client"]
    for client in before:
        for key in ("examples", "shared_correct", "shared_loss_sum"):
            assert before[client][key] == after[client][key]
        assert before[client]["loss_sum"] != after[client]["loss_sum"]
    sums = [sum(counts["loss_sum"] for counts in figures.values()) for figures in (before, after)]
    assert sums[1] < sums[0]


def test_a_clients_model_after_them_can_be_had(make_flat: MakeFlat) -> None:
    """Also of one that no round sampled, and where no prompt stays on a client in the rounds."""
    for given in ({}, {"unselected_prompts": "none", "layers": "1"}):
        ran = go(make_flat(final_local_epochs=1, clients_per_round=1, **given))
        for client, figures in ran.summary["final"]["per_client"].items():
            correct, loss = counts_of(ran, int(client))
            assert correct == figures["correct"]
            assert loss == pytest.approx(figures["loss_sum"], abs=1e-4)


def test_without_rounds_each_client_trains_alone(make_flat: MakeFlat) -> None:
    """Local-only training: nothing but the common beginning is ever sent down, and nothing comes up but counts."""
    watched = Watched()
    ran = go(make_flat(rounds=0, final_local_epochs=2, learning_rate=0.05), client_app=watched)
    assert not watched.of("train")
    assert all(not passed.content.array_records for passed in watched.of("evaluate", "up"))
    (line,) = ran.lines
    assert (line["round"], ran.summary["rounds"], ran.summary["status"]) == (0, 0, "completed")
    assert line["global_accuracy"] is not None
    per_client = ran.summary["final"]["per_client"].values()
    assert sum(c["loss_sum"] for c in per_client) < sum(c["shared_loss_sum"] for c in per_client)
    model = resources.tuned(ran.settings, ran.layers, ran.labels)
    initial = model.layout.unflatten(model.initial(ran.settings.federation.seed, ran.settings.model.prompt_init_std))
    assert equal(ran.parameters, {name: initial[name] for name in ran.parameters})


def test_one_client_with_all_data_is_central_training(make_flat: MakeFlat) -> None:
    """Against torch's own AdamW over the same batches."""
    central = {"clients": 1, "clients_per_round": 1, "layers": "all", "restart_moments": False}
    plain = {"drift_correction": "none", "server_optimizer": "none"}
    ran = go(make_flat(rounds=2, local_epochs=2, **central, **plain), nodes=1)
    settings, data = ran.settings, resources.tokenised(ran.settings)
    model = resources.tuned(settings, ran.layers, ran.labels)
    losses = losses_on(model, data.train, ran.labels)
    row = model.initial(settings.federation.seed, settings.model.prompt_init_std)[None].requires_grad_()
    optimizer = torch.optim.AdamW([row], lr=settings.local.learning_rate, weight_decay=0.0)
    lengths = [len(ids) for ids in data.train.input_ids]
    for server_round in (1, 2):
        for epoch in (0, 1):
            rng = generator(settings.federation.seed, "batches", 0, server_round, epoch)
            for batch in length_batches(lengths, settings.local.batch_size, rng):
                optimizer.zero_grad()
                losses(row, batch).sum().backward()
                torch.nn.utils.clip_grad_norm_([row], settings.local.clip_norm)
                optimizer.step()
    model.unbind()
    trained = model.layout.unflatten(row.detach()[0])
    assert ran.parameters.keys() == trained.keys()
    for name, value in ran.parameters.items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=2e-5)
    final = ran.summary["final"]
    assert final["personalised_accuracy"] == final["shared_accuracy"]

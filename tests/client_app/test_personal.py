"""What makes a client's model its own: the prior of its labels, its own head, a second model beside the shared one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from client_app import host
from client_app.state import LOG_PRIOR, MemoryStore
from data.batches import length_batches
from federation.evaluation import batch_inputs, losses_on, targets
from federation.randomness import generator
from federation.settings import parse
from fedpeptao.loaded import open_model
from tests.client_app.test_host import CLIENT, LABELS, question
from tests.small_runs import Flat, Watched, equal, go

MakeFlat = Callable[..., Flat]
PLAIN = {"layers": "all", "drift_correction": "none", "server_optimizer": "none"}


def prior_by_hand(labels: list[str]) -> torch.Tensor:
    counts = Counter(labels)
    return torch.tensor([(counts[label] + 1) / (len(labels) + len(LABELS)) for label in LABELS]).log()


def test_the_prior_is_in_the_training_loss(make_flat: MakeFlat) -> None:
    """One SGD step on one batch of all examples, against the gradient of the loss written out."""
    flat = make_flat(label_prior="client", batch_size=1000, device_optimizer="sgd", clip_norm=1e9, **PLAIN)
    settings = parse(flat)
    ask = question(settings, 1)
    begun = host.start(settings, ask, CLIENT, 0, MemoryStore())
    own, _ = host.shard_of(settings, CLIENT)
    prior = prior_by_hand(list(own.labels))
    assert len(set(prior.tolist())) > 1
    leaf = begun.row[None].clone().requires_grad_()
    begun.model.bind(leaf, begun.layout)
    scores = begun.model.logits(batch_inputs(begun.model.backbone, own, range(len(own))))
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores + prior, targets(own, LABELS)), leaf)
    begun.model.unbind()
    reply = host.train(settings, ask, CLIENT, 0, MemoryStore())
    assert reply.steps == 1
    eta = settings.local.learning_rate
    torch.testing.assert_close(reply.delta, eta * grad[0][: len(ask.shared)], rtol=0, atol=1e-6)


def test_the_prior_is_in_its_own_predictions_and_not_in_the_shared_models(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(label_prior="client", **PLAIN))
    ask = question(settings, 1)
    found = host.evaluate(settings, ask, CLIENT, 0, MemoryStore()).evaluation
    begun = host.start(settings, ask, CLIENT, 0, MemoryStore())
    train, own = host.shard_of(settings, CLIENT)
    begun.model.bind(begun.row[None], begun.layout)
    scores = begun.model.logits(batch_inputs(begun.model.backbone, own, range(len(own)))).detach()
    begun.model.unbind()
    wanted = targets(own, LABELS)
    with_prior, without = (
        float(torch.nn.functional.cross_entropy(one, wanted, reduction="sum"))
        for one in (scores + prior_by_hand(list(train.labels)), scores)
    )
    assert abs(with_prior - without) > 1e-2
    assert found.loss_sum == pytest.approx(with_prior, abs=1e-4)
    assert found.shared_loss_sum == pytest.approx(without, abs=1e-4)


@pytest.mark.parametrize(
    "given",
    [{"label_prior": "client"}, {"personal_head": True}, {"ditto": 0.1}, {"label_prior": "client", "ditto": 1.0}],
    ids=str,
)
def test_a_clients_own_model_can_be_had(make_flat: MakeFlat, given: dict[str, object]) -> None:
    """Its figures are those of the run's last evaluation, also after an export."""
    ran = go(make_flat(**PLAIN, **given))
    trained = {client for line in ran.lines for client in line["clients"] or ()}
    differs = False
    for client in trained:
        loaded = open_model(ran.folder, client=client)
        there = ran.folder / f"export-{client}"
        loaded.save(there)
        figures = ran.summary["final"]["per_client"][str(client)]
        _, own = host.shard_of(ran.settings, client)
        for model in (loaded, open_model(there)):
            wanted = targets(own, model.labels)
            loss = float(torch.nn.functional.cross_entropy(model.scores(own), wanted, reduction="sum"))
            assert loss == pytest.approx(figures["loss_sum"], abs=1e-4)
        differs = differs or abs(figures["loss_sum"] - figures["shared_loss_sum"]) > 1e-3
    assert differs


def test_a_personal_head_never_travels_and_goes_on(make_flat: MakeFlat) -> None:
    watched = Watched()
    ran = go(make_flat(personal_head=True, clients_per_round=5, **PLAIN), client_app=watched)
    named = {name for passed in watched.passed for names in passed.shapes.values() for name in names}
    assert any(name.startswith("prompt.") for name in named)
    assert not any("head" in name for name in named)
    settings, store = ran.settings, MemoryStore()
    travelling = host.travelling_layout(settings, (0, 1), LABELS)
    ask = replace(question(settings, 1), layers=(0, 1), shared=torch.zeros(travelling.size), control=None)
    host.train(settings, ask, CLIENT, 0, store)
    kept = store.look(CLIENT, 1)
    assert kept is not None
    heads = {name: value for name, value in kept.local.items() if name.startswith("head.")}
    assert set(heads) == {"head.classifier.weight", "head.classifier.bias"}
    begun = host.start(settings, replace(ask, round=2), CLIENT, 1, store)
    now = begun.layout.unflatten(begun.row)
    assert equal({name: now[name] for name in heads}, heads)
    assert any(not torch.equal(begun.layout.unflatten(begun.initial)[name], heads[name]) for name in heads)


def test_dittos_model_against_the_rule_written_out(make_flat: MakeFlat) -> None:
    """v <- v - eta (grad f(v) + lambda (v - x)) over the batches of two rounds with an x each; the shared model is as without."""
    told = {"device_optimizer": "sgd", "clip_norm": 1e9, "local_epochs": 2, **PLAIN}
    settings, plain = parse(make_flat(ditto=0.5, **told)), parse(make_flat(**told))
    first = replace(question(settings, 1), control=None)
    second = replace(first, round=2, shared=first.shared + 0.3)
    store, plain_store = MemoryStore(), MemoryStore()
    own, _ = host.shard_of(settings, CLIENT)
    lengths = [len(ids) for ids in own.input_ids]
    v = host.start(settings, first, CLIENT, 0, MemoryStore()).row[None]
    for accepted, ask in enumerate((first, second)):
        begun = host.start(settings, ask, CLIENT, accepted, store, commit=False)
        x, losses = begun.row[None], losses_on(begun.model, own, LABELS, begun.layout)
        for epoch in range(2):
            rng = generator(settings.federation.seed, "batches", CLIENT, ask.round, epoch)
            for batch in length_batches(lengths, settings.local.batch_size, rng):
                leaf = v.clone().requires_grad_()
                (grad,) = torch.autograd.grad(losses(leaf, batch).sum(), leaf)
                v = v - settings.local.learning_rate * (grad + 0.5 * (v - x))
        begun.model.unbind()
        reply = host.train(settings, ask, CLIENT, accepted, store)
        assert torch.equal(reply.delta, host.train(plain, ask, CLIENT, accepted, plain_store).delta)
        after = host.start(settings, replace(ask, round=3), CLIENT, ask.round, store, commit=False)
        torch.testing.assert_close(after.personal, v[0], rtol=0, atol=1e-6)
        assert not torch.equal(after.personal, after.row)


def test_dittos_model_goes_on_from_a_warm_up_where_other_layers_are_left_out(
    make_flat: MakeFlat, no_plots: None
) -> None:
    """The warm-up's states hold personal prompts of all layers, of which only the selected ones are left."""
    estimated = {"layers": "auto", "ratio": "plateau", "warmup_rounds": 1, "unselected_prompts": "none"}
    small = {"curvature_examples": 3, "curvature_steps": 5, "ditto": 0.5}
    ran = go(make_flat(**{**PLAIN, **estimated, **small}, clients_per_round=4, rounds=2))
    assert [(line["accepted"], line["failed"]) for line in ran.lines[1:]] == [(4, {}), (4, {})]
    assert len(ran.layers) == 1
    (warm, chosen) = (set(line["clients"]) for line in ran.lines[1:])
    only_warm = min(warm - chosen)
    loaded = open_model(ran.folder, client=only_warm)
    assert not torch.equal(loaded.row, open_model(ran.folder).row)


def test_the_state_holds_the_prior_for_whoever_has_no_data(make_flat: MakeFlat) -> None:
    settings, store = parse(make_flat(label_prior="client", **PLAIN)), MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    kept = store.look(CLIENT, 1)
    assert kept is not None
    own, _ = host.shard_of(settings, CLIENT)
    torch.testing.assert_close(kept.local[LOG_PRIOR], prior_by_hand(list(own.labels)))

"""What a node does for one client: figures of the roll call, a round's training, what it keeps, what it evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client_app import host
from client_app.state import MemoryStore
from federation import resources
from federation.evaluation import batch_inputs, losses_on
from federation.messages import Ask
from federation.settings import Scalar, Settings, parse
from models.tuned_model import TunedModel
from strategies.selection import batch_score
from tests.small_runs import Flat, examples, model_of, write_jsonl

MakeFlat = Callable[..., Flat]
CLIENT, LAYERS, LABELS = 2, (1,), ("animals", "colours", "verbs")


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat(local_epochs=2, batch_size=4))


def question(
    settings: Settings, server_round: int, layers: tuple[int, ...] = LAYERS, control: float | None = 0.0
) -> Ask:
    """x as it begins, and the same number everywhere in c."""
    _, _, shared = model_of(settings, layers, len(LABELS))
    c = None if control is None else torch.full_like(shared, control)
    return Ask("run", server_round, LABELS, layers, (CLIENT,), (0,), 0, False, shared, c)


def initial_local(settings: Settings) -> Tensor:
    model, _, _ = model_of(settings, LAYERS, len(LABELS))
    row = model.layout.unflatten(model.initial(settings.federation.seed, settings.model.prompt_init_std))
    return row["prompt.0"].flatten()


# -- who lives where, and the roll call --------------------------------------------------------------------


@pytest.mark.parametrize(("clients", "nodes"), [(5, 2), (5, 5), (3, 5), (100, 7)])
def test_client_i_lives_on_node_i_mod_nodes(clients: int, nodes: int) -> None:
    homes = {client: node for node in range(nodes) for client in host.clients_of_node(clients, node, nodes)}
    assert homes == {client: client % nodes for client in range(clients)}
    assert sum(len(host.clients_of_node(clients, node, nodes)) for node in range(nodes)) == clients


def test_the_figures_of_the_roll_call(settings: Settings) -> None:
    """Against the rows of the data themselves."""
    splits, shards = resources.splits(settings), resources.shards(settings)
    replies = [host.roll_call(settings, client, score=False) for client in range(5)]
    for client, reply in enumerate(replies):
        labels = [splits.train["label"][int(row)] for row in shards.train[client]]
        assert reply.client == client
        assert reply.examples == len(labels) >= 8
        assert reply.validation_examples == len(shards.validation[client]) >= 1
        assert reply.steps == 2 * ((len(labels) + 3) // 4)
        assert reply.labels == sorted(set(labels))
        assert (reply.data, reply.scores, reply.fault) == (splits.sha256, [], "")
    assert sum(reply.examples for reply in replies) == 60
    assert len({reply.steps for reply in replies}) > 1


def test_scores_are_means_over_batches_of_eight_without_prompts(settings: Settings) -> None:
    """All of one batch of the 8 examples there are: no choice is left to the generator."""
    smallest = min(range(5), key=lambda client: len(resources.shards(settings).train[client]))
    train, _ = host.shard_of(settings, smallest)
    train = train.select(range(8))
    backbone = resources.backbone(settings)
    one = replace(settings, selection=replace(settings.selection, score_batches=3))
    inputs = batch_inputs(backbone, train, range(8))
    by_hand = [batch_score(h, inputs["attention_mask"]) for h in backbone.block_outputs(inputs)]
    assert host.layer_scores(one, smallest, train) == pytest.approx(by_hand, rel=1e-5)
    assert len(by_hand) == 2


def test_a_client_with_too_few_different_examples_has_no_scores(make_flat: MakeFlat, tmp_path: Path) -> None:
    rows = [{"text": f"the same {row['label']}", "label": row["label"]} for row in examples(100)]
    alike = parse(make_flat(dataset=str(write_jsonl(tmp_path / "alike.jsonl", rows))))
    assert host.roll_call(alike, 0, score=True).scores == []


def test_scores_are_asked_for(settings: Settings) -> None:
    reply = host.roll_call(settings, CLIENT, score=True)
    assert len(reply.scores) == 2
    assert host.roll_call(settings, CLIENT, score=True) == reply


# -- training ----------------------------------------------------------------------------------------------


def test_the_answer_is_where_it_went_and_leaves_x_alone(settings: Settings) -> None:
    ask = question(settings, 1)
    before = ask.shared.clone()
    reply = host.train(settings, ask, CLIENT, 0, MemoryStore())
    assert torch.equal(ask.shared, before)
    assert (reply.client, reply.round, reply.fault, reply.control_round) == (CLIENT, 1, "", 0)
    assert reply.examples == len(resources.shards(settings).train[CLIENT])
    assert reply.steps == 2 * -(-reply.examples // 4)
    assert reply.delta is not None
    assert reply.delta.shape == ask.shared.shape
    assert 0 < float(reply.delta.abs().max()) <= 0.01 * reply.steps * 1.1  # Adam's steps are of size eta
    assert reply.second_moments is None
    assert reply.train_loss == pytest.approx(1.1, abs=0.3)  # the logarithm of 3


def test_the_number_of_steps_is_e_times_the_batches(make_flat: MakeFlat) -> None:
    for epochs, size in ((1, 8), (3, 8), (2, 5), (1, 1000)):
        settings = parse(make_flat(local_epochs=epochs, batch_size=size))
        reply = host.train(settings, question(settings, 1), CLIENT, 0, MemoryStore())
        assert reply.steps == epochs * -(-reply.examples // size) == host.roll_call(settings, CLIENT, False).steps


def test_it_trains_on_its_own_examples_and_no_others(make_flat: MakeFlat) -> None:
    """One step on all it has: its loss, and its direction, are those of its own shard."""
    settings = parse(make_flat(local_epochs=1, batch_size=1000, device_optimizer="sgd", clip_norm=1e9))
    ask = question(settings, 1)
    reply = host.train(settings, ask, CLIENT, 0, MemoryStore())
    begun = host.start(settings, ask, CLIENT, 0, MemoryStore())
    own, _ = host.shard_of(settings, CLIENT)
    losses = losses_on(begun.model, own, LABELS, begun.layout)
    row = begun.row.clone().requires_grad_()
    loss = losses(row[None], list(range(len(own))))
    (gradient,) = torch.autograd.grad(loss.sum(), row)
    assert reply.train_loss == pytest.approx(float(loss), rel=1e-5)
    assert reply.delta is not None
    wanted = settings.local.learning_rate * gradient[: begun.shared]
    torch.testing.assert_close(reply.delta, wanted, rtol=1e-3, atol=1e-8)


def test_it_evaluates_what_it_received_before_it_trains(settings: Settings) -> None:
    store = MemoryStore()
    ask = question(settings, 1)
    before = host.evaluate(settings, ask, CLIENT, 0, store).evaluation
    found = host.train(settings, ask, CLIENT, 0, store).evaluation
    assert (found.examples, found.correct, found.loss_sum) == (before.examples, before.correct, before.loss_sum)
    after = host.evaluate(settings, question(settings, 1), CLIENT, 1, store).evaluation
    assert after.loss_sum != before.loss_sum


def test_rounds_and_clients_have_batches_of_their_own(settings: Settings) -> None:
    first = host.train(settings, question(settings, 1), CLIENT, 0, MemoryStore())
    again = host.train(settings, question(settings, 1), CLIENT, 0, MemoryStore())
    later = host.train(settings, question(settings, 2), CLIENT, 0, MemoryStore())
    assert first.delta is not None
    assert again.delta is not None
    assert later.delta is not None
    assert torch.equal(first.delta, again.delta)
    assert not torch.equal(first.delta, later.delta)


@pytest.mark.parametrize(("precision", "beta"), [("float32", 0.0), ("float16", 0.0), ("float32", 0.8)])
def test_the_control_variate_by_hand(make_flat: MakeFlat, precision: str, beta: float) -> None:
    """c_i <- c_i + Delta_i/(a_i eta) - c, with Delta_i as it travels; a_i = K_i, or what momentum's steps add up to."""
    momentum: Flat = {"device_optimizer": "sgd", "device_momentum": beta} if beta else {}
    settings, store = parse(make_flat(precision=precision, local_epochs=2, batch_size=4, **momentum)), MemoryStore()
    control: Tensor | float = 0.0
    for server_round, c in ((1, 0.0), (2, 0.01), (3, -0.02)):
        ask = question(settings, server_round, control=c)
        reply = host.train(settings, ask, CLIENT, server_round - 1, store)
        assert reply.delta is not None
        if precision == "float16":
            assert torch.equal(reply.delta, reply.delta.half().float())
        a = sum(beta**back for step in range(reply.steps) for back in range(step + 1))
        control = control + reply.delta / (a * settings.local.learning_rate) - c
        assert (reply.steps > 2, reply.control_round) == (True, server_round - 1)
    state = store.resume(CLIENT, 3)
    assert state is not None
    torch.testing.assert_close(state.control, control, rtol=0, atol=1e-6)
    assert float(state.control.abs().max()) > 0.1


def test_the_correction_moves_what_is_shared_and_nothing_else(settings: Settings) -> None:
    """Adam's correction is a step of eta (c - c_i) after each of its own: against the same round without it."""
    once = replace(settings, local=replace(settings.local, local_epochs=1, batch_size=1000))
    with_c, without = MemoryStore(), MemoryStore()
    moved = host.train(once, question(once, 1, control=0.5), CLIENT, 0, with_c)
    plain = host.train(once, question(once, 1, control=None), CLIENT, 0, without)
    assert moved.steps == plain.steps == 1
    assert moved.delta is not None
    assert plain.delta is not None
    torch.testing.assert_close(moved.delta - plain.delta, torch.full_like(plain.delta, 0.5 * 0.01), rtol=0, atol=1e-6)
    a, b = with_c.resume(CLIENT, 1), without.resume(CLIENT, 1)
    assert a is not None
    assert b is not None
    assert all(torch.equal(a.local[name], b.local[name]) for name in {**a.local, **b.local})
    assert b.control is None


def test_an_older_epochs_control_variate_is_none_but_the_prompts_stay(settings: Settings) -> None:
    store = MemoryStore()
    host.train(settings, question(settings, 1, control=0.1), CLIENT, 0, store)
    same = host.start(settings, question(settings, 2), CLIENT, 1, store)
    newer = host.start(settings, replace(question(settings, 2), epoch=1), CLIENT, 1, store)
    assert float(same.control.abs().max()) > 0.1
    assert float(newer.control.abs().max()) == 0.0
    assert torch.equal(newer.row, same.row)
    assert newer.state_round == 1


def test_second_moments_are_asked_for_and_used(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(device_second_moment="shared"))
    ask = question(settings, 1)
    first = host.train(settings, ask, CLIENT, 0, MemoryStore())
    assert first.second_moments is not None
    assert first.second_moments.shape == (4,)  # keys and values of one layer, the head's weight and bias
    assert (first.second_moments > 0).all()
    small, large = (
        host.train(settings, replace(ask, second_moments=first.second_moments * f), CLIENT, 0, MemoryStore()).delta
        for f in (1.0, 1e4)
    )
    assert small is not None
    assert large is not None
    assert float(large.norm()) < 0.05 * float(small.norm())  # steps shrink with the root of vbar


def test_training_that_diverges_says_so_and_leaves_the_model_as_it_was(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = TunedModel.logits
    monkeypatch.setattr(TunedModel, "logits", lambda self, inputs: logits(self, inputs) * float("nan"))
    store = MemoryStore()
    with pytest.raises(FloatingPointError, match="learning-rate"):
        host.train(settings, question(settings, 1), CLIENT, 0, store)
    model, _, _ = model_of(settings, LAYERS, len(LABELS))
    assert not model.backbone.model.training
    with pytest.raises(RuntimeError, match="no parameters are bound"):
        logits(model, {})
    assert store.resume(CLIENT, 1) is None


def test_dropout_is_the_clients_own_and_comes_again(make_flat: MakeFlat) -> None:
    """Whatever was drawn before in the process."""
    settings = parse(make_flat(backbone_dropout=0.3))
    torch.manual_seed(1)
    one = host.train(settings, question(settings, 1), CLIENT, 0, MemoryStore()).delta
    torch.manual_seed(2)
    two = host.train(settings, question(settings, 1), CLIENT, 0, MemoryStore()).delta
    off = parse(make_flat())
    three = host.train(off, question(off, 1), CLIENT, 0, MemoryStore()).delta
    assert one is not None
    assert two is not None
    assert three is not None
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


# -- two phases: what becomes of a reply ---------------------------------------------------------------------


def local_of(settings: Settings, store: MemoryStore, server_round: int, accepted: int) -> Tensor:
    begun = host.start(settings, question(settings, server_round), CLIENT, accepted, store)
    return begun.row[begun.shared :]


def test_an_accepted_reply_is_gone_on_from(settings: Settings) -> None:
    store = MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    local = local_of(settings, store, 2, accepted=1)
    assert not torch.equal(local, initial_local(settings))
    reply = host.train(settings, question(settings, 2), CLIENT, 1, store)
    assert reply.control_round == 1
    assert not torch.equal(local_of(settings, store, 3, accepted=2), local)


@pytest.mark.parametrize("accepted", [0, 1])
def test_a_refused_or_lost_reply_never_was(settings: Settings, accepted: int) -> None:
    """The next message tells the round that counts; the state of the round that did not is dropped."""
    store = MemoryStore()
    for server_round in range(1, accepted + 1):
        host.train(settings, question(settings, server_round), CLIENT, server_round - 1, store)
    before = local_of(settings, store, 7, accepted)
    lost = host.train(settings, question(settings, 7), CLIENT, accepted, store)
    again = host.train(settings, question(settings, 9), CLIENT, accepted, store)
    assert lost.control_round == again.control_round == accepted
    assert lost.evaluation == again.evaluation
    assert torch.equal(local_of(settings, store, 10, accepted), before)
    if not accepted:
        assert torch.equal(before, initial_local(settings))


def test_the_same_round_twice_gives_the_same_answer(settings: Settings) -> None:
    """A server that resumes asks again: nothing of the first time is left."""
    store = MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    one = host.train(settings, question(settings, 2, control=0.1), CLIENT, 1, store)
    two = host.train(settings, question(settings, 2, control=0.1), CLIENT, 1, store)
    assert one.delta is not None
    assert two.delta is not None
    assert torch.equal(one.delta, two.delta)
    assert one.control_round == two.control_round == 1


def test_a_state_that_is_gone_is_told(settings: Settings) -> None:
    """The server says 4, the device has nothing of it: it starts anew and answers with 0."""
    store = MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    reply = host.train(settings, question(settings, 5), CLIENT, 4, store)
    assert reply.control_round == 0


def test_an_evaluation_commits_and_changes_nothing(settings: Settings) -> None:
    store = MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    one = host.evaluate(settings, question(settings, 1), CLIENT, 1, store)
    two = host.evaluate(settings, question(settings, 1), CLIENT, 1, store)
    assert one == two
    assert host.train(settings, question(settings, 2), CLIENT, 1, store).control_round == 1


# -- evaluation --------------------------------------------------------------------------------------------


def test_a_client_that_was_never_sampled_has_the_common_prompts(settings: Settings) -> None:
    found = host.evaluate(settings, question(settings, 0), CLIENT, 0, MemoryStore()).evaluation
    assert found.examples == len(resources.shards(settings).validation[CLIENT])
    assert (found.shared_correct, found.shared_loss_sum) == (found.correct, found.loss_sum)
    model, _, _ = model_of(settings, LAYERS, len(LABELS))
    model.bind(model.initial(settings.federation.seed, settings.model.prompt_init_std)[None])
    _, shard = host.shard_of(settings, CLIENT)
    common = host.count(model, shard, LABELS, 32)
    assert (found.correct, found.loss_sum) == (common.correct, common.loss_sum)


def test_after_training_its_own_prompts_make_the_difference(settings: Settings) -> None:
    store, untouched = MemoryStore(), MemoryStore()
    host.train(settings, question(settings, 1), CLIENT, 0, store)
    own = host.evaluate(settings, question(settings, 1), CLIENT, 1, store).evaluation
    never = host.evaluate(settings, question(settings, 1), CLIENT, 0, untouched).evaluation
    assert own.loss_sum != own.shared_loss_sum
    assert own.shared_loss_sum == never.shared_loss_sum  # x is the same, and so the shared model
    assert own.examples == never.examples


@pytest.mark.parametrize(("mode", "layers"), [("none", (1,)), ("local", (0, 1))])
def test_where_nothing_stays_the_two_are_one(make_flat: MakeFlat, mode: str, layers: tuple[int, ...]) -> None:
    settings, store = parse(make_flat(unselected_prompts=mode)), MemoryStore()
    host.train(settings, question(settings, 1, layers), CLIENT, 0, store)
    found = host.evaluate(settings, question(settings, 1, layers), CLIENT, 1, store).evaluation
    assert (found.correct, found.loss_sum) == (found.shared_correct, found.shared_loss_sum)
    state = store.resume(CLIENT, 1)
    assert state is not None
    assert not state.local


def test_a_label_that_the_run_does_not_have_is_refused(settings: Settings) -> None:
    ask = replace(question(settings, 1), labels=("x", "y", "z"))
    with pytest.raises(ValueError, match="not among the run's classes"):
        host.train(settings, ask, CLIENT, 0, MemoryStore())


def test_a_fingerprint_is_of_what_a_state_fits(make_flat: MakeFlat) -> None:
    """Not of the layers that travel, nor of where the run lies; but of model, data, prompts and classes."""

    def of(layers: tuple[int, ...] = (1,), labels: Sequence[str] = LABELS, **given: Scalar) -> str:
        return host.fingerprint(parse(make_flat(**given)), layers, labels)

    first = of()
    assert of((0, 1)) == of(unselected_prompts="none") == of(runs_dir="/else", learning_rate=0.5) == first
    others = [of(prompt_tokens=4), of(labels=("verbs", "animals", "colours")), of(train_examples=30)]
    others += [of(model="random:roberta"), of(head="linear", labels=("a", "b"))]
    assert len({first, *others}) == 6

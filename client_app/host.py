"""What a node does for each client it hosts: roll call, training, evaluation. It knows no Flower.

The model and the data are the process's (federation/resources.py); a client's own state lies behind a port (client_app/state.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from client_app.local_update import SGD, Adam, DeviceOptimizer, LocalResult, Moments, Pull, SharedAdam, local_update
from client_app.state import DITTO, LOG_PRIOR, ClientState, StateStore
from data.batches import Encoded, joined, length_batches, score_batches
from federation import resources
from federation.channels import make_channels
from federation.evaluation import Counts, batch_inputs, count, losses_on, stack_losses_on
from federation.messages import Ask, EvaluateReply, Evaluation, RollCallReply, TrainReply
from federation.metrics import ACCURACY
from federation.randomness import generator, torch_seed
from federation.settings import Settings
from models.layout import Layout
from models.tuned_model import TunedModel
from strategies.selection import SCORE_BATCH, batch_score, travelling_names


def clients_of_node(clients: int, node: int, nodes: int) -> list[int]:
    """Client i lives on node i mod (number of nodes)."""
    return list(range(node, clients, nodes))


def roll_call(settings: Settings, client: int, score: bool) -> RollCallReply:
    """n_i, K_i, labels, data hash, and the scores of section 2.1 if asked."""
    train, validation = shard_of(settings, client)
    if not len(train):
        return RollCallReply(client, fault="it has no training examples")
    return RollCallReply(
        client=client,
        examples=len(train),
        validation_examples=len(validation),
        steps=settings.local.steps(len(train)),
        labels=sorted(set(train.labels)),
        commonest=list(validation.labels).count(commonest_label(settings, train.labels)),
        data=resources.data_name(settings),
        scores=layer_scores(settings, client, train) if score else [],
    )


def commonest_label(settings: Settings, labels: Sequence[str]) -> str:
    """Of a client's training examples; of several the first in the order of the classes."""
    classes, counts = settings.data.named_labels or resources.classes(settings, labels), Counter(labels)
    return max(classes, key=counts.__getitem__)


def layer_scores(settings: Settings, client: int, train: Encoded) -> list[float]:
    """zeta_i per layer: dropout off, no prompts; empty if the client has fewer than a batch of different examples."""
    backbone = resources.backbone(settings)
    rng = generator(settings.federation.seed, "score", client)
    per_batch = []
    for rows in score_batches(train, SCORE_BATCH, settings.selection.score_batches, rng):
        inputs = batch_inputs(backbone, train, rows)
        per_batch.append([batch_score(h, inputs["attention_mask"]) for h in backbone.block_outputs(inputs)])
    return [float(mean) for mean in np.mean(per_batch, axis=0)] if per_batch else []


@dataclass(frozen=True)
class Start:
    """Where a client goes on from: the model, its rows, and the state of the last accepted round.

    Attributes:
        model: with prompts on all layers that this client has some on.
        layout: the model's parameters, those that travel first.
        shared: R_s, how many travel.
        row: x_i, [R] float32, where training starts.
        personal: the client's own model, [R] float32: `row`, but for Ditto's.
        log_prior: of its labels, [1, classes] float32; None without.
        initial: the shared model: what was received, and the common initial values elsewhere, [R] float32.
        control: c_i, [R_s]; zeros where there is none of this epoch.
        moments: Adam's m and v, [2, R], to go on with; None to start anew.
        moments_steps: optimiser steps behind them.
        state_round: the round of that state; 0 for a new one.
        residual: r_i, [R_s]; zeros where there is none.
    """

    model: TunedModel
    layout: Layout
    shared: int
    row: Tensor
    personal: Tensor
    log_prior: Tensor | None
    initial: Tensor
    control: Tensor
    moments: Tensor | None
    moments_steps: int
    state_round: int
    residual: Tensor


def start(settings: Settings, ask: Ask, client: int, accepted: int, store: StateStore, commit: bool = True) -> Start:
    """Two-phase: the store commits or drops what is pending, as the server's last accepted round says.

    commit: not to evaluate: the server may not have kept yet what it tells.
    """
    model = resources.tuned(settings, ask.layers, ask.labels)
    layout = model.layout.first(_travelling(settings, model.layout, ask.layers))
    values = model.layout.unflatten(model.initial(settings.federation.seed, settings.model.prompt_init_std))
    travelling = travelling_layout(settings, ask.layers, ask.labels).unflatten(ask.shared)
    kept = store.resume(client, accepted) if commit else store.look(client, accepted)
    state = kept or ClientState(0, ask.epoch, {})
    own = {name: value for name, value in state.local.items() if name in layout.names}
    second = {name.removeprefix(DITTO): value for name, value in state.local.items() if name.startswith(DITTO)}
    mine = {**values, **own, **travelling}
    control = state.control if state.epoch == ask.epoch else None
    goes_on = state.warm_up == ask.warm_up
    return Start(
        model=model,
        layout=layout,
        shared=len(ask.shared),
        row=layout.flatten(mine),
        personal=layout.flatten({**mine, **second}),
        log_prior=log_prior(settings, client, ask.labels),
        initial=layout.flatten({**values, **travelling}),
        control=torch.zeros(len(ask.shared)) if control is None else control,
        moments=state.moments if goes_on else None,
        moments_steps=state.steps,
        state_round=state.round,
        residual=state.residual if goes_on and state.residual is not None else torch.zeros(len(ask.shared)),
    )


def _moments(begun: Sequence[Start], device: torch.device) -> Moments | None:
    """Of a stack; zeros after 0 steps for who starts anew among others that go on."""
    if all(one.moments is None for one in begun):
        return None
    pairs = [torch.zeros(2, len(one.row)) if one.moments is None else one.moments for one in begun]
    m, v = torch.stack(pairs, dim=1).to(device)
    return Moments(tuple(0 if one.moments is None else one.moments_steps for one in begun), m, v)


def travelling_layout(settings: Settings, layers: tuple[int, ...], labels: Sequence[str]) -> Layout:
    """The parameters that travel, in the order of x."""
    model = resources.tuned(settings, layers, labels)
    return model.layout.select(_travelling(settings, model.layout, layers))


def _travelling(settings: Settings, layout: Layout, layers: tuple[int, ...]) -> list[str]:
    return travelling_names(layout, layers, head=not settings.personal.personal_head)


def log_prior(settings: Settings, client: int, labels: Sequence[str]) -> Tensor | None:
    """log p_i(y) of a client's training labels, one counted more of each class, [1, classes]; None where none is added.

    With it in the loss the scores are trained as if labels were balanced (balanced softmax, arXiv 2007.10740; for label skew
    between clients arXiv 2209.00189): the shared model learns p(text | label), each client knows its own p(label).
    """
    if settings.personal.label_prior == "none":
        return None
    counts = Counter(shard_of(settings, client)[0].labels)
    frequency = torch.tensor([[counts[label] + 1.0 for label in labels]])
    return (frequency / frequency.sum()).log().to(resources.backbone(settings).device)


def fingerprint(settings: Settings, layers: tuple[int, ...], labels: Sequence[str]) -> str:
    """Of all that a client's state fits whatever S is: model, data, shapes of what is tuned, classes and head."""
    entries = resources.tuned(settings, layers, labels).layout.entries
    facts = [
        resources.backbone(settings).fingerprint,
        resources.splits(settings).sha256,
        sorted({(entry.name.split(".")[0], entry.shape) for entry in entries if entry.layer is not None}),
        list(labels),
        [(entry.name, entry.shape) for entry in entries if entry.layer is None],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def train(settings: Settings, ask: Ask, client: int, accepted: int, store: StateStore) -> TrainReply:
    """A round of one client; see `train_together`."""
    (reply,) = train_together(settings, ask, [client], {client: accepted}, store)
    return reply


def train_together(
    settings: Settings, ask: Ask, clients: Sequence[int], accepted: Mapping[int, int], store: StateStore
) -> list[TrainReply]:
    """Evaluates what each received, trains them as one stack, keeps what stays here, and answers with Delta_i (section 2.4).

    Several clients share each forward pass, with parameters, clipping and moments of their own: their gradients are those
    that each would have alone, but for rounding.

    Raises:
        FloatingPointError: training diverged, of one of them.
    """
    clients = sorted(clients, key=lambda client: -_steps(settings, client))  # the stack shrinks from below
    shards, validation = zip(*(shard_of(settings, client) for client in clients), strict=True)
    begun = [start(settings, ask, client, accepted[client], store) for client in clients]
    evaluations = [
        _evaluate(settings, one, shard, ask.labels, shared_too=False)
        for shard, one in zip(validation, begun, strict=True)
    ]
    first = begun[0]
    model, layout, device = first.model, first.layout, first.model.backbone.device
    d = None if ask.control is None else torch.stack([ask.control - one.control for one in begun]).to(device)
    blocks = layout.select(_travelling(settings, model.layout, ask.layers)).blocks
    shared_moments = settings.local.device_second_moment == "shared" and not ask.warm_up
    optimizer = device_optimizer(settings, ask, blocks, device, _moments(begun, device))
    priors = [one.log_prior for one in begun if one.log_prior is not None]
    losses = stack_losses_on(model, joined(shards), ask.labels, layout, torch.cat(priors) if priors else None)
    with _in_training(settings, model, clients[0], ask.round):
        result = local_update(
            torch.stack([one.row for one in begun]).to(device),
            _stacked_batches(settings, clients, shards, ask.round),
            losses,
            optimizer,
            d,
            blocks if shared_moments else (),
            _pull(settings, ask, first.shared),
            active=len,
        )
        second = _ditto(settings, ask, begun, _stacked_batches(settings, clients, shards, ask.round), losses)
    moments = optimizer.moments if isinstance(optimizer, Adam) and not settings.local.restart_moments else None
    return [
        _finish(settings, ask, client, one, evaluation, result, place, moments, second, store)
        for place, (client, one, evaluation) in enumerate(zip(clients, begun, evaluations, strict=True))
    ]


def _finish(
    settings: Settings,
    ask: Ask,
    client: int,
    begun: Start,
    evaluation: Evaluation,
    result: LocalResult,
    place: int,
    moments: Moments | None,
    second: Tensor | None,
    store: StateStore,
) -> TrainReply:
    """Keeps what stays of a client, and its answer; place: in the stack."""
    row, steps = result.rows[place].cpu(), result.steps[place]
    delta, residual = _update(settings, ask, client, begun, row)
    control = None
    if ask.control is not None:
        control = begun.control + delta / (steps * settings.local.learning_rate) - ask.control
    local = _staying(settings, begun, ask, row)
    if second is not None:
        local |= {f"{DITTO}{name}": value for name, value in begun.layout.unflatten(second[place].cpu()).items()}
    local |= _kept_prior(begun)
    kept = ClientState(ask.round, ask.epoch, local, control, warm_up=ask.warm_up, residual=residual)
    if moments is not None:
        own = torch.stack([moments.m[place], moments.v[place]]).cpu()
        kept = replace(kept, moments=own, steps=moments.t[place])
    store.keep(client, kept)
    shared_moments = result.second_moments.shape[1] > 0
    return TrainReply(
        client=client,
        round=ask.round,
        examples=len(resources.shards(settings).train[client]),
        steps=steps,
        train_loss=float(result.losses[place]),
        control_round=begun.state_round,
        evaluation=evaluation,
        delta=delta,
        second_moments=result.second_moments[place].to(torch.float32) if shared_moments else None,
    )


def _update(settings: Settings, ask: Ask, client: int, begun: Start, row: Tensor) -> tuple[Tensor, Tensor | None]:
    """Delta_i as it travels, and r_i: what rounding took from it goes into the next one (section 2.8)."""
    channel = make_channels(settings, travelling_layout(settings, ask.layers, ask.labels)).update
    due = ask.shared - row[: begun.shared]
    if not settings.server.feeds_back:
        return channel.as_sent(due, client, ask.round), None
    due = due + begun.residual
    delta = channel.as_sent(due, client, ask.round)
    return delta, due - delta


def evaluate(settings: Settings, ask: Ask, client: int, accepted: int, store: StateStore) -> EvaluateReply:
    """Its evaluation shard, with its own parameters and with the shared model.

    After the last round it first trains for `final-local-epochs` on its own, if there are any. What comes of that is kept as a
    state of the round after the last, which no server ever accepts: a run that goes on does so from before it.
    """
    begun = start(settings, ask, client, accepted, store, commit=False)
    train_shard, validation_shard = shard_of(settings, client)
    if settings.local.final_local_epochs and ask.round == settings.federation.rounds:
        begun = replace(begun, personal=_trained_alone(settings, ask, client, begun, train_shard))
        kept = ClientState(ask.round + 1, ask.epoch, begun.layout.unflatten(begun.personal) | _kept_prior(begun))
        store.keep(client, kept)
    return EvaluateReply(client, ask.round, "", _evaluate(settings, begun, validation_shard, ask.labels, True))


def _trained_alone(settings: Settings, ask: Ask, client: int, begun: Start, shard: Encoded) -> Tensor:
    """All that the client trains [R], after its final local epochs; uncorrected, with moments that start anew."""
    model, after = begun.model, ask.round + 1
    with _in_training(settings, model, client, after):
        result = local_update(
            begun.personal[None].to(model.backbone.device),
            _batches(settings, shard, client, after, settings.local.final_local_epochs),
            losses_on(model, shard, ask.labels, begun.layout, begun.log_prior),
            device_optimizer(settings, ask, (), model.backbone.device),
        )
    return result.rows[0].cpu()


@contextmanager
def _in_training(settings: Settings, model: TunedModel, client: int, round_number: int) -> Iterator[None]:
    """Dropout, where there is any, from (seed, client, round)."""
    torch.manual_seed(torch_seed(settings.federation.seed, "dropout", client, round_number))
    model.backbone.train(True)
    try:
        yield
    finally:
        model.backbone.train(False)
        model.unbind()


def _staying(settings: Settings, begun: Start, ask: Ask, row: Tensor) -> dict[str, Tensor]:
    """What to keep: what does not travel; in a warm-up round, when S is not known yet, all that may stay here later."""
    stay = set(begun.layout.names) - set(_travelling(settings, begun.layout, ask.layers))
    if ask.warm_up:
        stay |= {entry.name for entry in begun.layout.entries if entry.layer is not None}
    return {name: value for name, value in begun.layout.unflatten(row).items() if name in stay}


def _kept_prior(begun: Start) -> dict[str, Tensor]:
    """For whoever uses the client's model without its data."""
    return {} if begun.log_prior is None else {LOG_PRIOR: begun.log_prior[0].cpu()}


def _ditto(
    settings: Settings,
    ask: Ask,
    begun: Sequence[Start],
    batches: Iterator[list[list[int]]],
    losses: Callable[[Tensor, list[list[int]]], Tensor],
) -> Tensor | None:
    """Each client's personal model [C, R] after the same batches, pulled towards the shared one (Ditto, arXiv 2012.04221).

    v_i <- v_i - eta ( grad f_i(v_i) + lambda (v_i - x) )
    """
    if not settings.personal.ditto:
        return None
    first, device = begun[0], begun[0].model.backbone.device
    centre = torch.stack([one.row for one in begun]).to(device)
    optimizer = device_optimizer(settings, replace(ask, second_moments=None), (), device)
    pull = Pull(settings.personal.ditto, first.shared, centre)
    rows = torch.stack([one.personal for one in begun]).to(device)
    return local_update(rows, batches, losses, optimizer, pull=pull, active=len).rows


def _pull(settings: Settings, ask: Ask, shared: int) -> Pull | None:
    mu = 0.0 if ask.warm_up else settings.local.proximal
    return Pull(mu, shared) if mu else None


def device_optimizer(
    settings: Settings, ask: Ask, blocks: Sequence[slice], device: torch.device, moments: Moments | None = None
) -> DeviceOptimizer:
    """One for this round; moments: to go on with, None for a fresh start."""
    local = settings.local
    if local.device_optimizer == "sgd":
        return SGD(local.learning_rate, local.clip_norm)
    if ask.second_moments is None:  # not shared, or the first round: the device's own v
        return Adam(local.learning_rate, local.weight_decay, local.clip_norm, moments)
    sizes = torch.tensor([block.stop - block.start for block in blocks])
    vbar = ask.second_moments.repeat_interleave(sizes).to(device)
    return SharedAdam(local.learning_rate, local.weight_decay, local.clip_norm, vbar, moments)


def _steps(settings: Settings, client: int) -> int:
    return settings.local.steps(len(resources.shards(settings).train[client]))


def _stacked_batches(
    settings: Settings, clients: Sequence[int], shards: Sequence[Encoded], round_number: int
) -> Iterator[list[list[int]]]:
    """Step by step the batch of each client that has one left; clients: the longest first. Places in the joined shards."""
    epochs = settings.local.local_epochs
    each = [
        _batches(settings, shard, client, round_number, epochs) for client, shard in zip(clients, shards, strict=True)
    ]
    *begins, _ = itertools.accumulate(map(len, shards), initial=0)
    for step in itertools.zip_longest(*each):
        pairs = zip(begins, step, strict=True)
        yield [[begin + place for place in batch] for begin, batch in pairs if batch is not None]


def _batches(settings: Settings, shard: Encoded, client: int, round_number: int, epochs: int) -> Iterator[list[int]]:
    """So many epochs in batches of similar length, in an order of (seed, client, round, epoch)."""
    lengths = [len(ids) for ids in shard.input_ids]
    for epoch in range(epochs):
        rng = generator(settings.federation.seed, "batches", client, round_number, epoch)
        yield from length_batches(lengths, settings.local.batch_size, rng)


def _evaluate(settings: Settings, begun: Start, shard: Encoded, labels: Sequence[str], shared_too: bool) -> Evaluation:
    model, device = begun.model, begun.model.backbone.device
    size = settings.run.evaluation_batch_size
    model.bind(begun.personal[None].to(device), begun.layout, log_prior=begun.log_prior)
    own = count(model, shard, labels, size)
    together = Counts()
    if shared_too:
        if begun.log_prior is not None or not torch.equal(begun.personal, begun.initial):
            model.bind(begun.initial[None].to(device), begun.layout)
            together = count(model, shard, labels, size)
        else:
            together = own
    found = Evaluation(own.examples, own.correct, own.loss_sum, together.correct, together.loss_sum)
    if resources.metric(settings) == ACCURACY:
        return found
    return replace(found, confusion=own.confusion, shared_confusion=together.confusion)


def shard_of(settings: Settings, client: int) -> tuple[Encoded, Encoded]:
    """A client's training and evaluation examples."""
    data, rows = resources.tokenised(settings), resources.shards(settings)
    return data.train.select(rows.train[client]), data.validation.select(rows.validation[client])

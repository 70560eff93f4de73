"""What a node does for each client it hosts: roll call, training, evaluation. It knows no Flower.

The model and the data are the process's (federation/resources.py); a client's own state lies behind a port (client_app/state.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from client_app.alone import ditto, trained_alone
from client_app.batching import stacked
from client_app.dropout import in_training
from client_app.layer_scores import layer_scores
from client_app.local_update import Adam, DeviceOptimizer, LocalResult, Moments, Pull, local_update
from client_app.optimizers import device_optimizer
from client_app.slower import Slower
from client_app.sparse import Sparse, places_of
from client_app.start import Start, shard_of, start, travelling, travelling_layout
from client_app.state import DITTO, LOG_PRIOR, ClientState, StateStore
from client_app.work import work_of
from data.batches import Encoded, joined
from federation import resources
from federation.channels import make_channels
from federation.evaluation import Counts, count, stack_losses_on
from federation.messages import Ask, EvaluateReply, Evaluation, RollCallReply, TrainReply
from federation.metrics import ACCURACY
from federation.settings import Settings


def clients_of_node(clients: int, node: int, nodes: int) -> list[int]:
    """Client i lives on node i mod (number of nodes)."""
    return list(range(node, clients, nodes))


def roll_call(settings: Settings, client: int, score: bool) -> RollCallReply:
    """n_i, K_i, labels, which data and model, and the scores of section 2.1 if asked."""
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
        model=resources.frozen_name(settings),
        scores=layer_scores(settings, client, train) if score else [],
    )


def commonest_label(settings: Settings, labels: Sequence[str]) -> str:
    """Of a client's training examples; of several the first in the order of the classes."""
    classes, counts = settings.data.named_labels or resources.classes(settings, labels), Counter(labels)
    return max(classes, key=counts.__getitem__)


def _moments(begun: Sequence[Start], device: torch.device) -> Moments | None:
    """Of a stack; zeros after 0 steps for who starts anew among others that go on."""
    if all(one.moments is None for one in begun):
        return None
    pairs = [torch.zeros(2, len(one.row)) if one.moments is None else one.moments for one in begun]
    m, v = torch.stack(pairs, dim=1).to(device)
    return Moments(tuple(0 if one.moments is None else one.moments_steps for one in begun), m, v)


def fingerprint(settings: Settings, layers: tuple[int, ...], labels: Sequence[str]) -> str:
    """Of all that a client's state fits whatever S is: model, mixed prompts, data, shapes of what is tuned, classes and head."""
    entries = resources.tuned(settings, layers, labels).layout.entries
    facts = [
        resources.frozen(settings),
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
    clients = sorted(clients, key=lambda client: -_steps(settings, client, ask.round))  # the stack shrinks from below
    shards, validation = zip(*(shard_of(settings, client) for client in clients), strict=True)
    begun = [start(settings, ask, client, accepted[client], store) for client in clients]
    evaluations = [
        _evaluate(settings, one, shard, ask.labels, shared_too=False)
        for shard, one in zip(validation, begun, strict=True)
    ]
    work = [
        work_of(settings, ask, client, one, shard) for client, one, shard in zip(clients, begun, shards, strict=True)
    ]
    first = begun[0]
    model, layout, device = first.model, first.layout, first.model.backbone.device
    d = None if ask.control is None else torch.stack([ask.control - one.control for one in begun]).to(device)
    blocks = layout.select(travelling(settings, model.layout, ask.layers)).blocks
    shared_moments = settings.local.device_second_moment == "shared" and not ask.warm_up
    optimizer = device_optimizer(settings, ask, blocks, device, _moments(begun, device))
    places = places_of([one.places for one in work], layout.size, device)
    priors = [one.log_prior for one in begun if one.log_prior is not None]
    losses = stack_losses_on(model, joined(shards), ask.labels, layout, torch.cat(priors) if priors else None)
    with in_training(settings, model, clients[0], ask.round):
        result = local_update(
            torch.stack([one.row for one in begun]).to(device),
            stacked([one.batches for one in work], shards),
            losses,
            _in_part(settings, optimizer, places, first),
            d,
            blocks if shared_moments else (),
            _pull(settings, ask, first.shared),
            active=len,
        )
        second = ditto(settings, ask, begun, stacked([one.batches for one in work], shards), losses)
    moments = optimizer.moments if isinstance(optimizer, Adam) and not settings.local.restart_moments else None
    return [
        _finish(settings, ask, client, one, remembered.memory, evaluation, result, place, moments, second, store)
        for place, (client, one, remembered, evaluation) in enumerate(
            zip(clients, begun, work, evaluations, strict=True)
        )
    ]


def _finish(
    settings: Settings,
    ask: Ask,
    client: int,
    begun: Start,
    memory: Mapping[str, Tensor],
    evaluation: Evaluation,
    result: LocalResult,
    place: int,
    moments: Moments | None,
    second: Tensor | None,
    store: StateStore,
) -> TrainReply:
    """Keeps what stays of a client, and its answer; place: in the stack; memory: what else it keeps by name."""
    row, steps = result.rows[place].cpu(), result.steps[place]
    delta, residual = _update(settings, ask, client, begun, row)
    control = None
    if ask.control is not None:
        control = begun.control + delta / (settings.local.step_sum(steps) * settings.local.learning_rate) - ask.control
    local = _staying(settings, begun, ask, row)
    if second is not None:
        local |= {f"{DITTO}{name}": value for name, value in begun.layout.unflatten(second[place].cpu()).items()}
    local |= {**_kept_prior(begun), **memory}
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
        begun = replace(begun, personal=trained_alone(settings, ask, client, begun, train_shard))
        kept = ClientState(ask.round + 1, ask.epoch, begun.layout.unflatten(begun.personal) | _kept_prior(begun))
        store.keep(client, kept)
    return EvaluateReply(client, ask.round, "", _evaluate(settings, begun, validation_shard, ask.labels, True))


def _staying(settings: Settings, begun: Start, ask: Ask, row: Tensor) -> dict[str, Tensor]:
    """What to keep: what does not travel; in a warm-up round, when S is not known yet, all that may stay here later."""
    stay = set(begun.layout.names) - set(travelling(settings, begun.layout, ask.layers))
    if ask.warm_up:
        stay |= {entry.name for entry in begun.layout.entries if entry.layer is not None}
    return {name: value for name, value in begun.layout.unflatten(row).items() if name in stay}


def _kept_prior(begun: Start) -> dict[str, Tensor]:
    """For whoever uses the client's model without its data."""
    return {} if begun.log_prior is None else {LOG_PRIOR: begun.log_prior[0].cpu()}


def _in_part(settings: Settings, optimizer: DeviceOptimizer, places: Sequence[Tensor], begun: Start) -> DeviceOptimizer:
    """The optimiser on some places alone, where there are any; what stays here takes its own length of steps."""
    part = Sparse(optimizer, places, begun.layout.size) if places else optimizer
    factor = settings.local.own_learning_rate
    return part if factor == 1.0 else Slower(part, begun.shared, factor)


def _pull(settings: Settings, ask: Ask, shared: int) -> Pull | None:
    mu = 0.0 if ask.warm_up else settings.local.proximal
    return Pull(mu, shared) if mu else None


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


def _steps(settings: Settings, client: int, server_round: int) -> int:
    return settings.steps_in(server_round, len(resources.shards(settings).train[client]))

"""The roll call: one question to all nodes before round 1, and what follows from the answers.

Faults in anybody's data are found here, before any training. In a simulation all clients hold parts of one data set, so one bad
client stops the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from federation import records, resources
from federation.grids import Exchange, exchanges
from federation.limits import check_size, most_bytes
from federation.messages import ROLL_CALL, MessageError, RollCallAsk, RollCallReply
from federation.randomness import generator
from federation.settings import Settings, layer_list
from fedpeptao.errors import InputError, RunError
from server_app import classes
from server_app.console import classes_line, say, some
from server_app.progress import with_progress
from strategies.roster import Cohort
from strategies.selection import best_layers, layer_count, mean_scores

MOST_OWN = 10**8
"""Examples of a node's own that are believed: far above any, and far below what sums and seconds would suffer from."""
MOST_LABELS = 10_000
"""Classes that are believed where `labels` names none: every client gets an output of the head for each of them."""


@dataclass(frozen=True)
class RollCall:
    """Everybody's answers, and the node each client lives on.

    Attributes:
        replies: client -> its answer, of those that answered this process.
        nodes: client -> the node it lives on, of those that are there.
        heard: nodes that have answered, whether clients live there or not.
        before: client -> (n_i, K_i), of those that an earlier process of the run knew.
    """

    replies: dict[int, RollCallReply]
    nodes: dict[int, int]
    heard: set[int] = field(default_factory=set)
    before: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def agreed(self) -> dict[int, tuple[int, int]]:
        """Client -> (n_i, K_i), which stay as they are for the whole run."""
        answered = {client: (reply.examples, reply.steps) for client, reply in self.replies.items()}
        return dict(sorted({**self.before, **answered}.items()))

    @property
    def cohort(self) -> Cohort:
        """N, n and Kbar."""
        return Cohort.of(self.agreed)

    def of(self, clients: Collection[int]) -> RollCall:
        """The same of these clients alone."""
        replies = {client: reply for client, reply in self.replies.items() if client in clients}
        nodes = {client: node for client, node in self.nodes.items() if client in clients}
        return RollCall(replies, nodes, self.heard, self.before)

    @property
    def commonest_label_accuracy(self) -> float | None:
        """If each client always answered its commonest training label, on all evaluation examples; None without any."""
        examples = sum(reply.validation_examples for reply in self.replies.values())
        return sum(reply.commonest for reply in self.replies.values()) / examples if examples else None


def call(grid: Grid, settings: Settings, run: str, score: bool) -> RollCall:
    """Asks all nodes; score: for the layers' scores too.

    Raises:
        RunError: no node is online, a node failed, a client is missing or lives on two nodes.
        InputError: a client is at fault.
    """
    ask = records.encode_roll_call(RollCallAsk(run=run, score=score))
    nodes = _nodes(grid, settings.run.round_timeout_s)
    messages = [Message(ask, node, ROLL_CALL) for node in nodes]
    found = RollCall({}, {})
    answers = exchanges(grid, messages, settings.run.round_timeout_s)
    for exchange in with_progress(answers, len(messages)):
        found.heard.add(exchange.node)
        for reply in read(exchange, settings):
            if reply.client in found.replies:
                raise RunError(f"client {reply.client} lives on two nodes: give each node its own partition-id")
            found.replies[reply.client] = reply
            found.nodes[reply.client] = exchange.node
    _check(found, settings)
    return found


def agree_labels(settings: Settings, found: RollCall) -> tuple[str, ...]:
    """The classes, in the order of the head's outputs: the setting, else the sorted union of what clients saw.

    Shows how many clients have each, and warns of names that may be meant for one class.

    Raises:
        InputError: a client has a label that the setting lacks, or there are fewer than two, or without the setting too many.
    """
    seen = classes.holders({client: reply.labels for client, reply in found.replies.items()})
    given = settings.data.named_labels
    labels = given or resources.classes(settings, seen)
    if given:
        _check_known(settings, seen, found.nodes)
    elif len(labels) > MOST_LABELS:
        problem = f"clients have {len(labels)} different labels, and {MOST_LABELS} are believed"
        raise InputError("labels", settings.data.labels, problem, "Check label-column, or name the classes in labels")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(
            "labels", ", ".join(labels), "at least two different ones are needed", "Check the data's labels"
        )
    say(classes_line({classes.plain(label): len(seen.get(label, ())) for label in labels}, len(found.replies)))
    if not given:
        classes.warn_of_alike(seen, found.nodes)
    if settings.federation.own_data:  # one data set was checked as a whole
        _check_test(settings, labels)
    return tuple(labels)


def _check_known(settings: Settings, seen: Mapping[str, list[int]], nodes: Mapping[int, int]) -> None:
    if strange := {label: seen[label] for label in sorted(set(seen) - set(settings.data.named_labels))[:5]}:
        problem = f"clients also have {classes.with_holders(strange, nodes)}"
        raise InputError("labels", settings.data.labels, problem, "Add them, mend the data, or leave it empty")


def _check_test(settings: Settings, labels: Sequence[str]) -> None:
    test = resources.splits(settings).test
    if test is not None and (strange := sorted(set(test["label"]) - set(labels))):
        problem = f"it has labels that no client has: {', '.join(strange[:5])}"
        raise InputError("test", settings.data.test, problem, "Remove those rows, or name all classes in labels")


def layer_scores(settings: Settings, found: RollCall) -> list[float] | None:
    """zeta per layer, added up by client, so that no bit depends on who answered first; None where layers are named by hand.

    Raises:
        InputError: no client's examples are enough for a score.
    """
    if settings.selection.layers != "auto":
        return None
    scores = mean_scores((reply.examples, reply.scores) for _, reply in sorted(found.replies.items()))
    if scores is None:
        by_loss = settings.selection.score == "perturbation"
        lacks = "examples whose loss has a gradient" if by_loss else "8 different training examples"
        raise InputError("layers", "auto", f"no client has {lacks} for a score", "Name the layers, or take all")
    return scores


def select_layers(settings: Settings, scores: list[float] | None, ratio: float, layers: int) -> tuple[int, ...]:
    """S, for a model of so many layers; ratio: r, where the scores choose.

    Raises:
        InputError: no such layer.
    """
    if scores is not None:
        rng = generator(settings.federation.seed, "layers")
        return best_layers(scores, layer_count(ratio, layers), settings.selection.score_order, rng)
    if settings.selection.layers == "all":
        return tuple(range(layers))
    check_layers(settings, layers)
    return layer_list(settings.selection.layers)


def check_layers(settings: Settings, layers: int) -> None:
    """InputError if a layer named by hand is not in a model of so many."""
    wanted = settings.selection.layers
    if wanted not in ("auto", "all") and layer_list(wanted)[-1] >= layers:
        raise InputError(
            "layers", wanted, f"{settings.model.model} has layers 0 to {layers - 1}", "Name layers among those"
        )


def _nodes(grid: Grid, timeout_s: float) -> list[int]:
    end = time.monotonic() + timeout_s
    while not (nodes := sorted(grid.get_node_ids())):
        if time.monotonic() > end:
            raise RunError(f"no node came online within {timeout_s:g} s")
        time.sleep(0.5)
    return nodes


def read(exchange: Exchange, settings: Settings) -> list[RollCallReply]:
    """A node's answers.

    Raises:
        RunError: it failed, or its answers cannot be.
    """
    reply = exchange.reply
    if reply.has_error():
        raise RunError(f"node {exchange.node} failed in the roll call (code {reply.error.code}): {exchange.why}")
    clients, limit = settings.federation.clients, settings.federation.message_limit_mb
    try:
        check_size(reply.content, most_bytes(limit, clients))
        replies = records.decode_roll_call_replies(reply.content)
        for one in replies:
            _check_numbers(one, settings)
        return replies
    except MessageError as error:
        raise RunError(f"node {exchange.node} answered the roll call with what cannot be read: {error}") from error


def differing(settings: Settings, reply: RollCallReply) -> str:
    """The setting under which a client holds something else than the server: dataset, model, prompt-sources; "": none."""
    if reply.data != resources.data_name(settings):
        return "dataset"
    (model, _, mixed), (own_model, _, own_mixed) = (
        name.partition("+") for name in (reply.model, resources.frozen_name(settings))
    )
    if model != own_model:
        return "model"
    return "" if mixed == own_mixed else "prompt-sources"


def _check_numbers(reply: RollCallReply, settings: Settings) -> None:
    """What a client says of itself is possible: parts of the server's own data set, if there is one; K_i by the settings.

    Scores are of all layers, or none.

    Raises:
        MessageError: it is not.
    """
    if not 0 <= reply.client < settings.federation.clients:
        raise MessageError(f"there is no client {reply.client}")
    if reply.fault:
        return
    most = _most_examples(settings)
    if not (1 <= reply.examples <= most[0] and 0 <= reply.validation_examples <= most[1]):
        has = f"{reply.examples} training and {reply.validation_examples} evaluation examples"
        raise MessageError(f"client {reply.client} has {has}, the data set {most[0]} and {most[1]}")
    if reply.steps != (agreed := settings.local.steps(reply.examples)):
        raise MessageError(f"client {reply.client} takes {reply.steps} steps a round, by the settings {agreed}")
    if reply.scores and len(reply.scores) != (layers := resources.backbone(settings).num_layers):
        raise MessageError(f"client {reply.client} has {len(reply.scores)} layer scores, the model {layers} layers")
    if not all(map(math.isfinite, reply.scores)):
        raise MessageError(f"client {reply.client} has layer scores that are not finite")
    if len(reply.labels) > max(MOST_LABELS, len(settings.data.named_labels)):
        raise MessageError(f"client {reply.client} has {len(reply.labels)} labels, and {MOST_LABELS} are believed")


def _most_examples(settings: Settings) -> tuple[int, int]:
    """Of training and of evaluation, that a client can have; of nodes' own data nobody else knows how many there are."""
    if settings.federation.own_data:
        return MOST_OWN, MOST_OWN
    data = resources.splits(settings)
    return len(data.train), len(data.validation)


def _check(found: RollCall, settings: Settings) -> None:
    wanted = settings.federation.clients
    missing = sorted(set(range(wanted)) - set(found.replies))
    if missing:
        raise RunError(
            f"{len(missing)} of {wanted} clients did not answer the roll call: {some(missing)}; "
            f"start their nodes, or set min-clients to begin, or go on, with those that are there"
        )
    faults = {client: reply.fault for client, reply in sorted(found.replies.items()) if reply.fault}
    if faults:
        client, fault = next(iter(faults.items()))
        others = f" ({len(faults)} clients in all: {some(list(faults))})" if len(faults) > 1 else ""
        raise InputError(
            "clients", wanted, f"client {client} is at fault{others}: {fault}", "Mend its data or its node"
        )
    kinds = {reply.data for reply in found.replies.values()}
    if len(kinds) > 1:
        raise InputError(
            "dataset",
            settings.data.dataset,
            f"clients hold {len(kinds)} different versions of it",
            "Run the same data set and Python version on all nodes",
        )

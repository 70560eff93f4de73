"""What a node lets a server ask of it: checked before a model is built, a state is opened, or anybody trains."""

from __future__ import annotations

from collections.abc import Collection

from flwr.app import RecordDict

from federation import resources
from federation.messages import TRAIN, Ask, AskHeader, MessageError
from federation.settings import Settings, layer_list
from strategies.selection import layer_count


def check_header(settings: Settings, header: AskHeader, kind: str, hosted: Collection[int]) -> None:
    """The numbers of a question; kind: of the message, hosted: the clients that live here.

    Raises:
        MessageError: they contradict each other, or the settings of the run.
    """
    if strangers := sorted(set(header.clients) - set(hosted)):
        raise MessageError(f"clients {strangers[:10]} do not live on this node")
    if len(set(header.clients)) < len(header.clients):
        raise MessageError("a client is named twice")
    first, last = (1, header.round - 1) if kind == TRAIN else (0, header.round)
    if header.round < first or header.epoch < 0:
        raise MessageError(f"round {header.round} and epoch {header.epoch}")
    if odd := [made for made in header.accepted if not 0 <= made <= last]:
        raise MessageError(f"round {odd[0]} cannot be accepted when round {header.round} is asked for")
    _check_layers(settings, header)


def _check_layers(settings: Settings, header: AskHeader) -> None:
    """Layers of the model, as many as the settings let a server select."""
    count, layers = resources.backbone(settings).num_layers, header.layers
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        raise MessageError(f"layers {list(layers[:10])} of a model with layers 0 to {count - 1}")
    wanted, ratio = settings.selection.layers, settings.selection.ratio
    if header.warm_up and settings.selection.estimator is None:
        raise MessageError("a warm-up round, and these settings have no warm-up")
    if header.warm_up or wanted == "all":
        agreed = len(layers) == count
    elif wanted != "auto":
        agreed = layers == layer_list(wanted)
    else:
        agreed = isinstance(ratio, str) or len(layers) == layer_count(ratio, count)
    if not agreed:
        raise MessageError(f"layers {list(layers[:10])} are not a selection by layers = {wanted!r}, ratio = {ratio!r}")


def check_labels(settings: Settings, header: AskHeader, content: RecordDict) -> None:
    """The classes, before a head is made for them.

    A head has a row of hidden size for each class, and travels: so a list of classes may be as long as the message has bytes for
    such rows, at one byte a number. Where label words decide, the task says which classes there are.

    Raises:
        MessageError: they are not the classes of these settings, or more than the message brings a head for.
    """
    labels = header.labels
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise MessageError(f"{len(labels)} labels, {len(set(labels))} of them different")
    agreed = settings.data.named_labels or resources.classes(settings, ())
    if agreed and labels != tuple(agreed):
        raise MessageError(f"labels {', '.join(labels[:5])}, and these settings have {', '.join(agreed[:5])}")
    if agreed or "shared" not in content.array_records:
        return
    brought = sum(len(array.data) for array in content.array_records["shared"].values())
    if len(labels) * resources.backbone(settings).hidden_size > brought:
        raise MessageError(f"{len(labels)} labels, and a message of {brought} bytes, too few for a head of so many")


def check_parts(settings: Settings, ask: Ask, kind: str) -> None:
    """What travels beside x to train is what these settings have.

    Raises:
        MessageError: c is missing or should not be there; or shared second moments should not.
    """
    if kind != TRAIN:
        return
    corrects = settings.server.drift_correction == "device" and not ask.warm_up
    if (ask.control is not None) != corrects:
        raise MessageError("there is no control variate" if corrects else "there is a control variate")
    shares = settings.local.device_second_moment == "shared" and not ask.warm_up
    if ask.second_moments is not None and not shares:
        raise MessageError("there are second moments")

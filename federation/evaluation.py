"""How many examples a model gets right, and at what loss: the same code on devices, on the server and for the ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batches import Encoded, pad
from models.backbone import Backbone
from models.layout import Layout
from models.tuned_model import TunedModel


@dataclass(frozen=True)
class Counts:
    """Examples, right predictions, and the sum of their cross-entropies in nats.

    confusion: of C classes the C*C counts [true][predicted], row by row; () where they are not known.
    """

    examples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    confusion: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions; None without examples."""
        return self.correct / self.examples if self.examples else None

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy in nats; None without examples."""
        return self.loss_sum / self.examples if self.examples else None


def targets(encoded: Encoded, labels: Sequence[str]) -> Tensor:
    """Class numbers [n] of the examples' labels.

    Raises:
        ValueError: a label that is none of `labels`.
    """
    number = {label: i for i, label in enumerate(labels)}
    unknown = sorted(set(encoded.labels) - set(number))
    if unknown:
        raise ValueError(f"labels that are not among the run's classes: {', '.join(unknown[:5])}")
    return torch.tensor([number[label] for label in encoded.labels], dtype=torch.long)


def losses_on(
    model: TunedModel,
    encoded: Encoded,
    labels: Sequence[str],
    layout: Layout | None = None,
    log_prior: Tensor | None = None,
) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """The model as a function from (rows [1, R] in the order of layout, numbers of examples) to their mean loss [1].

    log_prior: what is added to the class scores, [1, classes].
    """
    wanted = targets(encoded, labels).to(model.backbone.device)

    def losses(rows: Tensor, batch: Sequence[int]) -> Tensor:
        model.bind(rows, layout, log_prior=log_prior)
        return model.loss(model_inputs(model, encoded, batch), wanted[batch])[None]

    return losses


def stack_losses_on(
    model: TunedModel,
    encoded: Encoded,
    labels: Sequence[str],
    layout: Layout | None = None,
    log_priors: Tensor | None = None,
) -> Callable[[Tensor, Sequence[Sequence[int]]], Tensor]:
    """The same for several clients in one forward pass: rows [a, R] and each client's examples, to its mean cross-entropy [a].

    log_priors: of all clients of the stack, [C, classes].
    """
    wanted = targets(encoded, labels).to(model.backbone.device)

    def losses(rows: Tensor, batch: Sequence[Sequence[int]]) -> Tensor:
        sizes = [len(examples) for examples in batch]
        examples = [example for own in batch for example in own]
        owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(sizes)).to(rows.device)
        model.bind(rows, layout, owner, None if log_priors is None else log_priors[: len(rows)])
        inputs = model_inputs(model, encoded, examples)
        if len(batch) == 1:  # the bits of `losses_on`
            return model.loss(inputs, wanted[examples])[None]
        each = model.loss(inputs, wanted[examples], "none")
        return torch.stack([own.mean() for own in torch.split(each, sizes)])

    return losses


def by_length(encoded: Encoded, examples: Sequence[int], most: int) -> list[list[int]]:
    """The examples in groups of at most so many and of similar length, the shortest first."""
    order = sorted(examples, key=lambda example: len(encoded.input_ids[example]))
    return [order[start : start + most] for start in range(0, len(order), most)]


@torch.no_grad()
def scored(model: TunedModel, encoded: Encoded, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Places and class scores [B, classes] by the parameters that are bound to the model now, in batches of similar length."""
    by_length = sorted(range(len(encoded)), key=lambda i: (len(encoded.input_ids[i]), i))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        yield rows, model.logits(model_inputs(model, encoded, rows))


def count(model: TunedModel, encoded: Encoded, labels: Sequence[str], batch_size: int) -> Counts:
    """Evaluates the parameters that are bound to the model now."""
    wanted = targets(encoded, labels).to(model.backbone.device)
    loss_sum, classes = 0.0, len(labels)
    cells = torch.zeros(classes * classes, dtype=torch.long, device=wanted.device)
    for rows, logits in scored(model, encoded, batch_size):
        loss_sum += float(model.loss_of(logits, wanted[rows], "sum"))
        cells += torch.bincount(wanted[rows] * classes + logits.argmax(dim=1), minlength=classes * classes)
    correct = int(cells.view(classes, classes).trace())
    return Counts(len(encoded), correct, loss_sum, tuple(cells.tolist()))


def batch_inputs(backbone: Backbone, encoded: Encoded, rows: Sequence[int]) -> dict[str, Tensor]:
    """The model's inputs for some examples, padded to the longest of them, on its device."""
    return pad(encoded, rows, pad_token_id=backbone.tokenizer.pad_token_id, device=backbone.device)


def model_inputs(model: TunedModel, encoded: Encoded, rows: Sequence[int]) -> dict[str, Tensor]:
    """The same, with what enters the lowest prompted layer where that is kept."""
    inputs = batch_inputs(model.backbone, encoded, rows)
    if model.lower is not None:
        types = encoded.token_type_ids
        texts = [encoded.input_ids[row] for row in rows]
        inputs["entering"] = model.lower.states(texts, None if types is None else [types[row] for row in rows])
    return inputs

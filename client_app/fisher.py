"""Fisher information of what a client tunes, from gradients of single examples, and what it keeps moving by it (section 3).

F_new = mean of squared per-example gradients ;  F <- gamma F + (1 - gamma) F_new          by visits, kept on the device
score of a row of B, of a column of A: the sum of its F, ranked within its matrix ;  keep ceil(share count)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from client_app.local_update import gradient
from models.layout import Entry, Layout
from models.technique_names import matrix_of

Losses = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]


def squared_gradients(row: Tensor, losses: Losses, examples: Sequence[int], together: bool = True) -> Tensor:
    """The squared gradient of each example's loss at row [R], [n, R].

    As if each example were a client of its own, with equal parameters: one pass for all of them.

    Args:
        losses: (rows [n, R], examples of each row) to mean losses [n].
        together: whether rows can differ within a pass; else one example at a time.
    """
    groups = [list(examples)] if together else [[example] for example in examples]
    found = [gradient(row.expand(len(group), -1), [[one] for one in group], losses)[0] for group in groups]
    return torch.cat(found).square()


def information(row: Tensor, losses: Losses, batches: Sequence[Sequence[int]], together: bool = True) -> Tensor:
    """F_new at row [R] over all examples of the batches, [R]."""
    parts = [squared_gradients(row, losses, batch, together).sum(dim=0) for batch in batches]
    return torch.stack(parts).sum(dim=0) / sum(map(len, batches))


def with_momentum(old: Tensor | None, new: Tensor, gamma: float) -> Tensor:
    """F after this visit; the first one has nothing to go on from."""
    return new if old is None else gamma * old + (1 - gamma) * new


def updated(layout: Layout, fisher: Mapping[str, Tensor], share: float, frozen: Collection[str] = ()) -> Tensor:
    """Which of a row's parameters a client updates in a round: places, int64, ascending.

    Args:
        fisher: F of each matrix that is updated in part, by name; all others are updated whole.
        share: of the rows of B and columns of A.
        frozen: names that are not updated at all.
    """
    slices = layout.slices
    moving = [entry for entry in layout.entries if entry.name not in frozen]
    return torch.cat([slices[entry.name].start + _places(entry, fisher.get(entry.name), share) for entry in moving])


def _places(entry: Entry, fisher: Tensor | None, share: float) -> Tensor:
    """Within the matrix. Where there is no information at all, as on A while B = 0, all of it."""
    places = torch.arange(entry.size).reshape(entry.shape)
    if fisher is None or not fisher.any():
        return places.flatten()
    by_row = matrix_of(entry.name) == "B"
    scores = fisher.sum(dim=1 if by_row else 0)
    count = max(1, math.ceil(share * len(scores) - 1e-6))
    best = scores.sort(descending=True, stable=True).indices[:count].sort().values  # ties to the lower one
    return (places[best] if by_row else places[:, best]).flatten()

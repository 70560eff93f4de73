"""A device's optimiser on some of the parameters: the others do not move by a bit, neither by a step nor by weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from client_app.local_update import DeviceOptimizer


class Sparse:
    """Implements `client_app.local_update.DeviceOptimizer`; its moments are as long as what is updated.

    Clipping is by the norm of that part too. Clients of a stack may update different parameters, and different numbers of them:
    who has fewer gets places behind its row in their stead, whose gradient is 0.

    Args:
        inner: the optimiser of the part.
        places: of each client, ascending; those that travel all among them, so that they still come first.
        size: R.
    """

    def __init__(self, inner: DeviceOptimizer, places: Sequence[Tensor], size: int) -> None:
        self._inner = inner
        self._index = pad_sequence(list(places), batch_first=True, padding_value=size)  # [C, K]

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """See DeviceOptimizer."""
        assert len(x) <= len(self._index), "places of fewer clients than take a step"
        index = self._index[: len(x)]
        behind = x.new_zeros(len(x), 1)
        part = torch.cat([x, behind], dim=1).gather(1, index)
        self._inner.step(part, torch.cat([grad, behind], dim=1).gather(1, index), d)
        x.copy_(torch.cat([x, behind], dim=1).scatter(1, index, part)[:, :-1])


def places_of(clients: Sequence[Tensor | None], size: int, device: torch.device) -> list[Tensor]:
    """The places of each client of a stack, in its order; none at all where every client moves all.

    Args:
        clients: what each moves; None: all.
        size: R.
    """
    if all(places is None for places in clients):
        return []
    return [(torch.arange(size) if places is None else places).to(device) for places in clients]

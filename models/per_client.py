"""Values that differ by client within one batch: `owner` [B] says whose each row is, None where there is one client."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def rows_of(values: Tensor, owner: Tensor | None, batch: int) -> Tensor:
    """Values [C, *shape] by row of the batch, [B, *shape]."""
    return values.expand(batch, *values.shape[1:]) if owner is None else values.index_select(0, owner)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None, owner: Tensor | None) -> Tensor:
    """[B, ..., in] to [B, ..., out] by the rows' own weight [C, out, in] and bias [C, out]."""
    if owner is None:
        return functional.linear(features, weight[0], None if bias is None else bias[0])
    rows = features.flatten(1, -2) if features.ndim > 2 else features.unsqueeze(1)
    found = rows @ weight.index_select(0, owner).transpose(1, 2)
    if bias is not None:
        found = found + bias.index_select(0, owner).unsqueeze(1)
    return found.reshape(*features.shape[:-1], weight.shape[1])

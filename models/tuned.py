"""The protocol of what is tuned: all that training, evaluation and the server need to know of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from models.layout import Layout


class Tuned(Protocol):
    """A frozen model with a row of tunable parameters."""

    @property
    def layout(self) -> Layout:
        """Names, layers and shapes of what is tuned."""
        ...

    def initial(self, seed: int, std: float = 0.02) -> Tensor:
        """Initial row [R], float32, a function of the arguments alone."""
        ...

    def bind(self, rows: Tensor, layout: Layout | None = None, owner: Tensor | None = None) -> None:
        """Use rows [C, R] (in the order of `layout`) from now on; `owner` [B] says whose each text of a batch is."""
        ...

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Class scores [B, classes] in float32, with gradients into the bound rows."""
        ...

    def loss(self, inputs: dict[str, Tensor], wanted: Tensor, reduction: str = "mean") -> Tensor:
        """Loss in nats of the classes `wanted` [B], "mean", "sum" or "none", with gradients into the bound rows."""
        ...

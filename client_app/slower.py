"""A device's optimiser that takes shorter steps on what stays on the device."""

from __future__ import annotations

from torch import Tensor

from client_app.local_update import DeviceOptimizer


class Slower:
    """Implements `client_app.local_update.DeviceOptimizer`: what another one does, but for a factor on the last parameters.

    What stays on a device is trained by that device's few examples alone, and the shared model is without it: the further it
    goes, the less the shared parameters fit without it.

    Args:
        inner: whose steps these are.
        shared: how many parameters travel; they come first, and take whole steps.
        factor: of the others' steps, weight decay included.
    """

    def __init__(self, inner: DeviceOptimizer, shared: int, factor: float) -> None:
        self._inner, self._shared, self._factor = inner, shared, factor

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """See DeviceOptimizer."""
        before = x[:, self._shared :].clone()
        self._inner.step(x, grad, d)
        own = x[:, self._shared :]
        own.sub_(before).mul_(self._factor).add_(before)

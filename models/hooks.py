"""Forward hooks for the length of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Hook = Callable[[nn.Module, Any, Any], Any]
"""(module, what it is given, its output) to another output, or None."""


@contextmanager
def hooked(places: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Each hook on its module while this is open."""
    handles = [module.register_forward_hook(hook) for module, hook in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def on_states(change: Callable[[Tensor], Tensor]) -> Hook:
    """A hook on a layer that changes the states [B, T, d] it returns, alone or first in a tuple."""

    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    return hook

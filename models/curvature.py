"""Second derivatives of a loss in the prompts, as products with vectors (section 2.2 of docs/ALGORITHMS.md).

    g = grad f(x), with its graph ;  H v = grad (g' v)                 one backward pass through the graph of the gradient

The graph is made once and kept: a product costs two to three forward passes, and the activations of one batch and of its backward
pass stay in memory. Fused attention kernels have a first derivative only: `second_order` switches to the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedpeptao.errors import InputError
from models.layout import Layout
from models.tuned_model import TunedModel

Loss = Callable[[Tensor], Tensor]  # x [R] -> a scalar
_STEPS, _TOLERANCE, _ROUNDING = (1e-2, 1e-3, 1e-4), 0.05, 5e-7  # of the check


@contextmanager
def second_order() -> Iterator[None]:
    """Attention by the math kernel, which can be differentiated twice; dropout stays as it is."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class Hessian:
    """The Hessian H [R, R] of a loss at a point, never written out; make it and use it inside `second_order`.

    Attributes:
        gradient: g [R] at the point.
    """

    def __init__(self, loss: Loss, x: Tensor) -> None:
        self._x = x.detach().clone().requires_grad_()
        (self._gradient,) = torch.autograd.grad(loss(self._x), self._x, create_graph=True)
        self.gradient = self._gradient.detach()

    def times(self, v: Tensor) -> Tensor:
        """H v, [R]."""
        if not self._gradient.requires_grad:  # the loss is linear in x
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(
            self._gradient, self._x, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return product


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """grad f(x), [R]."""
    leaf = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def prompts(layout: Layout) -> list[str]:
    """Names of the parameters that belong to a layer."""
    return [entry.name for entry in layout.entries if entry.layer is not None]


def prompt_loss(losses: Callable[[Tensor], Tensor], layout: Layout, row: Tensor) -> tuple[Loss, Tensor]:
    """A model's loss as a function of its prompts alone, and where they are now.

    Args:
        losses: rows [1, R] in the order of `layout`, prompts first, to mean losses [1].
        layout: of a row; its prompts have to come before the head.
        row: prompts and head, [R].

    Returns:
        (x [R_prompts] -> the loss, with the head as in `row`; the prompts of `row`).
    """
    size = layout.select(prompts(layout)).size
    if layout.names[: len(prompts(layout))] != tuple(prompts(layout)):
        raise ValueError(f"prompts do not come first in {layout.names}")
    head = row[size:]
    return lambda x: losses(torch.cat([x, head])[None]).sum(), row[:size]


def check_second_derivative(model: TunedModel, key: str, value: str) -> None:
    """One product on two short texts against a difference of gradients; model: with all its prompts, its backbone in float32.

    The comparison is needed: a kernel that is marked as differentiable once drops out of a product without a word.

    Raises:
        InputError: of setting `key`, if the model cannot be differentiated twice.
    """
    device = model.backbone.device
    ids = torch.tensor([[5, 6, 7], [8, 9, 5]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "answer_at": torch.ones_like(ids[:, 0])}
    row = model.initial(0).to(device)

    def losses(rows: Tensor) -> Tensor:
        model.bind(rows)
        return model.loss(inputs, torch.tensor([0, 1], device=device))[None]

    try:
        loss, x = prompt_loss(losses, model.layout, row)
        gradient(loss, x)  # a model that fails here fails for another reason
        with second_order():
            reason = _fault(loss, x)
    finally:
        model.unbind()
    if reason:
        problem = f"the attention of {model.backbone.name} has no second derivative ({reason})"
        raise InputError(key, value, problem, f"Give {key} a number, such as 0.5")


def _fault(loss: Loss, x: Tensor) -> str:
    """What is wrong with a product at x; "" if nothing is, which is so if it agrees with a difference at any step."""
    v = torch.ones_like(x)
    try:
        here = Hessian(loss, x)
        product = here.times(v)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    if not bool(torch.isfinite(product).all()):
        return "a product is not finite"
    size, away = float(product.norm()), 0.0
    for step in _STEPS:  # a long one for flat losses, a short one where the third derivative is large
        difference = (gradient(loss, x + step * v) - gradient(loss, x - step * v)) / (2 * step)
        away = float((product - difference).norm())
        if away <= _TOLERANCE * float(difference.norm()) + _ROUNDING * float(here.gradient.norm()) / step:
            return ""
    return f"a product of length {size:.1e} is {away:.1e} away from a difference of gradients"

"""A device's training in one round (section 2.4 of docs/ALGORITHMS.md).

    x_i <- x ; m, v <- 0                                          the restart is part of the method
    d   = c - c_i on the shared part, 0 elsewhere                 (0 without device correction)
    SGD:          v <- beta v + clip( grad + d ) ;  x_i <- x_i - eta v          (beta = 0: plain steps)
    Adam:         g = clip( grad ) ;  x_i <- x_i - eta ( mhat/(sqrt(vhat) + eps) + wd x_i ) ;  x_i <- x_i - eta d
    Adam, shared: g = clip( grad + sqrt(vbar) d ) ;  x_i <- x_i - eta ( mhat/(sqrt(vbar) + eps) + wd x_i )
    proximal:     grad <- grad + mu ( x_i - x ) on the shared part             (FedProx, arXiv 1812.06127)

It works on a stack [C, R] of parameter vectors: C clients, each with its own gradient, clipping and moments; of the R
parameters those that travel come first. Clients with fewer steps come last and leave the stack from below. The model
appears only as a function from such a stack to one loss per client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8

Batch = TypeVar("Batch")
Losses = Callable[[Tensor, Batch], Tensor]  # (rows [C, R], batch) -> mean loss per client [C]


class DeviceOptimizer(Protocol):
    """One step on a stack, in place; a fresh one each round, so that moments restart."""

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """x, grad: [a, R], the first a clients of the stack; d: c - c_i, [a, shared], or None without device correction.

        a never grows from step to step.
        """


@dataclass
class SGD:
    """Steps of size eta along the clipped, corrected gradients; beta: momentum, as a running sum that starts anew each round."""

    eta: float
    clip_norm: float
    beta: float = 0.0
    velocity: Tensor | None = None

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """v <- beta v + clip(grad + d), x <- x - eta v."""
        v = clip(_plus(grad, d), self.clip_norm)
        if self.beta:
            v = v if self.velocity is None else self.beta * self.velocity[: len(v)] + v
            self.velocity = v
        x.sub_(v, alpha=self.eta)


@dataclass(frozen=True)
class Moments:
    """Adam's, over a stack [C, R]; t: the steps behind each client's. A round begins with none if moments restart."""

    t: tuple[int, ...]
    m: Tensor
    v: Tensor


class Adam:
    """Adam with decoupled weight decay (AdamW), and the correction after the step."""

    def __init__(self, eta: float, weight_decay: float, clip_norm: float, moments: Moments | None = None) -> None:
        self.eta, self.weight_decay, self.clip_norm = eta, weight_decay, clip_norm
        self.moments = moments  # none before the first step

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """x <- x - eta (mhat/(sqrt(vhat) + eps) + wd x), then x <- x - eta d on the shared part."""
        m_hat, v_hat = self._moments(clip(grad, self.clip_norm))
        x.sub_(m_hat / (v_hat.sqrt() + EPS) + self.weight_decay * x, alpha=self.eta)
        if d is not None:
            x[:, : d.shape[1]].sub_(d, alpha=self.eta)

    def _moments(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """mhat and vhat [a, R]; those of clients that are done stay as they are."""
        old = self.moments or Moments((0,) * len(g), torch.zeros_like(g), torch.zeros_like(g))
        a = len(g)
        t = tuple(steps + 1 for steps in old.t[:a])
        m = BETA_1 * old.m[:a] + (1 - BETA_1) * g
        v = BETA_2 * old.v[:a] + (1 - BETA_2) * g * g
        self.moments = Moments(t + old.t[a:], _with_rest(m, old.m), _with_rest(v, old.v))
        return m / _start(BETA_1, t, g), v / _start(BETA_2, t, g)


def _with_rest(rows: Tensor, old: Tensor) -> Tensor:
    return rows if len(rows) == len(old) else torch.cat([rows, old[len(rows) :]])


def _start(beta: float, t: Sequence[int], like: Tensor) -> Tensor:
    """1 - beta^t of each client, [a, 1]."""
    return torch.tensor([[1 - beta**steps] for steps in t], dtype=like.dtype, device=like.device)


class SharedAdam(Adam):
    """Adam whose second moment on the shared part is the server's, held fixed in the round.

    Then the correction can go inside the clip, and the fixed point is the optimum of the whole federation's objective. Where
    vbar is 0, because no device has seen a gradient there yet, each takes its own.

    Args:
        vbar: [shared], each block's number repeated over the block.
    """

    def __init__(
        self, eta: float, weight_decay: float, clip_norm: float, vbar: Tensor, moments: Moments | None = None
    ) -> None:
        super().__init__(eta, weight_decay, clip_norm, moments)
        self.root = vbar.sqrt()

    def step(self, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        """x <- x - eta (mhat/(sqrt(vbar) + eps) + wd x), with sqrt(vbar) d inside the clip.

        On the local part, and where vbar is 0, with vhat for vbar, and without d.
        """
        scaled = None if d is None else self.root * d
        m_hat, v_hat = self._moments(clip(_plus(grad, scaled), self.clip_norm))
        root = v_hat.sqrt()
        shared = root[:, : self.root.shape[0]]
        shared.copy_(torch.where(self.root > 0, self.root, shared))
        x.sub_(m_hat / (root + EPS) + self.weight_decay * x, alpha=self.eta)


@dataclass(frozen=True)
class Pull:
    """The proximal term: mu/2 times the squared distance of the first `shared` parameters to a centre.

    Attributes:
        mu: its weight.
        shared: how many parameters it is on.
        centre: [C, R]; None: where they started.
    """

    mu: float
    shared: int
    centre: Tensor | None = None


@dataclass(frozen=True)
class LocalResult:
    """What one round of training made of a stack.

    Attributes:
        rows: x_i, [C, R].
        steps: K_i of each client, [C].
        losses: mean training loss per client over its steps, [C].
        second_moments: s_i, mean over the block and the steps of grad^2, [C, blocks].
    """

    rows: Tensor
    steps: tuple[int, ...]
    losses: Tensor
    second_moments: Tensor


def local_update(
    rows: Tensor,
    batches: Iterable[Batch],
    losses: Losses[Batch],
    optimizer: DeviceOptimizer,
    d: Tensor | None = None,
    blocks: Sequence[slice] = (),
    pull: Pull | None = None,
    active: Callable[[Batch], int] | None = None,
) -> LocalResult:
    """Trains a stack of clients on as many batches as there are.

    Args:
        rows: where each client starts, [C, R]; left as it is.
        batches: one a step, each holding the examples of the first a clients; a never grows.
        losses: mean loss [a] for the first a rows of a stack and a batch.
        optimizer: fresh for this round.
        d: c - c_i, [C, shared].
        blocks: the blocks of shared parameters whose squared gradients are averaged.
        pull: FedProx's, back to the start, or Ditto's, to the shared model.
        active: a of a batch; all clients by default.

    Raises:
        FloatingPointError: a loss, or parameters at the end, that are not finite.
    """
    x = rows.detach().clone()
    steps, loss_sum = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.float64)
    squares = torch.zeros(len(x), len(blocks), dtype=torch.float64)
    centre = rows if pull is None or pull.centre is None else pull.centre
    for batch in batches:
        a = len(x) if active is None else active(batch)
        grad, loss = gradient(x[:a], batch, losses)
        if not torch.isfinite(loss).all():
            step = int(steps[0]) + 1
            raise FloatingPointError(f"the training loss is {loss.tolist()} at step {step}: try a lower learning-rate")
        for b, block in enumerate(blocks):
            squares[:a, b] += grad[:, block].to(torch.float64).square().mean(dim=1).cpu()
        if pull is not None:
            grad = _plus(grad, pull.mu * (x[:a] - centre[:a])[:, : pull.shared])
        optimizer.step(x[:a], grad, None if d is None else d[:a])
        steps[:a] += 1
        loss_sum[:a] += loss.to(torch.float64).cpu()
    if not torch.isfinite(x).all():  # a finite loss may have a gradient that is not
        raise FloatingPointError(f"parameters are not finite after step {int(steps[0])}: try a lower learning-rate")
    divisor = steps.clamp_min(1)
    return LocalResult(x, tuple(steps.tolist()), loss_sum / divisor, squares / divisor[:, None])


def gradient(x: Tensor, batch: Batch, losses: Losses[Batch]) -> tuple[Tensor, Tensor]:
    """Gradient [C, R] and loss [C] at x; clients do not mix, so the sum of losses gives each its own gradient."""
    leaf = x.detach().requires_grad_()
    loss = losses(leaf, batch)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return grad, loss.detach()


def clip(g: Tensor, norm: float) -> Tensor:
    """Each row of g [C, R] scaled down to at most this 2-norm."""
    return g * (norm / g.norm(dim=1, keepdim=True).clamp_min(norm))


def _plus(grad: Tensor, d: Tensor | None) -> Tensor:
    if d is None:
        return grad
    grad = grad.clone()
    grad[:, : d.shape[1]] += d
    return grad

"""A client's share of large eigenvalues, at the prompts that it is sent (section 2.2 of docs/ALGORITHMS.md).

Prompts of all layers vary, the head is held fixed; one fixed batch, dropout off, float32. `eigengap` also follows eight steps of
the device's optimiser from there, to see how far the gradient is from linear.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from client_app.host import device_optimizer
from client_app.local_update import DeviceOptimizer
from client_app.start import shard_of
from data.batches import Encoded
from federation import resources
from federation.evaluation import losses_on
from federation.messages import Ask, CurvatureReply
from federation.randomness import generator
from federation.settings import Settings
from models.curvature import Hessian, Loss, gradient, prompt_loss, second_order
from strategies.ratio import Estimate, eigengap, lipschitz, plateau
from strategies.spectrum import Spectrum, spectrum, stochastic_lanczos

LIPSCHITZ_STEPS, GROUP = 8, 4


def spectrum_of(settings: Settings, ask: Ask, client: int) -> CurvatureReply:
    """The spectrum and r_i.

    Raises:
        ValueError: a product, or a gradient, was not finite.
    """
    started = time.monotonic()
    model = resources.tuned(settings, ask.layers, ask.labels)
    train, _ = shard_of(settings, client)
    groups = _groups(settings, client, train)
    losses = losses_on(model, train, ask.labels)
    try:
        with second_order():
            row = ask.shared.to(model.backbone.device)
            loss, x = prompt_loss(lambda rows: mean_loss(losses, rows, groups), model.layout, row)
            hessian = Hessian(loss, x)
            found = _spectrum(settings, hessian, client, x)
            optimizer = device_optimizer(settings, ask, (), x.device)
            lip = along_steps(optimizer, hessian, loss, x) if settings.selection.estimator == "eigengap" else 0.0
    finally:
        model.unbind()
    estimate = _estimate(settings, found, lip)
    return CurvatureReply(
        client=client,
        round=ask.round,
        batch=sum(map(len, groups)),
        parameters=len(x),
        ratio=estimate.ratio,
        found=estimate.found,
        gaps_low=[a for a, _ in estimate.gaps],
        gaps_high=[b for _, b in estimate.gaps],
        lipschitz=lip,
        theta=found.theta.tolist(),
        weight=found.weight.tolist(),
        residual=found.residual.tolist(),
        products=found.products + (LIPSCHITZ_STEPS if settings.selection.estimator == "eigengap" else 0),
        seconds=time.monotonic() - started,
        peak_bytes=_peak_bytes(),
    )


def mean_loss(
    losses: Callable[[Tensor, Sequence[int]], Tensor], rows: Tensor, groups: Sequence[Sequence[int]]
) -> Tensor:
    """The mean loss [1] over all examples of the groups, each padded to its own longest text alone, which takes less time."""
    size = sum(map(len, groups))
    return torch.stack([len(group) / size * losses(rows, group) for group in groups]).sum(0)


def _groups(settings: Settings, client: int, train: Encoded) -> list[list[int]]:
    """The one batch, in groups of similar length."""
    rng = generator(settings.federation.seed, "curvature", client)
    chosen: list[int] = rng.permutation(len(train))[: settings.selection.curvature_examples].tolist()
    chosen.sort(key=lambda place: len(train.input_ids[place]))
    return [chosen[start : start + GROUP] for start in range(0, len(chosen), GROUP)]


def _spectrum(settings: Settings, hessian: Hessian, client: int, x: Tensor) -> Spectrum:
    steps, rng = settings.selection.curvature_steps, generator(settings.federation.seed, "probe", client)
    if settings.selection.estimator == "plateau":  # one probe, and never the whole matrix
        return stochastic_lanczos(hessian.times, len(x), steps, 1, rng, x.dtype, x.device)
    return spectrum(hessian.times, len(x), steps, settings.selection.curvature_probes, rng, x.dtype, x.device)


def along_steps(optimizer: DeviceOptimizer, hessian: Hessian, loss: Loss, x: Tensor) -> float:
    """Lip along delta_0 = 0 .. delta_8, the way a fresh optimiser goes from x [R] on this batch."""
    at = x[None].clone()
    displacements, gradients = [torch.zeros_like(x)], [hessian.gradient]
    for _ in range(LIPSCHITZ_STEPS):
        optimizer.step(at, gradients[-1][None], None)
        displacements.append(at[0] - x)
        gradients.append(gradient(loss, at[0]))
    products = [torch.zeros_like(x), *(hessian.times(delta) for delta in displacements[1:])]
    return lipschitz(torch.stack(displacements), torch.stack(gradients), torch.stack(products))


def _estimate(settings: Settings, found: Spectrum, lip: float) -> Estimate:
    if settings.selection.estimator == "plateau":
        return Estimate(plateau(found.theta, found.weight), (), found=True)
    return eigengap(found, lip)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

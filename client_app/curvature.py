"""A client's share of large eigenvalues (section 2.2 of docs/ALGORITHMS.md).

At what it is sent it says how many layers travel; at what it trains, how much of the others moves (section 3). All that is tuned
on layers varies, the head is held fixed; one fixed batch, dropout off, float32. `eigengap` also follows eight steps of the
device's optimiser from there, to see how far the gradient is from linear.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client_app.local_update import DeviceOptimizer
from client_app.optimizers import device_optimizer
from client_app.start import shard_of, start
from client_app.state import StateStore
from data.batches import Encoded
from federation.evaluation import losses_on
from federation.messages import Ask, CurvatureReply
from federation.randomness import generator
from federation.settings import Settings
from models.curvature import Hessian, Loss, gradient, prompt_loss, second_order
from models.tuned_model import TunedModel
from strategies.ratio import Estimate, eigengap, lipschitz, plateau
from strategies.spectrum import Spectrum, spectrum, stochastic_lanczos

Losses = Callable[[Tensor, Sequence[int]], Tensor]
LIPSCHITZ_STEPS, GROUP = 8, 4


@dataclass(frozen=True)
class Curvature:
    """A client's loss around a point.

    Attributes:
        batch: examples that were looked at.
        spectrum: of the Hessian.
        lipschitz: Lip; 0 where the estimator needs none.
        estimate: r_i.
    """

    batch: int
    spectrum: Spectrum
    lipschitz: float
    estimate: Estimate


def spectrum_of(settings: Settings, ask: Ask, client: int, accepted: int, store: StateStore) -> CurvatureReply:
    """The spectrum and r_i at what the message holds, with the client's own head where it has one.

    Raises:
        StateError: what the client keeps cannot be read for now.
        ValueError: a product, or a gradient, was not finite.
    """
    started = time.monotonic()
    begun = start(settings, ask, client, accepted, store, commit=False)
    model = begun.model
    train, _ = shard_of(settings, client)
    optimizer = device_optimizer(settings, ask, (), model.backbone.device)
    estimator = settings.selection.ratio
    around = curvature(
        settings, estimator, client, model, train, losses_on(model, train, ask.labels), begun.of_model(), optimizer
    )
    found, estimate, lip = around.spectrum, around.estimate, around.lipschitz
    return CurvatureReply(
        client=client,
        round=ask.round,
        batch=around.batch,
        parameters=found.size,
        ratio=estimate.ratio,
        found=estimate.found,
        gaps_low=[a for a, _ in estimate.gaps],
        gaps_high=[b for _, b in estimate.gaps],
        lipschitz=lip,
        theta=found.theta.tolist(),
        weight=found.weight.tolist(),
        residual=found.residual.tolist(),
        products=found.products + (LIPSCHITZ_STEPS if estimator == "eigengap" else 0),
        seconds=time.monotonic() - started,
        peak_bytes=_peak_bytes(),
    )


def curvature(
    settings: Settings,
    estimator: str | float,
    client: int,
    model: TunedModel,
    train: Encoded,
    losses: Losses,
    row: Tensor,
    optimizer: DeviceOptimizer,
) -> Curvature:
    """Of a client's loss at row [R], in the order of `model.layout`; the model is bound to nothing afterwards.

    Args:
        estimator: "eigengap" or "plateau".
        losses: rows [1, R] and examples to their mean loss [1].
        optimizer: fresh, of all that is tuned on the layers.

    Raises:
        ValueError: a product, or a gradient, was not finite.
    """
    groups, plain = _groups(settings, client, train), estimator == "plateau"
    try:
        with second_order():
            loss, x = prompt_loss(
                lambda rows: mean_loss(losses, rows, groups), model.layout, row.to(model.backbone.device)
            )
            hessian = Hessian(loss, x)
            found = _spectrum(settings, plain, hessian, client, x)
            lip = 0.0 if plain else along_steps(optimizer, hessian, loss, x)
    finally:
        model.unbind()
    estimate = Estimate(plateau(found.theta, found.weight), (), found=True) if plain else eigengap(found, lip)
    return Curvature(sum(map(len, groups)), found, lip, estimate)


def mean_loss(losses: Losses, rows: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """The mean loss [1] over all examples of the groups, each padded to its own longest text alone, which takes less time."""
    size = sum(map(len, groups))
    return torch.stack([len(group) / size * losses(rows, group) for group in groups]).sum(0)


def _groups(settings: Settings, client: int, train: Encoded) -> list[list[int]]:
    """The one batch, in groups of similar length."""
    rng = generator(settings.federation.seed, "curvature", client)
    chosen: list[int] = rng.permutation(len(train))[: settings.selection.curvature_examples].tolist()
    chosen.sort(key=lambda place: len(train.input_ids[place]))
    return [chosen[start : start + GROUP] for start in range(0, len(chosen), GROUP)]


def _spectrum(settings: Settings, plain: bool, hessian: Hessian, client: int, x: Tensor) -> Spectrum:
    steps, rng = settings.selection.curvature_steps, generator(settings.federation.seed, "probe", client)
    if plain:  # one probe, and never the whole matrix
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


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

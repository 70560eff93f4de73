"""A device's optimiser on a part of the parameters: what is outside does not move by a bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from client_app.local_update import SGD, Adam, DeviceOptimizer, SharedAdam
from client_app.sparse import Sparse

R = 7
PLACES = [torch.tensor([0, 1, 4]), torch.tensor([0, 1, 2, 5, 6])]
MAKERS: dict[str, Callable[[], DeviceOptimizer]] = {
    "sgd": lambda: SGD(0.1, 0.5),
    "adam": lambda: Adam(0.1, 0.3, 0.5),
    "shared": lambda: SharedAdam(0.1, 0.3, 0.5, torch.tensor([0.04, 0.09])),
}


def run(optimizer: DeviceOptimizer, x: Tensor, grads: list[Tensor], d: Tensor | None = None) -> Tensor:
    x = x.clone()
    for grad in grads:
        optimizer.step(x[: len(grad)], grad, None if d is None else d[: len(grad)])
    return x


def problem(clients: int) -> tuple[Tensor, list[Tensor], Tensor]:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(clients, R, generator=rng)
    return x, [torch.randn(clients, R, generator=rng) for _ in range(4)], torch.randn(clients, 2, generator=rng)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_masked_is_bit_equal_after_steps_with_weight_decay(name: str) -> None:
    x, grads, d = problem(2)
    end = run(Sparse(MAKERS[name](), PLACES, R), x, grads, d)
    for row, places, was in zip(end, PLACES, x, strict=True):
        still = [place for place in range(R) if place not in places.tolist()]
        assert torch.equal(row[still], was[still])
        assert (row[places] != was[places]).all()


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_optimiser_of_that_part_alone(name: str) -> None:
    """Clipping by the part's norm included, client by client, whatever the others update."""
    x, grads, d = problem(2)
    end = run(Sparse(MAKERS[name](), PLACES, R), x, grads, d)
    for client, places in enumerate(PLACES):
        part = run(MAKERS[name](), x[client, places][None], [g[client, places][None] for g in grads], d[client][None])
        torch.testing.assert_close(end[client, places], part[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_with_all_places_it_changes_no_bit(name: str) -> None:
    x, grads, d = problem(2)
    whole = Sparse(MAKERS[name](), [torch.arange(R)] * 2, R)
    assert torch.equal(run(whole, x, grads, d), run(MAKERS[name](), x, grads, d))


def test_who_is_done_leaves_the_stack() -> None:
    x, grads, _ = problem(2)
    grads[2:] = [grad[:1] for grad in grads[2:]]
    end = run(Sparse(MAKERS["adam"](), PLACES, R), x, grads)
    alone = run(Sparse(MAKERS["adam"](), PLACES[1:], R), x[1:], [grad[1:] for grad in grads[:2]])
    torch.testing.assert_close(end[1:], alone, rtol=0, atol=1e-6)


def test_moments_are_as_long_as_what_is_updated() -> None:
    x, grads, _ = problem(1)
    adam = Adam(0.1, 0.0, 1.0)
    run(Sparse(adam, PLACES[:1], R), x, grads)
    assert adam.moments is not None
    assert adam.moments.m.shape == adam.moments.v.shape == (1, 3)

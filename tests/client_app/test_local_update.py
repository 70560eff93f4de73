"""A device's training (section 2.4 of docs/ALGORITHMS.md) against PyTorch's optimisers and against plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from client_app.local_update import SGD, Adam, DeviceOptimizer, Pull, SharedAdam, clip, gradient, local_update

ETA, DECAY = 0.1, 0.3
D = torch.tensor([[0.5, -2.0]], dtype=torch.float64)  # c - c_i on the two parameters that travel
VBAR = torch.tensor([4.0, 0.25], dtype=torch.float64)
OPTIMIZERS: dict[str, Callable[[float], DeviceOptimizer]] = {
    "sgd": lambda norm: SGD(ETA, norm),
    "momentum": lambda norm: SGD(ETA, norm, 0.8),
    "adam": lambda norm: Adam(ETA, DECAY, norm),
    "shared": lambda norm: SharedAdam(ETA, DECAY, norm, VBAR),
}
EACH = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def given_gradient(rows: Tensor, batch: Tensor) -> Tensor:
    """A loss whose gradient is the batch itself."""
    return (rows * batch).sum(1)


def curved(rows: Tensor, batch: Tensor) -> Tensor:
    """Neither quadratic nor alike for two clients of a stack: batch [C, R] differs by client."""
    return (torch.cosh(rows - batch) + 0.1 * (rows * batch) ** 2).sum(1)


def batches(count: int, clients: int = 1, size: int = 4, seed: int = 0) -> list[Tensor]:
    """Gradients of very different length."""
    made = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 0.7, count, dtype=torch.float64)
    return [s * torch.randn(clients, size, generator=made, dtype=torch.float64) for s in scale]


def start(clients: int = 1, size: int = 4) -> Tensor:
    return torch.linspace(-1, 2, clients * size, dtype=torch.float64).reshape(clients, size)


# -- against PyTorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip_norm", "tolerance"), [(1e9, 1e-12), (0.7, 1e-5)])  # PyTorch adds 1e-6 to the norm
@pytest.mark.parametrize("name", ["adam", "sgd", "momentum"])
def test_equals_pytorchs_optimizer_with_pytorchs_clipping(name: str, clip_norm: float, tolerance: float) -> None:
    x = torch.nn.Parameter(start())
    theirs: torch.optim.Optimizer
    if name == "adam":
        theirs = torch.optim.AdamW([x], lr=ETA, weight_decay=DECAY)
    else:
        theirs = torch.optim.SGD([x], lr=ETA, momentum=0.8 if name == "momentum" else 0.0)
    norms = []
    for batch in batches(12):
        theirs.zero_grad()
        curved(x, batch).sum().backward()  # type: ignore[no-untyped-call]
        norms.append(float(torch.nn.utils.clip_grad_norm_([x], clip_norm)))
        theirs.step()
    ours = local_update(start(), batches(12), curved, OPTIMIZERS[name](clip_norm))
    torch.testing.assert_close(ours.rows, x.detach(), rtol=0, atol=tolerance)
    assert clip_norm > 1 or max(norms) > clip_norm


# -- by hand -----------------------------------------------------------------------------------------------


def by_hand(name: str, x: list[float], gradients: list[list[float]], d: list[float], norm: float) -> list[float]:
    """Section 2.4 in plain Python, for one client; d is 0 beyond the two shared parameters."""
    size = len(x)
    d = d + [0.0] * (size - len(d))
    m, v, running = [0.0] * size, [0.0] * size, [0.0] * size
    for t, grad in enumerate(gradients, start=1):
        scaled = [2.0 * d[0], 0.5 * d[1], 0.0, 0.0]  # sqrt(vbar) d
        inside = {"sgd": d, "momentum": d, "adam": [0.0] * size, "shared": scaled}
        g = [a + b for a, b in zip(grad, inside[name], strict=True)]
        length = math.sqrt(sum(a * a for a in g))
        g = [a * min(1.0, norm / length) for a in g]
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
        for i in range(size):
            if name in ("sgd", "momentum"):
                running[i] = g[i] + (0.8 * running[i] if name == "momentum" else 0.0)
                x[i] -= ETA * running[i]
                continue
            root = math.sqrt(v[i] / (1 - 0.999**t))
            if name == "shared" and i < 2:
                root = [2.0, 0.5][i]
            x[i] -= ETA * (m[i] / (1 - 0.9**t) / (root + 1e-8) + DECAY * x[i])
            if name == "adam":
                x[i] -= ETA * d[i]
    return x


@pytest.mark.parametrize("norm", [1e9, 0.8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_corrected_steps_by_hand(name: str, norm: float) -> None:
    given = batches(6)
    ours = local_update(start(), given, given_gradient, OPTIMIZERS[name](norm), D)
    wanted = by_hand(name, start()[0].tolist(), [g[0].tolist() for g in given], D[0].tolist(), norm)
    assert ours.rows[0].tolist() == pytest.approx(wanted, abs=1e-12)


def test_sgd_by_hand_numbers() -> None:
    """grad + d = (3, 4), norm 5, clipped to 1: a step of .1 (.6, .8)."""
    optimizer = SGD(eta=0.1, clip_norm=1)
    x, d = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    optimizer.step(x, torch.tensor([[2.0, 5.0]]), d)
    torch.testing.assert_close(x, torch.tensor([[0.94, 0.92]]))


def test_adams_first_step_is_a_sign_and_its_correction_comes_after_the_clip() -> None:
    optimizer = Adam(eta=0.1, weight_decay=0, clip_norm=1e-3)
    x = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    optimizer.step(x, torch.tensor([[2.0, -5.0, 1.0]], dtype=torch.float64), D)
    torch.testing.assert_close(
        x, torch.tensor([[1 - 0.1 - 0.05, 1 + 0.1 + 0.2, 0.9]], dtype=torch.float64), rtol=0, atol=1e-5
    )


@EACH
def test_without_clipping_the_correction_touches_only_the_shared_part(make: Callable[[float], DeviceOptimizer]) -> None:
    with_d = local_update(start(), batches(4), given_gradient, make(1e9), D).rows
    without = local_update(start(), batches(4), given_gradient, make(1e9)).rows
    assert torch.equal(with_d[:, 2:], without[:, 2:])
    assert (with_d[:, :2] != without[:, :2]).all()


@EACH
def test_no_correction_is_a_correction_of_zero(make: Callable[[float], DeviceOptimizer]) -> None:
    zero = local_update(start(), batches(4), curved, make(0.8), torch.zeros_like(D)).rows
    assert torch.equal(zero, local_update(start(), batches(4), curved, make(0.8)).rows)


def test_where_no_device_has_seen_a_gradient_yet_each_takes_its_own_second_moment() -> None:
    """A block whose gradients were all 0 has vbar = 0, as LoRA's A while B is 0; the other block, and no correction there."""
    vbar, given = torch.tensor([4.0, 0.0], dtype=torch.float64), batches(6)
    found = local_update(start(), given, given_gradient, SharedAdam(ETA, DECAY, 1e9, vbar), D).rows
    whole = local_update(start(), given, given_gradient, OPTIMIZERS["shared"](1e9), D).rows
    own = local_update(start(), given, given_gradient, Adam(ETA, DECAY, 1e9)).rows
    assert torch.equal(found[:, 0], whole[:, 0])
    assert torch.equal(found[:, 1:], own[:, 1:])


def test_the_proximal_term_by_hand() -> None:
    """Steps of .5 on (4, 4) from (0, 0): the second has mu (x - x_0) = 2 (-2) added, on the one parameter that travels."""
    given = [torch.tensor([[4.0, 4.0]])] * 2
    pulled = local_update(torch.zeros(1, 2), given, given_gradient, SGD(0.5, 1e9), pull=Pull(2.0, shared=1))
    assert pulled.rows.tolist() == [[-2.0 - 0.5 * (4 - 4), -4.0]]
    clipped = local_update(
        torch.zeros(1, 1), [torch.tensor([[4.0]])] * 2, given_gradient, SGD(0.5, 3.0), pull=Pull(2.0, 1)
    )
    assert clipped.rows.tolist() == [[-1.5 - 0.5 * (4 - 3)]]  # inside the clip: 4 to 3, then 4 - 2 (1.5) = 1


@EACH
def test_no_pull_is_a_pull_of_zero(make: Callable[[float], DeviceOptimizer]) -> None:
    without = local_update(start(), batches(4), curved, make(0.8), D)
    assert torch.equal(local_update(start(), batches(4), curved, make(0.8), D, pull=Pull(0.0, 2)).rows, without.rows)


@pytest.mark.parametrize("name", ["adam", "shared"])
def test_moments_that_go_on_are_one_long_round(name: str) -> None:
    given, optimizer = batches(6), OPTIMIZERS[name](0.8)
    assert isinstance(optimizer, Adam)
    half = local_update(start(), given[:3], curved, optimizer, D).rows
    further: dict[str, DeviceOptimizer] = {
        "adam": Adam(ETA, DECAY, 0.8, optimizer.moments),
        "shared": SharedAdam(ETA, DECAY, 0.8, VBAR, optimizer.moments),
    }
    assert optimizer.moments is not None
    assert optimizer.moments.t == (3,)
    whole = local_update(start(), given, curved, OPTIMIZERS[name](0.8), D).rows
    assert torch.equal(local_update(half, given[3:], curved, further[name], D).rows, whole)


# -- a stack of clients ------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("norm", [1e9, 0.8])
def test_a_stack_of_clients_equals_each_alone(make: Callable[[float], DeviceOptimizer], norm: float) -> None:
    """Gradient, clipping, moments, correction, losses and second moments of one client know nothing of the others."""
    given, rows = batches(5, clients=3), start(clients=3)
    for batch in given:
        batch[1] *= 100  # one client far above every clip
    d, blocks = torch.tensor([[0.5, -2.0], [3.0, 0.0], [-1.0, 1.0]], dtype=torch.float64), [slice(0, 1), slice(1, 2)]
    together = local_update(rows, given, given_gradient, make(norm), d, blocks)
    for c in range(3):
        one = slice(c, c + 1)
        alone = local_update(rows[one], [batch[one] for batch in given], given_gradient, make(norm), d[one], blocks)
        for a, b in (
            (together.rows, alone.rows),
            (together.losses, alone.losses),
            (together.second_moments, alone.second_moments),
        ):
            torch.testing.assert_close(a[one], b, rtol=1e-12, atol=1e-12)


def test_clip_scales_each_row_to_its_norm_and_never_up() -> None:
    g = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(clip(g, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_gradient_is_each_clients_own() -> None:
    rows, batch = start(2), batches(1, clients=2)[0]
    grad, loss = gradient(rows, batch, curved)
    torch.testing.assert_close(grad, torch.sinh(rows - batch) + 0.2 * rows * batch**2)
    torch.testing.assert_close(loss, curved(rows, batch))
    assert not loss.requires_grad
    assert not rows.requires_grad


# -- what comes back ---------------------------------------------------------------------------------------


@EACH
def test_second_moments_are_of_the_raw_gradient(make: Callable[[float], DeviceOptimizer]) -> None:
    """Two steps, blocks of one and two: neither the clip nor the correction is in s_i."""
    given = [torch.tensor([[1.0, 2.0, 4.0, 50.0]]).double(), torch.tensor([[3.0, 0.0, 2.0, 70.0]]).double()]
    result = local_update(start(), given, given_gradient, make(0.1), D, [slice(0, 1), slice(1, 3)])
    assert result.second_moments.tolist() == [[(1 + 9) / 2, ((4 + 16) / 2 + (0 + 4) / 2) / 2]]


def test_the_proximal_term_is_not_in_the_second_moments() -> None:
    given = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    result = local_update(torch.zeros(1, 2), given, given_gradient, SGD(0.5, 1e9), None, [slice(0, 2)], Pull(7.0, 2))
    assert result.second_moments.tolist() == [[(1 + 4 + 9 + 16) / 4]]


def test_counts_steps_and_averages_losses() -> None:
    given = [torch.tensor([[1.0]]), torch.tensor([[3.0]])]
    result = local_update(torch.tensor([[2.0]]), given, given_gradient, SGD(0.5, 1e9))
    assert (result.steps, result.losses.tolist(), result.rows.tolist()) == ((2,), [(2 + 3 * 1.5) / 2], [[0.0]])


def test_no_batches_no_steps() -> None:
    result = local_update(start(), [], curved, SGD(0.5, 1))
    assert result.steps == (0,)
    assert torch.equal(result.rows, start())


@EACH
def test_input_rows_gradient_and_correction_are_left_as_they_are(make: Callable[[float], DeviceOptimizer]) -> None:
    rows, d, given = start(), D.clone(), batches(3)
    result = local_update(rows, given, given_gradient, make(0.8), d)
    assert torch.equal(rows, start())
    assert torch.equal(d, D)
    assert all(torch.equal(a, b) for a, b in zip(given, batches(3), strict=True))
    assert not result.rows.requires_grad
    assert result.rows.data_ptr() != rows.data_ptr()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training(bad: float) -> None:
    """Of any client of the stack, and it says at which step."""
    given = [torch.ones(2, 4).double(), torch.ones(2, 4).double()]
    given[1][1, 0] = bad
    with pytest.raises(FloatingPointError, match=r"step 2.*learning-rate"):
        local_update(start(2), given, given_gradient, SGD(ETA, 1))


def test_parameters_that_end_not_finite_raise() -> None:
    """A finite loss whose gradient is not: nothing of it may be kept."""

    def losses(rows: Tensor, batch: int) -> Tensor:
        return rows.clamp_min(0).sqrt().sum(dim=1)  # at 0 its value is 0, its slope infinite

    with pytest.raises(FloatingPointError, match="not finite"):
        local_update(torch.zeros(1, 2), [0], losses, SGD(0.1, 1.0))

"""Lanczos (section 2.2 of docs/ALGORITHMS.md) against Krylov spaces built the long way, and against exact spectra."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies.spectrum import (
    DENSE_SIZE,
    Matvec,
    Spectrum,
    dense_spectrum,
    density,
    lanczos,
    spectrum,
    stochastic_lanczos,
)


def symmetric(size: int, seed: int = 0) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(size, size))
    return (A + A.T) / 2


def diagonal(lam: np.ndarray, dtype: torch.dtype = torch.float64) -> Matvec:
    return lambda v: torch.from_numpy(lam).to(dtype) * v


def times(H: np.ndarray, dtype: torch.dtype = torch.float64) -> Matvec:
    matrix = torch.from_numpy(H).to(dtype)
    return lambda v: matrix @ v


def signs(size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, size=size) * 2.0 - 1).to(dtype)


def ritz_vectors(H: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values and vectors [R, k] of the Krylov space span(start, H start, ..), by QR and no recurrence."""
    basis = start[:, None] / np.linalg.norm(start)
    for _ in range(steps - 1):
        basis, _ = np.linalg.qr(np.column_stack([basis, H @ basis[:, -1]]))
    theta, S = np.linalg.eigh(basis.T @ H @ basis)
    return theta, basis @ S


# -- one probe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 12])
def test_ritz_values_weights_and_residuals(steps: int) -> None:
    H, start = symmetric(60), signs(60, 1)
    theta, omega, rho = lanczos(times(H), start, steps)
    values, vectors = ritz_vectors(H, start.numpy(), steps)
    assert theta == pytest.approx(values, abs=1e-10)
    assert omega == pytest.approx((vectors.T @ start.numpy()) ** 2 / 60, abs=1e-10)
    assert rho == pytest.approx(np.linalg.norm(H @ vectors - vectors * values, axis=0), abs=1e-10)


def test_residuals_hold_eigenvalues() -> None:
    """What makes theta +- rho a cover: an eigenvalue of H lies within."""
    H = symmetric(80, seed=3)
    theta, _, rho = lanczos(times(H), signs(80, 4), 15)
    nearest = np.abs(np.linalg.eigvalsh(H)[:, None] - theta).min(axis=0)
    assert (nearest <= rho + 1e-12).all()
    assert rho.max() > 0.1


def test_weights_are_a_quadrature() -> None:
    """Exact for polynomials up to degree 2 k - 1: sum omega theta^p = q' H^p q."""
    H, q = symmetric(50, seed=5) / 10, signs(50, 6).numpy() / math.sqrt(50)
    theta, omega, _ = lanczos(times(H), torch.from_numpy(q), 4)
    for p in range(8):
        assert omega @ theta**p == pytest.approx(q @ np.linalg.matrix_power(H, p) @ q, abs=1e-12)
    assert omega @ theta**8 != pytest.approx(q @ np.linalg.matrix_power(H, 8) @ q, rel=1e-6)


def test_the_length_of_the_probe_does_not_matter() -> None:
    H, start = symmetric(30), signs(30, 2)
    once, thrice = lanczos(times(H), start, 5), lanczos(times(H), 3 * start, 5)
    assert np.allclose(once, thrice, atol=1e-12)


def test_all_steps_give_all_eigenvalues() -> None:
    H = symmetric(25, seed=7)
    theta, _, rho = lanczos(times(H), signs(25, 8), 40)
    assert theta == pytest.approx(np.linalg.eigvalsh(H), abs=1e-9)
    assert rho == pytest.approx(0, abs=1e-9)


def test_basis_stays_orthogonal_in_float32() -> None:
    """Two passes: beta of 1e-4 times the largest eigenvalue leaves one pass with errors a thousand times as large."""
    lam = np.concatenate([np.linspace(0, 2e-3, 1990), np.linspace(5, 10, 10)])
    seen: list[Tensor] = []

    def matvec(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return diagonal(lam, torch.float32)(v)

    theta, _, _ = lanczos(matvec, signs(2000, 0, torch.float32), 40)
    Q = torch.stack(seen)
    assert Q.dtype == torch.float32
    assert float((Q @ Q.T - torch.eye(40)).abs().max()) < 2e-6
    assert (theta > 1).sum() == 10  # without re-orthogonalisation each comes several times
    assert np.sort(theta)[-10:] == pytest.approx(lam[-10:], rel=1e-5)


# -- the end of a Krylov space -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_krylov_space_that_ends(dtype: torch.dtype) -> None:
    """Four different eigenvalues: four products per probe, and no residual."""
    lam = np.resize([-3.0, 1.0, 2.0, 10.0], 2000)
    found = stochastic_lanczos(diagonal(lam, dtype), 2000, 50, 3, np.random.default_rng(0), dtype)
    assert found.products == 12
    assert found.theta == pytest.approx(np.tile([-3, 1, 2, 10], 3), rel=1e-5)
    assert found.weight == pytest.approx(1 / 12, rel=1e-5)  # signs on a diagonal matrix: exact shares
    assert (found.residual == 0).all()


def test_the_zero_matrix() -> None:
    found = stochastic_lanczos(torch.zeros_like, 1500, 50, 2, np.random.default_rng(0))
    assert found.theta.tolist() == [0, 0]
    assert found.weight.tolist() == [0.5, 0.5]
    assert found.residual.tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_end_is_judged_by_the_scale_of_the_matrix(scale: float) -> None:
    lam = scale * np.resize([-3.0, 1.0, 2.0, 10.0], 2000)
    assert len(lanczos(diagonal(lam), signs(2000, 0), 50)[0]) == 4


def test_the_end_is_judged_by_the_precision_of_the_basis() -> None:
    """beta falls to 1e-9 of the largest eigenvalue: in float64 that is no rounding."""
    lam = np.append(np.linspace(-1e-8, 1e-8, 1999), 10)
    theta, _, rho = lanczos(diagonal(lam), signs(2000, 0), 12)
    assert len(theta) == 12
    assert (rho[:-1] > 0).all()
    assert rho.max() < 1e-8


def test_a_product_that_still_has_its_graph() -> None:
    scale = torch.arange(1.0, 41.0, requires_grad=True)
    assert len(lanczos(lambda v: scale * v, signs(40, 0, torch.float32), 5)[0]) == 5
    assert dense_spectrum(lambda v: scale * v, 40).theta == pytest.approx(np.arange(1.0, 41.0))


def test_a_product_may_be_its_argument() -> None:
    assert lanczos(lambda v: v, signs(40, 0), 9)[0] == pytest.approx([1])
    assert dense_spectrum(lambda v: v, 40).theta == pytest.approx(np.ones(40))


def test_a_small_bulk_is_no_end() -> None:
    """beta falls to 1e-3 of the largest eigenvalue once that is found: there is more to see."""
    lam = np.append(np.linspace(-0.02, 0.02, 1999), 10)
    theta, _, _ = lanczos(diagonal(lam, torch.float32), signs(2000, 1, torch.float32), 20)
    assert len(theta) == 20
    assert theta[0] == pytest.approx(-0.02, rel=0.02)


# -- several probes ------------------------------------------------------------------------------------


def test_probes_are_pooled() -> None:
    lam = np.linspace(-1, 5, 1200)
    found = stochastic_lanczos(diagonal(lam), 1200, 6, 3, np.random.default_rng(4), torch.float64)
    rng = np.random.default_rng(4)
    for probe in range(3):
        start = rng.integers(0, 2, size=1200, dtype=np.int8) * 2.0 - 1
        theta, omega, rho = lanczos(diagonal(lam), torch.from_numpy(start), 6)
        part = slice(6 * probe, 6 * probe + 6)
        assert (found.theta[part] == theta).all()
        assert (found.weight[part] == omega / 3).all()
        assert (found.residual[part] == rho).all()
    assert found.weight.sum() == pytest.approx(1)
    assert (found.size, found.products) == (1200, 18)
    assert {array.dtype for array in (found.theta, found.weight, found.residual)} == {np.dtype(np.float64)}


def test_probes_are_signs_of_unit_length() -> None:
    starts: list[Tensor] = []

    def matvec(v: Tensor) -> Tensor:
        starts.append(v.clone())
        return v

    stochastic_lanczos(matvec, 1600, 5, 20, np.random.default_rng(0))
    q = torch.stack(starts)
    assert q.shape == (20, 1600)
    assert q.dtype == torch.float32
    assert q.abs() == pytest.approx(torch.full_like(q, 1 / 40).numpy())
    assert (q > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert float((q @ q.T - torch.eye(20)).abs().max()) < 0.15  # 6 standard deviations


def test_same_seed_same_bits() -> None:
    matvec = times(symmetric(1100) / 30, torch.float32)

    def draw(seed: int) -> Spectrum:
        return spectrum(matvec, 1100, 12, 2, np.random.default_rng(seed))

    one, two, other = draw(0), draw(0), draw(1)
    for name in ("theta", "weight", "residual"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
    assert not np.allclose(one.theta, other.theta)


def test_one_basis_at_a_time() -> None:
    bases: list[weakref.ref[Tensor]] = []

    def matvec(v: Tensor) -> Tensor:
        assert v._base is not None
        if not bases or bases[-1]() is not v._base:
            assert all(basis() is None for basis in bases)
            bases.append(weakref.ref(v._base))
        return v * torch.arange(1200)

    stochastic_lanczos(matvec, 1200, 5, 3, np.random.default_rng(0))
    assert len(bases) == 3


def test_progress_is_told_after_each_product() -> None:
    told: list[tuple[int, int]] = []
    rng = np.random.default_rng(0)
    spectrum(diagonal(np.arange(1100.0)), 1100, 4, 2, rng, torch.float64, tell=lambda *now: told.append(now))
    assert told == [(done, 8) for done in range(1, 9)]
    told.clear()
    spectrum(diagonal(np.arange(7.0)), 7, 4, 2, rng, torch.float64, tell=lambda *now: told.append(now))
    assert told == [(done, 7) for done in range(1, 8)]


# -- the whole matrix ----------------------------------------------------------------------------------


def small_network(size: int) -> tuple[Matvec, Tensor, int]:
    """Hessian-vector products of a tanh network's cross-entropy in its `size` x 5 + 3 x `size` weights; the Hessian whole; R."""
    rng = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(20, 5, generator=rng, dtype=torch.float64), torch.arange(20) % 3
    x = torch.randn(8 * size, generator=rng, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ x[: 5 * size].view(5, size))
        return torch.nn.functional.cross_entropy(hidden @ x[5 * size :].view(size, 3), labels)

    def matvec(v: Tensor) -> Tensor:
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
        return torch.autograd.grad(gradient @ v, point)[0]

    return matvec, torch.autograd.functional.hessian(loss, x), len(x)


def test_small_network_against_autograd_and_eigvalsh() -> None:
    matvec, H, size = small_network(9)
    found = spectrum(matvec, size, 50, 4, np.random.default_rng(0), torch.float64)
    assert found.theta == pytest.approx(torch.linalg.eigvalsh(H).numpy(), abs=1e-13)
    assert found.weight.tolist() == [1 / 72] * 72
    assert found.residual.tolist() == [0] * 72
    assert (found.size, found.products) == (72, 72)


def test_lanczos_on_a_small_network() -> None:
    """Both ends of the spectrum are exact long before k = R; the trace is within the noise of its probes."""
    matvec, H, size = small_network(20)
    lam = torch.linalg.eigvalsh(H).numpy()
    found = stochastic_lanczos(matvec, size, 40, 8, np.random.default_rng(0), torch.float64)
    assert [found.theta.min(), found.theta.max()] == pytest.approx([lam[0], lam[-1]], abs=1e-8)
    noise = math.sqrt(2 * (lam @ lam) / size / (size * 8))
    assert found.weight @ found.theta == pytest.approx(lam.mean(), abs=3 * noise)


def test_the_matrix_is_made_symmetric() -> None:
    A = np.random.default_rng(0).normal(size=(12, 12))
    assert dense_spectrum(times(A), 12, torch.float64).theta == pytest.approx(np.linalg.eigvalsh((A + A.T) / 2))


def test_dense_up_to_a_thousand_parameters() -> None:
    assert DENSE_SIZE == 1000
    exact = spectrum(diagonal(np.arange(1000.0), torch.float32), 1000, 3, 2, np.random.default_rng(0))
    assert exact.theta == pytest.approx(np.arange(1000.0))
    assert spectrum(diagonal(np.arange(1001.0), torch.float32), 1001, 3, 2, np.random.default_rng(0)).products == 6


# -- beyond numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 1100])
def test_a_product_that_is_not_finite(size: int) -> None:
    with pytest.raises(ValueError, match="not finite"):
        spectrum(lambda v: v * math.nan, size, 5, 1, np.random.default_rng(0))


def test_density() -> None:
    found = Spectrum(np.array([0.0, 2.0, -1.0]), np.array([0.5, 0.2, 0.3]), np.zeros(3), 10, 3)
    points = np.linspace(-4, 5, 901)
    curve = density(found, points, 0.09)
    assert curve.sum() * 0.01 == pytest.approx(1)
    for x in (0, 350, 400, 600):
        by_hand = sum(
            w / math.sqrt(2 * math.pi * 0.09) * math.exp(-((points[x] - t) ** 2) / 0.18)
            for t, w in zip(found.theta, found.weight, strict=True)
        )
        assert curve[x] == pytest.approx(by_hand)

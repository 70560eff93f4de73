"""The spectrum of a matrix known by its products: stochastic Lanczos (section 2.2 of docs/ALGORITHMS.md, arXiv 1912.07145).

    q_1 = probe / ||probe||                               probe: R random signs
    w = H q_k ;  alpha_k = q_k' w ;  w <- w - Q Q' w, twice            Q = [q_1 .. q_k]: full re-orthogonalisation
    beta_k = ||w|| ;  q_(k+1) = w / beta_k
    T = tridiagonal(alpha, beta) = S diag(theta) S'       after k steps, float64
    omega_j = S_1j^2 ;  rho_j = beta_k |S_kj|             = ||H y_j - theta_j y_j|| with y_j = Q S_j, the Ritz vector

Pooled over v probes, omega / v. Where a Krylov space ends, beta is what rounding makes of 0: the probe stops there, with rho = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]  # v [R] -> H v [R], H symmetric
Tell = Callable[[int, int], None]  # products done, and how many there will be at most
Floats = NDArray[np.float64]

DENSE_SIZE = 1000  # up to so many parameters the whole matrix is computed
NEGLIGIBLE = 100  # units of rounding, times the largest |theta|: a smaller beta is rounding


@dataclass(frozen=True)
class Spectrum:
    """What is known of the eigenvalues of H [R, R]; all arrays [m], float64, pooled over probes.

    Attributes:
        theta: Ritz values, ascending within a probe; eigenvalues where the matrix was computed whole.
        weight: the share of R that each stands for; they sum to 1.
        residual: rho: an eigenvalue lies within theta +- residual.
        size: R.
        products: matrix-vector products that it took.
    """

    theta: Floats
    weight: Floats
    residual: Floats
    size: int
    products: int


def spectrum(
    matvec: Matvec,
    size: int,
    steps: int,
    probes: int,
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    tell: Tell | None = None,
) -> Spectrum:
    """Exact up to DENSE_SIZE parameters (R products, rng untouched), stochastic Lanczos beyond (at most v k products)."""
    if size <= DENSE_SIZE:
        return dense_spectrum(matvec, size, dtype, device, tell)
    return stochastic_lanczos(matvec, size, steps, probes, rng, dtype, device, tell)


def stochastic_lanczos(
    matvec: Matvec,
    size: int,
    steps: int,
    probes: int,
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    tell: Tell | None = None,
) -> Spectrum:
    """The Ritz values of v Rademacher probes, one after the other: one basis [k, R] in memory at a time.

    Args:
        matvec: v [R] -> H v [R], of `dtype` on `device`.
        size: R.
        steps: k, at least 1; at most R are taken.
        probes: v, at least 1.
        rng: draws the signs; the result follows from it bit for bit.
        tell: called after each product.

    Raises:
        ValueError: a product was not finite.
    """
    matvec = _telling(matvec, probes * min(steps, size), tell)
    found = []
    for _ in range(probes):
        signs = rng.integers(0, 2, size=size, dtype=np.int8) * 2 - 1
        found.append(lanczos(matvec, torch.from_numpy(signs).to(device, dtype), steps))
    theta, weight, residual = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Spectrum(theta, weight / probes, residual, size, products=len(theta))


def lanczos(matvec: Matvec, start: Tensor, steps: int) -> tuple[Floats, Floats, Floats]:
    """theta, omega, rho [m] of one probe, theta ascending; m <= k products.

    Args:
        start: the probe [R], of any length but 0; the basis has its dtype and device, the tridiagonal matrix is float64.

    Raises:
        ValueError: a product was not finite.
    """
    basis = start.new_empty(min(steps, len(start)), len(start))
    alpha: list[float] = []
    beta: list[float] = []
    w, length = start, _norm(start)
    for k in range(len(basis)):
        torch.div(w, length, out=basis[k])
        w = _checked(matvec(basis[k]))
        alpha.append(float(basis[k].to(torch.float64) @ w.to(torch.float64)))
        for _ in range(2):
            w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        length = _norm(w)
        theta, S = np.linalg.eigh(_tridiagonal(alpha, beta))
        if length <= NEGLIGIBLE * torch.finfo(start.dtype).eps * np.abs(theta).max():
            length = 0.0
            break
        beta.append(length)
    return theta, S[0] ** 2, length * np.abs(S[-1])


def dense_spectrum(
    matvec: Matvec,
    size: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    tell: Tell | None = None,
) -> Spectrum:
    """All R eigenvalues, weight 1/R each, by R products; H, [R, R] float64 in memory, is made symmetric.

    Raises:
        ValueError: a product was not finite.
    """
    matvec = _telling(matvec, size, tell)
    H = torch.empty(size, size, dtype=torch.float64)
    unit = torch.zeros(size, dtype=dtype, device=device)
    for i in range(size):
        unit[i] = 1
        H[i] = _checked(matvec(unit))
        unit[i] = 0
    theta = torch.linalg.eigvalsh((H + H.T) / 2).numpy()
    return Spectrum(theta, np.full(size, 1 / size), np.zeros(size), size, products=size)


def density(spectrum: Spectrum, points: Floats, variance: float) -> Floats:
    """The spectral density at `points` [n], each Ritz value widened to a Gaussian of this variance; it integrates to 1."""
    return broadened(spectrum.theta, spectrum.weight, points, variance)


def broadened(theta: Floats, weight: Floats, points: Floats, variance: float) -> Floats:
    """sum_j weight_j N(points; theta_j, variance), [n]; one row at a time, since n x m can be large."""
    total = np.zeros(len(points))
    for centre, share in zip(theta, weight, strict=True):
        total += share * np.exp(-((points - centre) ** 2) / (2 * variance))
    return total / np.sqrt(2 * np.pi * variance)


def _tridiagonal(alpha: list[float], beta: list[float]) -> Floats:
    return np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)


def _norm(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))


def _checked(product: Tensor) -> Tensor:
    if not bool(torch.isfinite(product).all()):
        raise ValueError(
            "a Hessian-vector product is not finite: the loss has diverged or has no second derivative here"
        )
    return product.detach()


def _telling(matvec: Matvec, total: int, tell: Tell | None) -> Matvec:
    if tell is None:
        return matvec
    done = count(1)

    def product(v: Tensor) -> Tensor:
        result = matvec(v)
        tell(next(done), total)
        return result

    return product

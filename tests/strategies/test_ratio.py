"""The estimators of section 2.2 of docs/ALGORITHMS.md: hand numbers, section 5's known answers, a plain transcription."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies.ratio import Estimate, eigengap, lipschitz, plateau, weighted_ratio
from strategies.spectrum import Matvec, Spectrum, dense_spectrum, lanczos, spectrum, stochastic_lanczos


def ritz(theta: Sequence[float], rho: Sequence[float] | None = None, weight: Sequence[float] | None = None) -> Spectrum:
    size = len(theta)
    weights = np.array(weight) if weight else np.full(size, 1 / size)
    return Spectrum(np.array(theta, dtype=float), weights, np.array(rho or [0.0] * size), size, size)


# -- eigengap: one line of the definition each -------------------------------------------------------------


def test_the_share_above_the_lowest_gap() -> None:
    found = eigengap(ritz([1, 2, 10], weight=[0.5, 0.3, 0.2]), 0.1)
    assert found == Estimate(pytest.approx(0.5), ((1, 2), (2, 10)), True)


def test_no_gap_is_said() -> None:
    assert eigengap(ritz([9.7, 10]), 0.0) == Estimate(1.0, (), found=False)


@pytest.mark.parametrize(
    ("lip", "gaps"), [(0.25, ((2, 10),)), (0.24, ((1, 2), (2, 10))), (1.99, ((2, 10),)), (2.0, ()), (9.0, ())]
)
def test_a_gap_is_wider_than_four_lipschitz(lip: float, gaps: tuple[tuple[float, float], ...]) -> None:
    assert eigengap(ritz([1, 2, 10]), lip).gaps == gaps


@pytest.mark.parametrize(("lower", "found"), [(95.0, False), (94.9, True)])
def test_a_gap_is_wider_than_a_twentieth_of_the_largest(lower: float, found: bool) -> None:
    assert eigengap(ritz([lower, 100]), 0.0).found is found


def test_the_largest_is_largest_in_size() -> None:
    assert not eigengap(ritz([-100, 1, 5.5]), 0.0).found
    assert eigengap(ritz([-100, 1, 7]), 0.0) == Estimate(pytest.approx(1 / 3), ((1, 7),), True)


@pytest.mark.parametrize(
    ("theta", "rho", "gaps"),
    [
        ([1, 2, 10], [0.4, 0.4, 1], ((2.4, 9),)),  # 0.2 is left of the first
        ([1, 2, 10], [0.6, 0.6, 1], ((2.6, 9),)),  # overlap
        ([1, 2, 10], [0.5, 0.5, 0], ((2.5, 10),)),  # touch
        ([5, 6, 20], [4.5, 0, 1], ((9.5, 19),)),  # one inside another, and reaching farther
        ([20, 6, 5], [1, 0, 4.5], ((9.5, 19),)),  # pooled probes are in no order
        ([3, 5, 20], [0, 4, 1], ((9, 19),)),  # an interval that begins below a lower theta
        ([1, 4, 5, 20], [0, 0, 3.5, 0], ((8.5, 20),)),  # one that begins below two lower ones
        ([1, 5, 10], [0, 4.5, 0], ()),  # a wide one in the middle: nothing is known to be free
    ],
)
def test_residuals_cover(theta: list[float], rho: list[float], gaps: tuple[tuple[float, float], ...]) -> None:
    assert eigengap(ritz(theta, rho), 0.0).gaps == gaps


@pytest.mark.parametrize(
    ("theta", "rho", "gaps"),
    [
        ([-5, 10], [0, 0], ()),
        ([-1, 10], [1, 0], ()),  # a = 0
        ([-5, 10], [6, 0], ((1, 10),)),  # of a negative Ritz value, but a > 0
        ([-10, -5], [0, 0], ()),
        ([-5, 2, 10], [0, 0, 0], ((2, 10),)),
    ],
)
def test_a_gap_begins_above_zero(theta: list[float], rho: list[float], gaps: tuple[tuple[float, float], ...]) -> None:
    assert eigengap(ritz(theta, rho), 0.0).gaps == gaps


@pytest.mark.parametrize(("theta", "rho"), [([7], [0]), ([7], [3]), ([7, 7.1], [0, 0]), ([-7, 7.0], [0, 0])])
def test_nothing_below_the_lowest_or_above_the_highest_is_a_gap(theta: list[float], rho: list[float]) -> None:
    assert not eigengap(ritz(theta, rho), 0.0).found


def test_the_null_space_neither_counts_nor_covers() -> None:
    weight = [0.5, 0.3, 0.2]
    expected = Estimate(pytest.approx(0.4), ((4, 10),), True)
    assert eigengap(ritz([0, 4, 10], weight=weight), 0.0) == expected
    assert eigengap(ritz([1e-6, 4, 10], weight=weight), 0.0) == expected  # else (1e-6, 4) were the lowest
    assert eigengap(ritz([-1e-6, 4, 10], rho=[6, 0, 0], weight=weight), 0.0) == expected
    assert eigengap(ritz([0, 10]), 0.0) == Estimate(1.0, (), False)


def test_the_null_space_ends_at_a_millionth_of_the_largest() -> None:
    assert eigengap(ritz([1e-6, 0.5, 1]), 0.0).ratio == pytest.approx(1 / 2)
    assert eigengap(ritz([1.01e-6, 0.5, 1]), 0.0).ratio == pytest.approx(2 / 3)


def test_all_zero() -> None:
    assert eigengap(ritz([0, 0, 0]), 0.0) == Estimate(1.0, (), False)


def test_what_is_not_finite_is_refused() -> None:
    for bad in (ritz([1, math.nan]), ritz([1, 9], rho=[0, math.inf])):
        with pytest.raises(ValueError, match="not finite"):
            eigengap(bad, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        eigengap(ritz([1, 9]), math.nan)


# -- known answers (section 5) -----------------------------------------------------------------------------


def two_clusters(seed: int = 0) -> Tensor:
    """30 eigenvalues in [.1, 1], 10 in [9, 10], rotated at random."""
    lam = np.concatenate([np.linspace(0.1, 1, 30), np.linspace(9, 10, 10)])
    V, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(40, 40)))
    return torch.from_numpy((V * lam) @ V.T)


def estimate_of(H: Tensor, points: Tensor, kappa: float) -> float:
    """Lip from the gradients H x + kappa (x - sin x) at these points; the Hessian at 0 is H."""
    return lipschitz(points, points @ H + kappa * (points - points.sin()), points @ H)


def worst_points(axis: int = 3, near: float = 0.01) -> Tensor:
    """The Hessian at x is H + kappa diag(1 - cos x): farthest from H where a coordinate is pi, along that coordinate."""
    points = torch.zeros(4, 40, dtype=torch.float64)
    points[1:, axis] = torch.tensor([1.0, math.pi - near, math.pi + near])
    return points


@pytest.mark.parametrize("kappa", [0.0, 0.1, 0.5, 0.99, 1.2])
def test_lipschitz_is_twice_kappa_along_the_worst_direction(kappa: float) -> None:
    lip = estimate_of(two_clusters(), worst_points(), kappa)
    assert lip == pytest.approx(2 * kappa, rel=1e-4, abs=1e-14)
    assert lip <= 2 * kappa + 1e-14


def test_lipschitz_elsewhere_is_a_lower_bound() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.1, 1, 10):
        points = torch.from_numpy(np.vstack([np.zeros(40), rng.normal(0, scale, size=(8, 40))]))
        assert 0 < estimate_of(two_clusters(), points, 0.5) < 1


@pytest.mark.parametrize("kappa", [0.0, 0.1, 0.5, 0.99])
def test_a_quarter_lies_above_the_gap(kappa: float) -> None:
    H = two_clusters()
    exact = spectrum(lambda v: H @ v, 40, 50, 4, np.random.default_rng(0), torch.float64)
    found = eigengap(exact, estimate_of(H, worst_points(), kappa))
    assert found == Estimate(pytest.approx(0.25), (pytest.approx((1, 9)),), True)


def test_too_nonlinear_for_the_gap() -> None:
    """4 Lip = 9.6, and the gap is 8."""
    H = two_clusters()
    exact = dense_spectrum(lambda v: H @ v, 40, torch.float64)
    assert eigengap(exact, estimate_of(H, worst_points(), 1.2)) == Estimate(1.0, (), False)


# -- Lanczos' share -------------------------------------------------------------------------------------------


def rotated(lam: np.ndarray, seed: int) -> Matvec:
    """V diag(lam) V', V = random signs times the Hartley transform: on eigenvectors near an axis, probes would be exact."""
    signs = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, size=len(lam)) * 2.0 - 1)
    values = torch.from_numpy(np.random.default_rng(seed + 1).permutation(lam))

    def hartley(v: Tensor) -> Tensor:
        f = torch.fft.fft(v)
        return (f.real - f.imag) / math.sqrt(len(v))

    return lambda v: signs * hartley(values * hartley(signs * v))


SPECTRA = {
    "a quarter": [np.linspace(0.1, 1, 1500), np.linspace(9, 10, 500)],
    "two per cent": [np.linspace(0.001, 1, 2940), np.linspace(5, 6, 60)],
    "both signs": [np.linspace(-1, 1, 2000), np.linspace(4, 5, 1000)],
    "half is null": [np.zeros(1500), np.linspace(0.1, 1, 1000), np.linspace(9, 10, 500)],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("probes", [1, 4])
def test_share_by_lanczos_against_the_exact_one(name: str, probes: int) -> None:
    lam = np.concatenate(SPECTRA[name])
    exact = eigengap(ritz(lam.tolist()), 0.1)
    counted, r = (lam != 0).sum(), exact.ratio
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = eigengap(stochastic_lanczos(rotated(lam, seed), len(lam), 50, probes, rng, torch.float64), 0.1)
        assert found.found
        assert found.ratio == pytest.approx(r, abs=3 * math.sqrt(2 * r * (1 - r) / (counted * probes)))


def test_a_ritz_value_without_weight_covers_no_gap() -> None:
    """On its way from one cluster to the other, a Ritz value has next to no weight and a wide residual."""
    lam = np.concatenate(SPECTRA["two per cent"])
    found = stochastic_lanczos(rotated(lam, 0), len(lam), 50, 1, np.random.default_rng(0), torch.float64)
    between = (found.theta > 1.1) & (found.theta < 4.9)
    assert between.sum() == 1
    assert found.weight[between] < 1e-12
    assert found.residual[between] > 2
    assert eigengap(found, 0.1).found


def test_spread_of_the_share_is_what_the_bound_says() -> None:
    """So the bound above is no wider than it has to be; the mean of many probes is closer."""
    lam = np.concatenate(SPECTRA["a quarter"])
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shares.append(eigengap(stochastic_lanczos(rotated(lam, 0), 2000, 20, 1, rng, torch.float64), 0.1).ratio)
    assert np.std(shares) == pytest.approx(math.sqrt(2 * 0.25 * 0.75 / 2000), rel=0.25)
    assert np.mean(shares) == pytest.approx(0.25, abs=3 * math.sqrt(2 * 0.25 * 0.75 / 2000 / 60))


# -- Lipschitz ----------------------------------------------------------------------------------------------------


def random_path(seed: int) -> list[np.ndarray]:
    """Displacements, gradients, products [9, 6]."""
    rng = np.random.default_rng(seed)
    path = [rng.normal(size=(9, 6)) for _ in range(3)]
    path[0][0] = path[2][0] = 0
    return path


def tensors(path: Sequence[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in path]


@pytest.mark.parametrize("seed", range(6))
def test_lipschitz_over_all_pairs(seed: int) -> None:
    delta, g, H_delta = path = random_path(seed)
    largest = 0.0
    for a in range(9):
        for b in range(9):
            if a != b:
                off = (H_delta[b] - H_delta[a]) - (g[b] - g[a])
                largest = max(largest, math.sqrt(sum(off**2)) / math.sqrt(sum((delta[b] - delta[a]) ** 2)))
    assert lipschitz(*tensors(path)) == pytest.approx(largest)


def test_pairs_at_the_same_point_are_left_out() -> None:
    delta, g, H_delta = random_path(0)
    before = lipschitz(*tensors([delta, g, H_delta]))
    delta, H_delta = np.vstack([delta, delta[3]]), np.vstack([H_delta, H_delta[3]])
    assert lipschitz(*tensors([delta, np.vstack([g, g[3] + 1e-9]), H_delta])) == pytest.approx(before)
    assert lipschitz(*(torch.zeros(4, 3), torch.rand(4, 3), torch.zeros(4, 3))) == 0


def test_lipschitz_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\), \(4, 2\)"):
        lipschitz(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        lipschitz(torch.arange(6.0).view(3, 2), torch.full((3, 2), math.nan), torch.zeros(3, 2))


# -- plateau --------------------------------------------------------------------------------------------------------


def plain_plateau(theta: np.ndarray, weight: np.ndarray) -> float:
    """The released walk, cell by cell."""
    low, high = min(theta) - 0.01, max(theta) + 0.01
    variance = 1e-5 * max(1, high - low)
    grid = np.linspace(low, high, 10_000)
    density = []
    for x in grid:
        bumps = np.exp(-((x - theta) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        density.append(float(np.dot(bumps, weight)))
    norm = sum(density) * (grid[1] - grid[0])

    def r(t: float) -> float:
        integral = 0.0
        for i in range(len(grid) - 1):
            if grid[i + 1] > t:
                break
            integral += density[i] / norm * (grid[i + 1] - grid[i])
        return 1 - integral

    step = 0.1
    while True:
        t, values, done = 0.0, [], False
        while True:
            values.append(r(t))
            if values[-1] < values[0] / 2:
                break
            if len(values) >= 4:
                changes = [abs(values[-j] - values[-j - 1]) for j in (1, 2, 3)]
                if changes[0] < 0.005 and changes[1] < 0.005 and changes[2] < 0.005:
                    done = True
                    break
            t += step
        if done:
            return values[-1]
        step /= 2


def probe_of(lam: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    start = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, size=len(lam)) * 2.0 - 1)
    theta, omega, _ = lanczos(rotated(lam, seed), start, 50)
    return theta, omega


@pytest.mark.parametrize("name", SPECTRA)
def test_plateau_against_a_plain_transcription(name: str) -> None:
    theta, omega = probe_of(np.concatenate(SPECTRA[name]), seed=1)
    assert plateau(theta, omega) == pytest.approx(plain_plateau(theta, omega), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_plateau_of_random_ritz_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta = np.sort(rng.normal(0.3 * seed - 0.5, 10.0 ** rng.integers(-4, 2), size=8))
    omega = rng.dirichlet(np.ones(8))
    assert plateau(theta, omega) == pytest.approx(plain_plateau(theta, omega), abs=1e-9)


@pytest.mark.timeout(20)
def test_plateau_counts_the_cell_that_ends_at_zero() -> None:
    """The grid is -1, 0, 1, .. 9998: t = 0 is one of its points. Counted only at t > 0, r would halve there at any step."""
    theta, omega = np.array([-0.99, 0.0, 9997.99]), np.array([0.6, 0.3, 0.1])
    assert plateau(theta, omega) == pytest.approx(plain_plateau(theta, omega), abs=1e-9)
    assert plateau(theta, omega) == pytest.approx(0.4, abs=0.01)


def test_plateau_of_spectra_that_have_one() -> None:
    """What lies at the ends of the grid loses .159 of its weight there: the kernel is as wide as the margin."""
    theta, omega = np.array([0.2, 0.3, 10]), np.array([0.5, 0.4, 0.1])
    assert plateau(theta, omega) == pytest.approx(1)  # from 0 on, before anything falls
    assert plateau(-theta[::-1], omega[::-1]) == pytest.approx(0, abs=0.02)
    cut = np.array([0.1 * 0.841, 0.2, 0.7 * 0.841])
    assert plateau(np.array([-5.0, 0.05, 5]), np.array([0.1, 0.2, 0.7])) == pytest.approx(cut[2] / cut.sum(), abs=5e-3)


def test_plateau_sees_its_own_kernel() -> None:
    """Nothing but 0 gives .491: three steps of .1/2^12 down a Gaussian of variance 1e-5, from a half."""
    peak = 1 / math.sqrt(2 * math.pi * 1e-5)
    assert plateau(np.zeros(1), np.ones(1)) == pytest.approx(0.5 - 3 * 0.1 / 2**12 * peak, abs=2e-4)
    assert round(plateau(np.zeros(50), np.full(50, 0.02)), 3) == 0.491
    rng = np.random.default_rng(0)
    narrow = [plateau(rng.normal(0, 1e-5, size=50), rng.dirichlet(np.ones(50))) for _ in range(20)]
    assert min(narrow) > 0.490
    assert max(narrow) < 0.492


@pytest.mark.parametrize(("largest", "r"), [(2, 0.51), (5, 0.55), (10, 0.61), (100, 0.82), (1000, 1.0)])
def test_plateau_follows_the_width_of_its_grid(largest: float, r: float) -> None:
    """All but a millionth at 0: the share of large eigenvalues is the same, 1e-6."""
    assert plateau(np.array([0, largest]), np.array([1 - 1e-6, 1e-6])) == pytest.approx(r, abs=0.006)


@pytest.mark.timeout(20)
def test_plateau_ends_where_rounding_makes_the_integral_exceed_one() -> None:
    for seed in range(40):
        theta = np.sort(-np.random.default_rng(seed).uniform(1, 2, size=2))
        assert 0 <= plateau(theta, np.array([1 - 1e-30, 1e-30])) < 1e-6


@pytest.mark.timeout(20)
@pytest.mark.parametrize("theta", [[-1e6, 1e6], [0.0, 1e9], [1e-300, 2e-300], [-1e-12, 3, 1e6], [5.0, 5.0]])
def test_plateau_ends(theta: list[float]) -> None:
    assert 0 <= plateau(np.array(theta), np.full(len(theta), 1 / len(theta))) <= 1


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("theta", "omega"), [([0, math.nan], [1, 1]), ([0, math.inf], [1, 1]), ([0, 1], [0, 0])])
def test_plateau_refuses_what_it_cannot_normalise(theta: list[float], omega: list[float]) -> None:
    with pytest.raises(ValueError, match="not finite, or has no weight"):
        plateau(np.array(theta), np.array(omega, dtype=float))


# -- the mean over devices --------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_by_examples_of_those_who_answered() -> None:
    assert weighted_ratio([(10, 0.2), (30, 0.6)]) == pytest.approx(0.5)
    assert weighted_ratio(iter([(7, 0.3)])) == 0.3
    pairs = [(int(n), float(r)) for n, r in zip(range(1, 90, 7), np.random.default_rng(0).random(13), strict=True)]
    assert weighted_ratio(pairs) == pytest.approx(np.average([r for _, r in pairs], weights=[n for n, _ in pairs]))
    orders = [np.random.default_rng(seed).permutation(13) for seed in range(20)]
    assert {weighted_ratio(pairs[i] for i in order) for order in orders} == {weighted_ratio(pairs)}
    assert weighted_ratio([(n, 1.0) for n, _ in pairs]) == 1


def test_nobody_answered() -> None:
    with pytest.raises(ValueError, match="no device answered"):
        weighted_ratio([])

"""The layers' score and choice (section 2.1 of docs/ALGORITHMS.md), against hand numbers and a plain second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.randomness import generator
from models.layout import Entry, Layout
from strategies.selection import (
    batch_score,
    best_layers,
    layer_count,
    mean_scores,
    sample_clients,
    spectrum_score,
    travelling_names,
)

B = 8
PUBLISHED = pytest.mark.parametrize(
    ("rho", "score"), [(0, 8.00), (0.3, 8.96), (0.6, 12.93), (0.9, 56.00), (0.99, 669.27)]
)


def naive_score(texts: list[np.ndarray]) -> float:
    """From each example's real rows [T_i, d] alone: cosines over the common length, eigenvalues, the sum."""
    longest = max(len(text) for text in texts)
    flat = [np.concatenate([text.ravel(), np.zeros((longest - len(text)) * text.shape[1])]) for text in texts]
    size = len(flat)
    similarity = np.empty((size, size))
    for a in range(size):
        for b in range(size):
            similarity[a, b] = flat[a] @ flat[b] / math.sqrt(flat[a] @ flat[a]) / math.sqrt(flat[b] @ flat[b])
    total = 0.0
    for lam in np.linalg.eigvalsh(similarity):
        lam = max(float(lam), 0.0) + 1e-5
        total += math.log(lam) + 1 / lam
    return total


def random_texts(seed: int = 0, alike: float = 1.0) -> list[np.ndarray]:
    """Eight examples of 1 to 6 tokens, hidden size 5, float32, around a common mean."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(alike, 1, size=(int(n), 5)).astype(np.float32) for n in rng.permutation([1, 2, 3, 4, 4, 5, 6, 6])
    ]


def padded(texts: list[np.ndarray], length: int, left: bool, garbage: float = 0.0) -> tuple[Tensor, Tensor]:
    """h [B, length, 5] and mask [B, length]; what stands at padding is `garbage`."""
    h = torch.full((len(texts), length, 5), garbage)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        start = length - len(text) if left else 0
        h[row, start : start + len(text)] = torch.from_numpy(text)
        mask[row, start : start + len(text)] = 1
    return h, mask


@PUBLISHED
def test_score_at_uniform_correlation(rho: float, score: float) -> None:
    similarity = torch.full((B, B), rho, dtype=torch.float64).fill_diagonal_(1)
    assert spectrum_score(similarity) == pytest.approx(score, abs=0.005)


@PUBLISHED
def test_score_of_hidden_states_of_uniform_correlation(rho: float, score: float) -> None:
    """h_a = sqrt(rho) e_0 + sqrt(1 - rho) e_a, of any length: the cosines are rho."""
    h = torch.zeros(B, 1, B + 1, dtype=torch.float64)
    h[:, 0, 0] = math.sqrt(rho)
    h[torch.arange(B), 0, torch.arange(B) + 1] = math.sqrt(1 - rho)
    h *= torch.arange(1, B + 1)[:, None, None]
    assert batch_score(h, torch.ones(B, 1)) == pytest.approx(score, rel=2e-5, abs=0.005)  # h in float32


def test_equal_rows_cost_one_over_eps() -> None:
    assert batch_score(torch.ones(2, 3, 4), torch.ones(2, 3)) == pytest.approx(1e5, rel=1e-3)


def test_nearly_equal_rows_are_told_apart_in_float64() -> None:
    """Angles of about 1e-3: float32 cosines are wrong by a tenth of 1 - cos, which eps lets through."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=(40, 16))
    texts = [(common + 1e-3 * rng.normal(size=(40, 16))).astype(np.float32) for _ in range(B)]
    h, mask = torch.from_numpy(np.stack(texts)), torch.ones(B, 40)
    assert batch_score(h, mask) == pytest.approx(naive_score(texts), rel=1e-6)


def test_score_grows_with_the_batch() -> None:
    assert spectrum_score(torch.eye(4)) == pytest.approx(4, abs=1e-3)
    assert spectrum_score(torch.eye(16)) == pytest.approx(16, abs=1e-3)


def test_negative_eigenvalues_count_as_zero() -> None:
    """Eigenvalues 2.2 and -0.2: without the clip the logarithm has no value."""
    expected = math.log(2.2 + 1e-5) + 1 / (2.2 + 1e-5) + math.log(1e-5) + 1e5
    assert spectrum_score(torch.tensor([[1.0, 1.2], [1.2, 1.0]], dtype=torch.float64)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("length", [6, 7, 19])
def test_neither_amount_nor_side_of_padding_nor_its_content_changes_the_score(
    seed: int, left: bool, length: int
) -> None:
    texts = random_texts(seed)
    for garbage in (0.0, 1e4):
        assert batch_score(*padded(texts, length, left, garbage)) == pytest.approx(naive_score(texts), rel=1e-6)


def test_padding_kept_in_would_change_the_score() -> None:
    """So the test above can fail."""
    h, _ = padded(random_texts(), 19, left=False, garbage=1.0)
    assert batch_score(h, torch.ones(h.shape[:2])) != pytest.approx(naive_score(random_texts()), rel=0.1)


def test_half_precision_and_boolean_masks_are_fine() -> None:
    h, mask = padded(random_texts(), 8, left=True)
    h = h.to(torch.bfloat16)
    texts = [row[keep].float().numpy() for row, keep in zip(h, mask.bool(), strict=True)]
    assert batch_score(h, mask.bool()) == pytest.approx(naive_score(texts), rel=1e-6)


# -- means over clients --------------------------------------------------------------------------------


def test_mean_is_weighted_by_examples_and_renormalised_over_those_with_scores() -> None:
    mean = mean_scores([(10, [1.0, 5.0]), (999, []), (30, [2.0, 1.0])])
    assert mean == pytest.approx([1.75, 2.0])


def test_mean_against_numpy() -> None:
    rng = np.random.default_rng(2)
    n, zeta = rng.integers(8, 90, size=7), rng.normal(20, 5, size=(7, 6))
    mean = mean_scores((int(a), row.tolist()) for a, row in zip(n, zeta, strict=True))
    assert mean == pytest.approx(np.average(zeta, axis=0, weights=n).tolist())


def test_mean_of_nobody_is_none() -> None:
    assert mean_scores([(7, []), (3, [])]) is None
    assert mean_scores([]) is None


# -- how many, which ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "layers", "count"),
    [
        (0.5, 6, 3),
        (0.5, 7, 4),
        (0.491, 24, 12),
        (0.491, 36, 18),
        (0.491, 32, 16),
        (0.01, 6, 1),
        (1e-9, 6, 1),
        (1.0, 6, 6),
    ],
)
def test_layer_count(ratio: float, layers: int, count: int) -> None:
    assert layer_count(ratio, layers) == count


def test_layer_count_is_not_fooled_by_the_last_bit() -> None:
    assert 0.07 * 100 > 7
    assert layer_count(0.07, 100) == 7


SCORES = [3.0, 9.0, 1.0, 9.0, 5.0, 1.0]


@pytest.mark.parametrize(
    ("order", "count", "chosen"),
    [
        ("highest", 1, (1,)),
        ("highest", 2, (1, 3)),
        ("highest", 4, (0, 1, 3, 4)),
        ("highest", 5, (0, 1, 2, 3, 4)),
        ("lowest", 1, (2,)),
        ("lowest", 3, (0, 2, 5)),
        ("lowest", 5, (0, 1, 2, 4, 5)),
        ("random", 6, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_best_layers_ascend_and_ties_go_to_the_lower(order: str, count: int, chosen: tuple[int, ...]) -> None:
    assert best_layers(SCORES, count, order, generator(0, "layers")) == chosen


def test_random_layers_follow_from_the_seed_and_ignore_the_scores() -> None:
    def draw(seed: int, scores: list[float]) -> tuple[int, ...]:
        return best_layers(scores, 3, "random", generator(seed, "layers"))

    assert draw(1, SCORES) == draw(1, SCORES[::-1])
    draws = [draw(seed, SCORES) for seed in range(200)]
    assert all(len(set(layers)) == 3 and list(layers) == sorted(layers) for layers in draws)
    often = np.bincount(np.concatenate(draws), minlength=6)
    assert often.min() > 70  # 100 expected, 7 standard deviation


def test_sampled_clients_differ_and_are_as_many_as_there_are() -> None:
    clients = [3, 14, 15, 92, 65]
    drawn = [sample_clients(clients, 3, generator(seed)) for seed in range(100)]
    assert all(len(set(d)) == 3 and set(d) <= set(clients) for d in drawn)
    assert any(d != sorted(d) for d in drawn)
    assert {c for d in drawn for c in d} == set(clients)
    assert sorted(sample_clients(clients, 9, generator(0))) == sorted(clients)


def test_what_travels_is_the_selected_layers_and_the_head() -> None:
    layout = Layout((Entry("p0", 0, (2,)), Entry("w", None, (3,)), Entry("p1", 1, (2,)), Entry("p2", 2, (2,))))
    assert travelling_names(layout, (2, 0)) == ["p0", "w", "p2"]
    assert travelling_names(layout, ()) == ["w"]


def test_what_stands_at_padding_does_not_matter() -> None:
    h, mask = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 5)
    mask[:, 3:] = 0
    odd = h.clone()
    odd[:, 3:] = float("nan")
    assert batch_score(odd, mask) == batch_score(h, mask)

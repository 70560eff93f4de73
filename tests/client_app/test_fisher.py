"""Fisher information from single examples' gradients, and what is updated by it (section 3 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from client_app.fisher import information, squared_gradients, updated, with_momentum
from models.layout import Entry, Layout

FEATURES = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, -1.0], [0.0, 1.0]], dtype=torch.float64)
CLASSES = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
W = torch.tensor([0.3, -0.7], dtype=torch.float64)


def logistic(rows: Tensor, batch: Sequence[Sequence[int]]) -> Tensor:
    """Logistic regression without bias: mean -log p(y|s) of each row's examples."""
    found = []
    for w, examples in zip(rows, batch, strict=True):
        z = FEATURES[list(examples)] @ w
        found.append(torch.nn.functional.binary_cross_entropy_with_logits(z, CLASSES[list(examples)]))
    return torch.stack(found)


@pytest.mark.parametrize("together", [True, False])
def test_logistic_regression_has_a_closed_form(together: bool) -> None:
    """grad -log p(y|s) = (sigmoid(w's) - y) s, so that its squared norm is (sigmoid(w's) - y)^2 |s|^2."""
    residual = torch.sigmoid(FEATURES @ W) - CLASSES
    squares = squared_gradients(W, logistic, [2, 0, 1, 3], together)
    torch.testing.assert_close(squares, (residual[:, None] * FEATURES).square()[[2, 0, 1, 3]])
    torch.testing.assert_close(squares.sum(1), (residual.square() * FEATURES.square().sum(1))[[2, 0, 1, 3]])


def test_information_is_the_mean_over_examples_and_not_the_square_of_a_batchs_gradient() -> None:
    residual = (torch.sigmoid(FEATURES @ W) - CLASSES)[:, None] * FEATURES
    found = information(W, logistic, [[0, 1, 2], [3]])  # 3 and 1 examples count as 4, not as 2 batches
    torch.testing.assert_close(found, residual.square().mean(0))
    assert not torch.allclose(found, residual.mean(0).square(), rtol=0.1)


def test_momentum_by_visits() -> None:
    first, second, third = (torch.tensor([value]) for value in (4.0, 2.0, 1.0))
    fisher = with_momentum(None, first, 0.9)
    assert fisher.item() == 4.0
    fisher = with_momentum(fisher, second, 0.9)
    assert fisher.item() == pytest.approx(0.9 * 4 + 0.1 * 2)
    assert with_momentum(fisher, third, 0.9).item() == pytest.approx(0.9 * 3.8 + 0.1 * 1)


LAYOUT = Layout(
    (
        Entry("lora.1.q.A", 1, (2, 3)),  # 0 .. 5, travels
        Entry("lora.0.q.A", 0, (2, 3)),  # 6 .. 11
        Entry("lora.0.q.B", 0, (4, 2)),  # 12 .. 19
        Entry("head.w", None, (2,)),  # 20, 21
    )
)
A = torch.tensor([[1.0, 0.0, 4.0], [1.0, 5.0, 0.0]])  # columns: 2, 5, 4
B = torch.tensor([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0], [2.0, 2.0]])  # rows: 2, 3, 0, 4


def places(fisher: dict[str, Tensor], share: float, frozen: Sequence[str] = ()) -> list[int]:
    return updated(LAYOUT, fisher, share, frozen).tolist()


def test_columns_of_a_and_rows_of_b_are_ranked_within_their_matrix() -> None:
    """ceil(.5 x 3) = 2 columns of A, 1 and 2; ceil(.5 x 4) = 2 rows of B, 1 and 3; the rest whole."""
    wanted = [*range(6), 7, 8, 10, 11, 14, 15, 18, 19, 20, 21]
    assert places({"lora.0.q.A": A, "lora.0.q.B": B}, 0.5) == wanted


def test_the_best_one_is_kept_however_small_the_share() -> None:
    assert places({"lora.0.q.A": A, "lora.0.q.B": B}, 0.01) == [*range(6), 7, 10, 18, 19, 20, 21]


def test_the_best_one_is_kept_even_by_a_share_of_next_to_nothing() -> None:
    """An eigengap below a single eigenvalue of very many."""
    assert places({"lora.0.q.B": B}, 1e-9) == [*range(12), 18, 19, 20, 21]


def test_while_b_is_0_a_has_no_information_and_keeps_all() -> None:
    found = places({"lora.0.q.A": torch.zeros(2, 3), "lora.0.q.B": B}, 0.5)
    assert found == [*range(12), 14, 15, 18, 19, 20, 21]


def test_ties_go_to_the_lower_one() -> None:
    assert places({"lora.0.q.B": torch.ones(4, 2)}, 0.5) == [*range(12), *range(12, 16), 20, 21]


def test_all_of_it_is_everything_in_order_and_what_is_frozen_is_nowhere() -> None:
    assert places({"lora.0.q.A": A, "lora.0.q.B": B}, 1.0) == list(range(22))
    assert places({}, 0.5) == list(range(22))
    assert places({}, 1.0, ["lora.1.q.A", "lora.0.q.A"]) == list(range(12, 22))


def test_a_share_that_comes_out_even_is_not_rounded_up() -> None:
    """.1 x 30 is 3.0000000000000004."""
    layout = Layout((Entry("lora.0.q.B", 0, (30, 1)),))
    assert len(updated(layout, {"lora.0.q.B": torch.rand(30, 1)}, 0.1)) == 3

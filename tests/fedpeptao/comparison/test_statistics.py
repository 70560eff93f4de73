"""Each statistic against numbers computed by hand."""

from __future__ import annotations

import pytest

from fedpeptao.comparison.statistics import (
    Pair,
    at_exactly,
    at_most_bytes,
    at_most_rounds,
    bootstrap_interval,
    first_reaching,
    mean_and_spread,
    rise_and_swing,
    t_interval,
)
from tests.fedpeptao.comparison.made_up import point

RUN = [point(2, 0.40, 300), point(4, 0.60, 600), point(6, 0.55, 900), point(8, 0.70, 1200)]


@pytest.mark.parametrize(("limit", "number"), [(300, 2), (599, 2), (600, 4), (1190, 6), (1199, 8), (10_000, 8)])
def test_equal_bytes_is_the_last_evaluation_at_or_before_them(limit: int, number: int) -> None:
    """1,200 bytes are within 1,199: a thousandth is less than what one digit more in a message's head makes."""
    found = at_most_bytes(RUN, limit)
    assert found is not None
    assert found.round == number


@pytest.mark.parametrize(
    ("limit", "figure"),
    [(299.8, 0.40), (300, 0.40), (450, 0.50), (600, 0.60), (675, 0.5875), (1200, 0.70), (9_000, 0.70)],
)
def test_a_figure_at_equal_cost_lies_on_the_line_between_two_evaluations(limit: float, figure: float) -> None:
    """Half of the way from .40 to .60, a quarter from .60 to .55; behind the last evaluation that one's."""
    assert at_exactly(RUN, lambda one: one.sent, lambda one: one.personalised, limit) == pytest.approx(figure)


def test_there_is_no_figure_before_the_first_evaluation_nor_where_nothing_was_measured() -> None:
    assert at_exactly(RUN, lambda one: one.sent, lambda one: one.personalised, 299) is None
    assert at_exactly(RUN, lambda one: one.seconds, lambda one: one.personalised, 299) is None
    assert at_exactly([], lambda one: one.sent, lambda one: one.personalised, 299) is None
    two = [point(2, 0.4, 300, global_test=None), point(4, 0.6, 600)]
    assert at_exactly(two, lambda one: one.sent, lambda one: one.global_test, 450) is None


def test_rise_and_swing_of_evaluations() -> None:
    """1, 3, 2 lie on 1.5, 2, 2.5: residuals -.5, 1, -.5 and one degree of freedom, sqrt(1.5). A straight climb has no swing."""
    assert rise_and_swing([1.0, 3.0, 2.0]) == pytest.approx((1.0, 1.5**0.5))
    assert rise_and_swing([0.2, 0.4, 0.6, 0.8]) == pytest.approx((0.6, 0.0), abs=1e-12)
    assert rise_and_swing([0.2, 0.4]) is None


def test_there_may_be_no_evaluation_within_the_bytes_or_the_rounds() -> None:
    assert at_most_bytes(RUN, 299) is None
    assert at_most_rounds(RUN, 1) is None
    found = at_most_rounds(RUN, 5)
    assert found is not None
    assert found.round == 4


def test_bytes_are_of_both_ways() -> None:
    one = point(2, 0.4, 300)
    assert (one.down, one.up, one.sent) == (200, 100, 300)


@pytest.mark.parametrize(("target", "number"), [(0.40, 2), (0.41, 4), (0.60, 4), (0.601, 8), (0.701, None)])
def test_the_target_is_reached_at_the_first_evaluation_that_has_it(target: float, number: int | None) -> None:
    """0.60 at round 4 counts though round 6 is below it again; 0.701 is never reached."""
    found = first_reaching(RUN, lambda one: one.personalised, target)
    assert (None if found is None else found.round) == number


def test_mean_and_spread_over_seeds() -> None:
    """Deviations -2, 0, 2 of mean 5: variance (4 + 0 + 4)/2 = 4."""
    assert mean_and_spread([3.0, 5.0, 7.0]) == (5.0, 2.0)
    assert mean_and_spread([3.0]) == (3.0, None)


def test_the_t_interval_of_three_seeds() -> None:
    """Mean 2, standard deviation 1; t of 97.5 % at 2 degrees of freedom is 4.30265 (any table): 4.30265/sqrt(3) = 2.48414."""
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)


def test_the_t_interval_of_five_seeds() -> None:
    """Squares 4 + 1 + 0 + 1 + 4 = 10 over 4: sd 1.58114; t at 4 is 2.77645; 2.77645 x 1.58114/sqrt(5) = 1.96324."""
    found = t_interval([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.low, found.high) == pytest.approx((2 - 1.96324, 2 + 1.96324), abs=1e-5)


def test_two_seeds_have_no_interval() -> None:
    with pytest.raises(ValueError, match="2 seeds are too few"):
        t_interval([0.1, 0.2])


def test_the_bootstrap_draws_clients_and_pools_their_examples() -> None:
    """Two clients, of 10 and 30 examples, ahead by 4 and by 0: drawn are (a, a) .4, (a, b) .1, (b, b) 0, at 1/4, 1/2, 1/4."""
    found = bootstrap_interval([Pair([10, 30], [9, 15], [5, 15])])
    assert found.mean == pytest.approx(4 / 40)
    assert (found.low, found.high) == pytest.approx((0.0, 0.4))


def test_the_bootstrap_is_as_wide_as_theory_says() -> None:
    """100 clients of 10 examples, half of them ahead by one: the mean .05 has standard error .05/sqrt(100) = .005."""
    pair = Pair([10] * 100, [6, 5] * 50, [5, 5] * 50)
    found = bootstrap_interval([pair])
    assert found.mean == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - 1.96 * 0.005, 0.05 + 1.96 * 0.005), abs=6e-4)


def test_a_client_counts_by_its_examples() -> None:
    """100 clients of 10 examples, ahead by 4, and 100 of 30, ahead by 0: 400/4000, where a mean over clients would be .2."""
    found = bootstrap_interval([Pair([10, 30] * 100, [9, 15] * 100, [5, 15] * 100)])
    assert found.mean == pytest.approx(0.1)
    assert found.low < 0.1 < found.high < 0.15


def test_over_two_runs_the_bootstrap_is_of_their_mean() -> None:
    """Each run's error is .005; that of the mean of two .005/sqrt(2)."""
    pair = Pair([10] * 100, [6, 5] * 50, [5, 5] * 50)
    behind = Pair([10] * 100, [5, 5] * 50, [6, 5] * 50)
    found = bootstrap_interval([pair, behind])
    assert found.mean == pytest.approx(0.0)
    assert (found.low, found.high) == pytest.approx((-1.96 * 0.00354, 1.96 * 0.00354), abs=5e-4)


def test_the_bootstrap_gives_the_same_interval_each_time() -> None:
    pair = Pair([4, 9, 6], [2, 7, 5], [3, 4, 4])
    assert bootstrap_interval([pair]) == bootstrap_interval([pair])
    assert bootstrap_interval([pair], draws=100, seed=0) != bootstrap_interval([pair], draws=100, seed=1)

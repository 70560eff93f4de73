"""Strikes and norms, by hand."""

from __future__ import annotations

import math

from strategies.standing import ENOUGH, WINDOW, Standing


def test_refused_replies_in_a_row_make_a_client_left_out() -> None:
    own = Standing()
    for round_ in (1, 2):
        own = own.after([1], [7], [])
        assert own.strikes == {7: round_}
        assert own.left_out(3) == ()
    own = own.after([1], [7], [])
    assert own.left_out(3) == (7,)
    assert own.left_out(4) == ()
    assert own.left_out(0) == ()  # never


def test_an_accepted_reply_wipes_the_slate_but_not_the_count() -> None:
    own = Standing().after([], [7, 3], []).after([], [7], []).after([7], [], []).after([], [7], [])
    assert own.strikes == {3: 1, 7: 1}
    assert own.refused == {3: 1, 7: 3}
    assert own.left_out(1) == (3, 7)


def test_silence_neither_counts_nor_wipes() -> None:
    own = Standing().after([], [7], []).after([1, 2], [], [])
    assert own.strikes == {7: 1}


def test_refused_evaluations_are_counted_and_are_no_strikes() -> None:
    own = Standing().counting([4, 4, 5])
    assert (own.refused, own.strikes) == ({4: 2, 5: 1}, {})


def test_the_largest_norm_is_so_many_times_the_median() -> None:
    own = Standing().after(range(5), [], [1.0, 9.0, 2.0, 3.0, 4.0])
    assert own.most(10.0) == 30.0
    assert own.most(0.0) == math.inf


def test_the_first_are_let_in_until_there_are_enough() -> None:
    own = Standing(norms=(1.0,) * (ENOUGH - 1))
    assert own.most(2.0) == math.inf
    assert own.after([1], [], [1.0]).most(2.0) == 2.0


def test_updates_without_a_norm_are_no_measure() -> None:
    assert Standing(norms=(0.0,) * 10).most(2.0) == math.inf


def test_the_window_holds_the_last_ones() -> None:
    own = Standing()
    for number in range(WINDOW + 10):
        own = own.after([], [], [float(number)])
    assert own.norms == tuple(float(number) for number in range(10, WINDOW + 10))


def test_other_parameters_start_a_window_and_no_slate() -> None:
    own = Standing((1.0, 2.0), {3: 2}, {3: 5}).anew()
    assert own == Standing((), {3: 2}, {3: 5})

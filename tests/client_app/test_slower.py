"""Shorter steps on what stays on a device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from client_app.local_update import SGD, Adam
from client_app.slower import Slower
from fedpeptao.loaded import open_model
from tests.small_runs import Flat, Ran, equal, go

MakeFlat = Callable[..., Flat]


def test_what_travels_takes_whole_steps_and_the_rest_shorter_ones() -> None:
    x, grad, d = torch.ones(2, 4), torch.tensor([[0.1, -0.2, 0.3, 0.4]] * 2), torch.full((2, 2), 0.05)
    whole = x.clone()
    SGD(0.5, 10.0).step(whole, grad, d)
    Slower(SGD(0.5, 10.0), 2, 0.25).step(x, grad, d)
    assert torch.equal(x[:, :2], whole[:, :2])
    torch.testing.assert_close(x[:, 2:], 1 - 0.25 * 0.5 * grad[:, 2:])


def test_clipping_is_by_the_whole_gradient_and_weight_decay_is_shortened_too() -> None:
    """Three steps of Adam with decay: at every step a quarter of the way that a whole step from there would go."""
    torch.manual_seed(0)
    x = torch.randn(1, 5)
    ours, plain = Slower(Adam(0.1, 0.3, 1.0), 3, 0.25), Adam(0.1, 0.3, 1.0)
    for _ in range(3):
        grad, way = torch.randn(1, 5), x.clone()
        plain.step(way, grad, None)
        expected = torch.cat([way[:, :3], x[:, 3:] + 0.25 * (way[:, 3:] - x[:, 3:])], dim=1)
        ours.step(x, grad, None)
        torch.testing.assert_close(x, expected)


def test_without_any_steps_nothing_that_stays_moves() -> None:
    x = torch.ones(1, 3)
    Slower(Adam(0.1, 0.1, 1.0), 1, 0.0).step(x, torch.ones(1, 3), None)
    assert x[0, 1:].tolist() == [1.0, 1.0]
    assert x[0, 0] != 1


def own_prompt(ran: Ran, client: int | None) -> Tensor:
    """Of layer 1, which is not selected; None: what everybody began with."""
    loaded = open_model(ran.folder, client=client)
    return loaded.model.layout.unflatten(loaded.row[None])["prompt.1"][0]


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_a_run_moves_prompts_outside_the_selection_by_so_much(make_flat: MakeFlat, factor: float) -> None:
    """One step from the common beginning, of SGD without clipping: the factor times the whole way."""
    told = {
        "rounds": 1,
        "batch_size": 1000,
        "device_optimizer": "sgd",
        "clip_norm": 1e9,
        "layers": "0",
        "learning_rate": 100.0,
    }
    ran = [go(make_flat(run_name=f"own-{rho}", own_learning_rate=rho, **told)) for rho in (factor, 1.0)]
    client = ran[0].lines[1]["clients"][0]
    own, whole = (own_prompt(one, client) for one in ran)
    first = own_prompt(ran[0], None)
    assert float((whole - first).abs().max()) > 1e-4
    torch.testing.assert_close(own - first, factor * (whole - first), rtol=1e-3, atol=1e-7)
    assert equal(ran[0].parameters, ran[1].parameters)

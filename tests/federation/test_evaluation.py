"""The same losses and gradients in passes of similar texts as in one, client by client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app.start import shard_of
from federation import evaluation
from federation.settings import parse
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
LABELS = ("animals", "colours", "verbs")


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("prior", [False, True])
def test_losses_in_groups_of_similar_length_are_those_of_one_pass(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, clients: int, prior: bool
) -> None:
    settings = parse(make_flat(clients=2, clients_per_round=2))
    model, layout, row = model_of(settings, (0, 1), LABELS)
    shard, _ = shard_of(settings, 0)
    rows = row + 0.1 * torch.randn(clients, layout.size, generator=torch.Generator().manual_seed(0))
    batch = [[0, 5, 9, 3, 7], [11, 2], [4, 8, 6]][:clients]
    priors = torch.tensor([[0.5, -1.0, 0.1], [0.0, 1.0, 0.0], [-2.0, 0.0, 0.3]])[:clients] if prior else None

    def both(made: Callable[..., Callable[..., Tensor]]) -> tuple[Tensor, Tensor]:
        leaf = rows.clone().requires_grad_()
        loss = made(model, shard, LABELS, layout, priors)(leaf, batch)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), grad

    passes: list[int] = []
    real = evaluation.length_groups

    def narrow(lengths: list[int], most: int) -> list[list[int]]:
        found = real(lengths, most, 0)
        passes.append(len(found))
        return found

    monkeypatch.setattr(evaluation, "length_groups", narrow)
    wanted, found = both(evaluation.stack_losses_on), both(evaluation.grouped_losses_on)
    assert passes[0] > 1
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert wanted[1].abs().max() > 1e-3


def test_on_an_accelerator_groups_are_as_large_as_they_may_be(make_flat: MakeFlat) -> None:
    settings = parse(make_flat(clients=2, clients_per_round=2))
    shard, _ = shard_of(settings, 0)

    class Elsewhere:
        device = torch.device("cuda")

    backbone: Any = Elsewhere()
    groups = evaluation.by_length(backbone, shard, range(11), 4)
    assert [len(group) for group in groups] == [4, 4, 3]
    lengths = [len(shard.input_ids[place]) for group in groups for place in group]
    assert lengths == sorted(lengths)

"""Special cases that are other, older methods: central gradient descent, and Flower's own FedAvg (section 5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from client_app.local_update import SGD, local_update
from experiments.quadratics import Federation, Quadratics, four_clients, settings
from federation.channels import make_channels
from models.layout import Entry, Layout
from strategies.build import build
from strategies.client_rows import MemoryRows
from strategies.fedpeptao import Update
from strategies.roster import Cohort

ETA, STEPS, ROUNDS = 0.05, 7, 30


def one_client() -> Quadratics:
    """The heaviest of the four, alone, with its own K_i."""
    four = four_clients()
    return Quadratics(four.curvature[:1], four.centres[:1], examples=(40,), steps=(STEPS,))


@pytest.mark.parametrize("drift", ["none", "server", "device"])
@pytest.mark.parametrize("clip_norm", [1e9, 1.0])
def test_one_device_is_central_training(drift: str, clip_norm: float) -> None:
    """eta_s = 1, beta = 0, SGD, float32 messages: PyTorch's own SGD, clipped by PyTorch, for rounds x K_i steps."""
    problem = one_client()
    setup = settings(drift_correction=drift, learning_rate=ETA, clip_norm=clip_norm)
    path = Federation(problem, setup, exact=False).run(ROUNDS)

    x = torch.nn.Parameter(torch.zeros(1, 2))
    optimizer = torch.optim.SGD([x], lr=ETA)
    for ours in path:
        for step in range(STEPS):
            optimizer.zero_grad()
            problem.losses(0)(x, step).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([x], clip_norm)
            optimizer.step()
        torch.testing.assert_close(ours.to(torch.float32), x.detach()[0], rtol=0, atol=2e-6 if clip_norm == 1 else 1e-6)


def regression(client: int) -> tuple[Tensor, Tensor]:
    """A small logistic regression: inputs [n_i, 5] and labels [n_i], float32, of a size that differs by client."""
    rng = np.random.default_rng(client)
    inputs = rng.normal(client - 1, 1, size=(8 * (client + 1), 5)).astype(np.float32)
    return torch.from_numpy(inputs), torch.from_numpy((inputs @ rng.normal(size=5) > 0).astype(np.float32))


def train_rows(x: Tensor, client: int) -> tuple[Tensor, int]:
    """x_i and K_i after two epochs in batches of 8."""
    inputs, labels = regression(client)
    batches = [slice(start, start + 8) for _ in range(2) for start in range(0, len(labels), 8)]

    def losses(rows: Tensor, batch: slice) -> Tensor:
        logits = rows @ inputs[batch].T
        wanted = labels[batch].expand_as(logits)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)

    result = local_update(x[None], batches, losses, SGD(0.3, 1e9))
    return result.rows[0], result.steps[0]


def flower_average(rows: dict[int, Tensor]) -> Tensor:
    """What Flower's FedAvg makes of hand-built replies."""
    replies = []
    for client, row in rows.items():
        content = RecordDict(
            {
                "arrays": ArrayRecord({"x": Array(row.numpy())}),
                "metrics": MetricRecord({"num-examples": len(regression(client)[1])}),
            }
        )
        asked = Message(RecordDict(), dst_node_id=client + 1, message_type="train")
        replies.append(Message(content, reply_to=asked))
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    return torch.from_numpy(arrays["x"].numpy())


@pytest.mark.parametrize("optimizer", ["momentum", "none"])
def test_without_correction_and_momentum_it_is_flowers_fedavg(optimizer: str) -> None:
    """beta = 0, eta_s = 1: x <- sum w_i x_i, round after round, with the clients that were sampled."""
    beta = 0.9 if optimizer == "none" else 0.0  # "none" is plain averaging whatever the momentum
    algorithm = build(
        settings(server_optimizer=optimizer, server_momentum=beta),
        Cohort(4, 80, 2.0),
        make_channels(settings(), Layout((Entry("x", None, (5,)),))).control,
        MemoryRows,
    )
    state, theirs = algorithm.initial(("x",), torch.zeros(5)), torch.zeros(5)
    rng = np.random.default_rng(0)
    for _ in range(8):
        sampled = [int(client) for client in rng.choice(4, size=3, replace=False)]
        x, total = state.x.to(torch.float32), algorithm.begin(state)
        for client in sampled:
            row, steps = train_rows(x, client)
            algorithm.fold(state, total, Update(client, len(regression(client)[1]), steps, x - row))
        state = algorithm.step(state, total)
        theirs = flower_average({client: train_rows(theirs, client)[0] for client in sampled})
        torch.testing.assert_close(state.x.to(torch.float32), theirs, rtol=0, atol=1e-6)
    assert float(theirs.norm()) > 0.5

"""The ceiling trains exactly as many steps as the federated run beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federation import resources
from federation.settings import Settings, parse
from fedpeptao import ceiling
from tests.small_runs import Flat, Watched, go

MakeFlat = Callable[..., Flat]


@pytest.mark.usefixtures("no_plots")
def test_its_steps_are_the_sum_of_the_k_i_of_a_run(make_flat: MakeFlat) -> None:
    """As the replies of a run say them."""
    watched = Watched()
    ran = go(make_flat(rounds=4, local_epochs=2, batch_size=5, seed=3), client_app=watched)
    taken = sum(
        int(record["steps"])  # type: ignore[arg-type]
        for passed in watched.of("train", "up")
        for name, record in passed.content.config_records.items()
        if name.startswith("client.")
    )
    assert ceiling.federated_steps(ran.settings) == taken
    assert taken > 4 * 3 * 2 * 2
    other = replace(ran.settings, federation=replace(ran.settings.federation, rounds=5))
    assert ceiling.federated_steps(other) > taken


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat(learning_rate=0.02, rounds=3))


def test_it_takes_them_and_no_more(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    real = ceiling.Adam.step

    def step(self: ceiling.Adam, x: Tensor, grad: Tensor, d: Tensor | None) -> None:
        taken.append(self.moments.t if self.moments else (0,))
        real(self, x, grad, d)

    monkeypatch.setattr(ceiling.Adam, "step", step)
    figures = ceiling.train_centrally(settings, quiet=True)
    assert figures["steps"] == ceiling.federated_steps(settings) == len(taken)
    assert taken == [(t,) for t in range(len(taken))]  # one Adam that never restarts


def test_epochs_run_over_everybodys_examples(settings: Settings) -> None:
    """Each example once before any comes again, in an order that changes, cut where the steps end."""
    train = resources.tokenised(settings).train
    per_epoch = -(-len(train) // settings.local.batch_size)
    batches = list(ceiling._batches(settings, train, 2 * per_epoch + 3))
    assert len(batches) == 2 * per_epoch + 3
    epochs = [batches[:per_epoch], batches[per_epoch : 2 * per_epoch]]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(len(train)))
    assert epochs[0] != epochs[1]


def test_its_figures(settings: Settings) -> None:
    one, two = (ceiling.train_centrally(settings, quiet=True) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    splits = resources.splits(settings)
    assert splits.test is not None
    assert one["test"]["examples"] == len(splits.test)
    assert one["validation"]["examples"] == len(splits.validation)
    assert 0 <= one["test"]["accuracy"] <= 1
    assert torch.tensor(one["train_loss"]).isfinite()
    assert one["seed"] == 0


def test_what_is_trained_is_what_is_evaluated(settings: Settings) -> None:
    """With steps of next to nothing the figures are those of the initial values, and with real ones they are not."""
    model = resources.tuned(settings, (0, 1), "abc")
    model.bind(model.initial(0)[None])
    start = ceiling.count(model, resources.tokenised(settings).validation, ["animals", "colours", "verbs"], 32).loss
    still = replace(settings, local=replace(settings.local, learning_rate=1e-12))
    losses = [ceiling.train_centrally(s, quiet=True)["validation"]["loss"] for s in (still, settings)]
    assert losses[0] == pytest.approx(start, rel=1e-6)
    assert abs(losses[1] - losses[0]) > 1e-3


def test_the_table_says_it_in_words() -> None:
    figures = {
        "steps": 120,
        "seconds": 61.7,
        "seed": 4,
        "test": None,
        "validation": {"accuracy": 0.6, "loss": 1.25, "examples": 30},
    }
    assert ceiling.as_table(figures).splitlines() == [
        "Central training: 120 steps, 62 s, seed 4",
        "  accuracy 0.600  loss 1.250  all clients' evaluation shards, 30 examples",
    ]
    figures["test"] = {"accuracy": 0.5, "loss": 2.0, "examples": 7}
    assert ceiling.as_table(figures).splitlines()[2] == "  accuracy 0.500  loss 2.000  common test set, 7 examples"


def test_the_table_by_another_metric() -> None:
    found = {"accuracy": 0.6, "accuracy_and_f1": 0.5, "loss": 1.25, "examples": 30}
    figures = {"steps": 2, "seconds": 1, "seed": 4, "test": found, "validation": None, "metric": "accuracy-and-f1"}
    assert "  accuracy/F1 0.500  accuracy 0.600  loss 1.250" in ceiling.as_table(figures)


def test_the_ceiling_has_the_runs_metric(make_flat: MakeFlat) -> None:
    figures = ceiling.train_centrally(parse(make_flat(metric="f1", rounds=1)), quiet=True)
    assert figures["metric"] == "f1"
    assert 0 <= figures["test"]["f1"] <= 1
    assert figures["test"]["f1"] != figures["test"]["accuracy"]

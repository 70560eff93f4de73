"""Whole runs in this process: the same bits, what travels and what never does, the model families, plain FedAvg."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from client_app.disk_store import peek
from client_app.local_update import Adam, local_update
from data.batches import length_batches
from federation import resources
from federation.evaluation import batch_inputs, targets
from federation.randomness import generator
from federation.settings import Scalar, Settings
from tests.small_runs import Flat, Ran, Watched, equal, go, model_of

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]


# -- the same bits -----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_twice(make_flat: MakeFlat) -> None:
    flat = make_flat(rounds=3, evaluate_every=2)
    one, two = (go({**flat, "run-name": name}) for name in ("one", "two"))  # as long: the name is in every message
    assert one.parameter_bytes == two.parameter_bytes
    assert one.lines_without("seconds") == two.lines_without("seconds")
    assert one.summary["final"] == two.summary["final"]
    assert one.summary["layer_scores"] == two.summary["layer_scores"]


@pytest.mark.parametrize("nodes", [1, 5])
def test_the_number_of_nodes_changes_no_bit_of_the_model(make_flat: MakeFlat, nodes: int) -> None:
    flat = make_flat(drift_correction="device", device_second_moment="shared")
    one, two = go(flat, nodes=2), go(flat, nodes=nodes)
    assert one.parameter_bytes == two.parameter_bytes
    assert one.lines_without("seconds", "bytes", "detail") == two.lines_without("seconds", "bytes", "detail")
    assert one.summary["final"] == two.summary["final"]
    traffic = [ran.lines[-1]["down_bytes"] for ran in (one, two)]
    assert (traffic[1] > traffic[0]) is (nodes > 2)  # a message for each node: more nodes, more copies


def test_another_seed_gives_other_bits(make_flat: MakeFlat) -> None:
    one, two = go(make_flat()), go(make_flat(seed=1))
    assert one.parameters.keys() == two.parameters.keys()
    assert all(not torch.equal(one.parameters[name], two.parameters[name]) for name in one.parameters)
    sizes = [[client["examples"] for client in ran.summary["clients"].values()] for ran in (one, two)]
    assert sizes[0] != sizes[1]  # who holds what follows from the seed too
    assert one.lines[1]["clients"] != two.lines[1]["clients"]


# -- what travels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unselected", ["local", "none"])
@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_a_name_outside_s_never_appears_in_any_message(make_flat: MakeFlat, unselected: str, order: str) -> None:
    """All messages of a run in both directions, control variates and second moments too."""
    watched = Watched()
    flat = make_flat(unselected_prompts=unselected, score_order=order, device_second_moment="shared", rounds=3)
    ran = go(flat, client_app=watched)
    (layer,) = ran.summary["layers"]
    allowed = {f"prompt.{layer}", "head.classifier.weight", "head.classifier.bias"}
    kinds = {(passed.kind, passed.way) for passed in watched.passed}
    assert kinds == {(kind, way) for kind in ("query.roll_call", "train", "evaluate") for way in ("down", "up")}
    for passed in watched.passed:
        for record, shapes in passed.shapes.items():
            assert set(shapes) == ({"values"} if record.startswith("moments") else allowed), (passed.kind, record)
    last = [p.shapes for p in watched.of("train", "up")][-1]
    assert any(record.startswith("update.") for record in last)
    assert set(ran.parameters) == allowed


def test_neither_do_its_values_in_disguise(make_flat: MakeFlat) -> None:
    """Besides arrays only known keys pass, and none with as many numbers as a prompt has."""
    watched = Watched()
    go(make_flat(), client_app=watched)
    known = {
        "ask": {"schema", "run", "score"},
        "round": {"schema", "run", "round", "labels", "layers", "epoch", "warm_up"},
        "clients": {"ids", "accepted"},
        "client": {"client", "round", "fault", "examples", "steps", "train_loss", "control_round"}
        | {"validation_examples", "labels", "data", "model", "scores", "commonest"},
        "evaluation": {"examples", "correct", "loss_sum", "shared_correct", "shared_loss_sum"},
    }
    for passed in watched.passed:
        assert not passed.content.metric_records
        for name, record in passed.content.config_records.items():
            assert set(record) <= known[name.split(".")[0]], name
            assert all(len(value) < 80 for value in record.values() if isinstance(value, (list, str, bytes))), name


def test_control_variates_and_moments_travel_only_where_they_are_used(make_flat: MakeFlat) -> None:
    for correction, moment in product(("none", "server", "device"), ("local", "shared")):
        watched = Watched()
        go(make_flat(drift_correction=correction, device_second_moment=moment), client_app=watched)
        down = [set(passed.shapes) for passed in watched.of("train")]
        up = {record.split(".")[0] for passed in watched.of("train", "up") for record in passed.shapes}
        control = {"control"} if correction == "device" else set()
        assert down[0] == {"shared"} | control  # vbar is not known before the first replies
        assert down[-1] == {"shared"} | control | ({"moments"} if moment == "shared" else set())
        assert up == {"update"} | ({"moments"} if moment == "shared" else set())
        assert {frozenset(passed.shapes) for passed in watched.of("evaluate")} == {frozenset({"shared"})}


# -- models and precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["random:roberta", "random:gpt2", "random:llama"])
@pytest.mark.parametrize("layers", ["0", "1", "all"])
def test_the_other_families_run(make_flat: MakeFlat, model: str, layers: str) -> None:
    head = "model" if model == "random:roberta" else "linear"
    ran = go(make_flat(model=model, layers=layers, head=head))
    prompts = {name for name in ran.parameters if name.startswith("prompt.")}
    assert prompts == ({"prompt.0", "prompt.1"} if layers == "all" else {f"prompt.{layers}"})
    assert all(line["accepted"] == 3 and line["update_norm"] > 0 for line in ran.lines[1:])


def test_each_thing_that_travels_has_its_own_precision(make_flat: MakeFlat) -> None:
    """Sixty prompt tokens, so that the arrays outweigh their framing; squeezed int8 comes to less than a
    quarter, and c = 0 to next to nothing.
    """

    def kilobytes(**changes: Scalar) -> list[float]:
        line = go(make_flat(prompt_tokens=60, rounds=1, **changes)).lines[-1]
        return [line[way]["prompts"] / 1e3 for way in ("down_detail", "up_detail")] + [
            line["down_detail"]["control"] / 1e3
        ]

    whole = kilobytes()
    for changes, factors in (
        ({"precision": "float16"}, (2, 2, 2)),
        ({"precision": "int8"}, (4, 4, 4)),
        ({"update_precision": "int8"}, (1, 4, 1)),
        ({"precision": "int8", "control_precision": "float16"}, (4, 4, 2)),
        ({"model_precision": "float16"}, (2, 1, 1)),
    ):
        found = kilobytes(**changes)
        for exact, here, factor in zip(whole, found, factors, strict=True):
            assert 0.8 * factor < exact / here, changes
            assert exact / here <= factor or factor == 4, changes


# -- plain averaging ---------------------------------------------------------------------------------------

FEDAVG: dict[str, Scalar] = {
    "layers": "all",
    "drift_correction": "none",
    "server_optimizer": "none",
    "rounds": 3,
    "local_epochs": 2,
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_layers_without_correction_and_momentum_are_fedavg(make_flat: MakeFlat, optimizer: str) -> None:
    steps: dict[str, Scalar] = {"learning_rate": 2.0, "clip_norm": 0.03} if optimizer == "sgd" else {}
    ran = go(make_flat(**FEDAVG, device_optimizer=optimizer, **steps))
    theirs, moved = naive_fedavg(ran)
    model, layout, _ = model_of(ran.settings, (0, 1), 3)
    assert set(ran.parameters) == set(model.layout.names)
    assert float((layout.flatten(ran.parameters) - theirs).abs().max()) < 1e-6
    assert moved > 0.05


def naive_fedavg(ran: Ran) -> tuple[Tensor, float]:
    """(x, how far it is from its start) of a FedAvg in a few lines: sum of w_i x_i over the clients of each line."""
    settings = ran.settings
    _, _, start = model_of(settings, (0, 1), 3)
    x = start.clone()
    for line in ran.lines[1:]:
        ends = {client: train_alone(settings, x, client, line["round"]) for client in line["clients"]}
        sizes = {client: len(resources.shards(settings).train[client]) for client in ends}
        x = sum((sizes[c] / sum(sizes.values()) * row.double() for c, row in ends.items()), torch.zeros(1)).float()
    return x, float((x - start).norm())


def train_alone(settings: Settings, x: Tensor, client: int, server_round: int) -> Tensor:
    """x_i: with PyTorch's own SGD, or with the local update's Adam."""
    model, layout, _ = model_of(settings, (0, 1), 3)
    shard = resources.tokenised(settings).train.select(resources.shards(settings).train[client])
    wanted, local = targets(shard, ["animals", "colours", "verbs"]), settings.local
    lengths = [len(ids) for ids in shard.input_ids]
    batches = [
        batch
        for epoch in range(local.local_epochs)
        for batch in length_batches(
            lengths,
            local.batch_size,
            generator(settings.federation.seed, "batches", client, server_round, epoch),
        )
    ]

    def losses(rows: Tensor, batch: list[int]) -> Tensor:
        model.bind(rows, layout)
        logits = model.logits(batch_inputs(model.backbone, shard, batch))
        return torch.nn.functional.cross_entropy(logits, wanted[batch])[None]

    if local.device_optimizer == "adam":
        return local_update(x[None], batches, losses, Adam(local.learning_rate, 0.0, local.clip_norm)).rows[0]
    row = torch.nn.Parameter(x[None].clone())
    optimizer = torch.optim.SGD([row], lr=local.learning_rate)
    for batch in batches:
        optimizer.zero_grad()
        losses(row, batch).sum().backward()  # type: ignore[no-untyped-call]
        assert row.grad is not None
        row.grad *= min(1.0, local.clip_norm / float(row.grad.norm()))
        optimizer.step()
    return row.detach()[0]


# -- what stays on the devices -----------------------------------------------------------------------------


def test_the_other_layers_prompts_stay_on_the_devices_and_differ(make_flat: MakeFlat) -> None:
    ran = go(make_flat(layers="1", clients_per_round=5))
    states = [peek(ran.folder / "clients", ran.folder.name, client, 2) for client in range(5)]
    locals_ = [state.local["prompt.0"] for state in states if state is not None]
    assert len(locals_) == 5
    assert all(not torch.equal(a, b) for i, a in enumerate(locals_) for b in locals_[:i])
    assert "prompt.0" not in ran.parameters


def test_without_prompts_elsewhere_personalised_and_shared_are_one(make_flat: MakeFlat) -> None:
    none, local = (
        go(make_flat(layers="1", clients_per_round=5, unselected_prompts=mode)) for mode in ("none", "local")
    )
    assert none.summary["final"]["personalised_loss"] == none.summary["final"]["shared_loss"]
    assert local.summary["final"]["personalised_loss"] != local.summary["final"]["shared_loss"]
    assert not equal(none.parameters, local.parameters)


def test_the_embedded_data_run_too(make_flat: MakeFlat) -> None:
    ran = go(make_flat(dataset="stdlib-docs", train_examples=200, test_examples=50, max_length=24))
    assert len(ran.summary["labels"]) == 7
    assert 190 < sum(client["examples"] for client in ran.summary["clients"].values()) <= 200

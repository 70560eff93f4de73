"""From the warm-up's strategy to that of the selected layers: what goes on, and what starts anew (section 2.2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from federation.messages import RollCallReply
from federation.settings import Scalar, Settings, parse
from server_app.assembly import Assembly, initial_values, strategy_model, traffic, whole_row
from server_app.console import bytes_text
from server_app.roll_call import RollCall
from strategies.fedpeptao import FedPepTAO
from strategies.shell import SelectiveStrategy
from tests.small_runs import Flat

MakeFlat = Callable[..., Flat]
LABELS = ("animals", "colours", "verbs")


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat(ratio="eigengap", warmup_rounds=3, rounds=5, device_second_moment="shared"))


@pytest.fixture
def assembly(settings: Settings, tmp_path: Path) -> Assembly:
    replies = {client: RollCallReply(client, 10 + client, 2, 1 + client) for client in range(5)}
    return Assembly(settings, RollCall(replies, dict.fromkeys(replies, 7)), LABELS, tmp_path / "run")


def warmed_up(assembly: Assembly) -> SelectiveStrategy:
    """After three rounds of which the second was the last for client 4; every parameter has moved."""
    warm = assembly.warm_up(2)
    warm.state = replace(warm.state, round=3, updates=3, x=warm.state.x + 1, accepted={4: 2, 0: 3})
    return warm


def test_a_warm_up_begins_at_the_common_initial_values_of_all_layers(assembly: Assembly) -> None:
    warm = assembly.warm_up(2)
    assert {"prompt.0", "prompt.1"} < set(warm.layout.names)
    values, initial = (
        warm.layout.unflatten(warm.state.x),
        initial_values(assembly.settings, strategy_model(assembly.settings, warm)),
    )
    assert all(torch.equal(values[name].float(), initial[name]) for name in warm.layout.names)
    assert (warm.warm_up, warm._share_second_moments, warm.algorithm.downlink(warm.state)) == (True, False, None)


def test_after_it_x_goes_on_where_the_warm_up_ended(assembly: Assembly) -> None:
    warm = warmed_up(assembly)
    after = assembly.strategy((1,), warm)
    assert "prompt.1" in after.layout.names
    assert "prompt.0" not in after.layout.names
    ended, begun = warm.layout.unflatten(warm.state.x), after.layout.unflatten(after.state.x)
    assert all(torch.equal(begun[name], ended[name]) for name in after.layout.names)
    assert (after.state.round, after.state.updates, dict(after.state.accepted)) == (3, 0, {4: 2, 0: 3})
    assert (after.state.drift.epoch, after.warm_up, after._share_second_moments) == (1, False, True)
    assert after.roster.layers == (1,)


def test_without_a_warm_up_it_begins_at_the_common_initial_values(assembly: Assembly) -> None:
    begun = assembly.strategy((0,))
    initial = initial_values(assembly.settings, strategy_model(assembly.settings, begun))
    values = begun.layout.unflatten(begun.state.x)
    assert all(torch.equal(values[name].float(), initial[name]) for name in begun.layout.names)
    assert (begun.state.round, begun.state.drift.epoch) == (0, 0)


def test_the_shared_model_has_the_initial_prompts_on_the_other_layers(assembly: Assembly) -> None:
    """Also after a warm-up that moved them."""
    after = assembly.strategy((1,), warmed_up(assembly))
    model = strategy_model(assembly.settings, after)
    whole, initial = (
        model.layout.unflatten(whole_row(assembly.settings, after)),
        initial_values(assembly.settings, model),
    )
    shared = after.layout.unflatten(after.state.x)
    assert torch.equal(whole["prompt.0"], initial["prompt.0"])
    assert all(torch.equal(whole[name], shared[name].float()) for name in after.layout.names)


def test_kbar_is_the_weighted_mean_of_the_roll_call(assembly: Assembly) -> None:
    """n_i = 10 .. 14, K_i = 1 .. 5."""
    normalised = replace(assembly.settings.server, step_normalised=True)
    algorithm = replace(assembly, settings=replace(assembly.settings, server=normalised)).strategy((1,)).algorithm
    assert isinstance(algorithm, FedPepTAO)
    assert algorithm.mean_steps == pytest.approx((10 + 22 + 36 + 52 + 70) / 60)


@pytest.mark.parametrize(
    ("changes", "down", "up", "control"),
    [
        ({}, 4 * 192, 4 * 192, 4 * 291),
        ({"precision": "float16"}, 2 * 192, 2 * 192, 2 * 291),
        ({"precision": "int8"}, 192 + 1, 192 + 1, 291 + 3),
        ({"update_precision": "int8", "control_precision": "float16"}, 4 * 192, 192 + 1, 2 * 291),
    ],
    ids=str,
)
def test_the_table_of_traffic_has_encoded_bytes(
    make_flat: MakeFlat, assembly: Assembly, changes: dict[str, Scalar], down: int, up: int, control: int
) -> None:
    """192 numbers of a layer's prompts, 96 and 3 of the head; a scale for each array. Shares are of all layers in float32."""
    settings = parse(make_flat(**changes))
    strategy = replace(assembly, settings=settings).strategy((1,))
    assert [entry.size for entry in strategy.layout.entries] == [192, 96, 3]
    sent = {
        name.strip(): size
        for name, size in re.findall(r"^  (.{34})  +[\d,]+ +(\S+ \S+)", traffic(settings, strategy), re.M)
    }
    assert sent["prompts of 1 selected layers, down"] == bytes_text(down)
    assert sent["prompts of 1 selected layers, up"] == bytes_text(up)
    assert sent["control variate, down"] == bytes_text(control)
    assert sent["prompts of the other layers, up"] == bytes_text(up)

"""Every combination of parts runs, or is refused with a word on what to change: in this process, by a covering set."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from federation.settings import defaults, parse
from fedpeptao.errors import InputError
from strategies.selection import layer_count
from tests.combinations import (
    INSIDE_ONE_PROCESS,
    Parts,
    covering,
    everything,
    for_ray,
    name,
    pairs,
    run_config,
    valid,
)
from tests.small_runs import Flat, Passed, Ran, Watched, go

LAYERS, PER_ROUND, ROUNDS = 2, 2, 3
SIZES = {"prompt.0": 64, "prompt.1": 64, "head.classifier.weight": 96, "head.classifier.bias": 3}  # numbers in each
FRAME = 150  # bytes of an array's name and description, at most


# -- which go together -------------------------------------------------------------------------------------


def test_a_combination_is_valid_or_refused_with_a_mend() -> None:
    """Each of the whole product; refused are exactly those that `valid` leaves out."""
    accepted, known = {name(parts) for parts in valid()}, defaults()
    own = 3 * 5 * 2 * 6 * 2  # corrections, devices, scales, server optimisers, pulls
    released = 2
    assert len(accepted) == len(valid()) == (own + released) * 4 * 2 * 3 * 2  # layers, prompts, precisions, averages
    for parts in everything():
        error = refusal({**known, **parts})
        assert (error is None) is (name(parts) in accepted), (parts, error)
        if error is not None:
            assert error.value == parts[error.key], error
            assert error.problem, error
            assert any(key in error.mend for key in parts), error


@pytest.mark.parametrize("variant", ["released", "released-aliased"])
def test_the_released_arithmetic_says_all_that_it_excludes_at_once(variant: str) -> None:
    """One change mends it."""
    excluded: Parts = {
        "drift-correction": "server",
        "server-optimizer": "yogi",
        "step-normalised": True,
        "proximal": 0.1,
    }
    error = refusal({**defaults(), **excluded, "variant": variant})
    assert error is not None
    mend = tomllib.loads(error.mend.removeprefix("Set ").replace(", ", "\n"))
    assert set(excluded) < set(mend)
    assert refusal({**defaults(), **excluded, "variant": variant, **mend}) is None


def refusal(flat: Flat) -> InputError | None:
    try:
        parse(flat)
    except InputError as error:
        return error
    return None


def test_a_covering_set_holds_every_pair_of_values_that_can_meet() -> None:
    wanted = {pair for parts in valid() for pair in pairs(parts)}
    assert {pair for parts in covering() for pair in pairs(parts)} == wanted
    assert len(covering()) < 30
    assert {name(parts) for parts in covering()} <= {name(parts) for parts in valid()}
    assert (("device-optimizer", "sgd"), ("device-second-moment", "shared")) not in wanted
    assert (("drift-correction", "device"), ("precision", "float16")) in wanted


def test_what_ray_is_asked_for_leaves_out_nothing_that_it_could_meet() -> None:
    """Every combination of the other settings once, and every value of those that stay inside one process."""

    def rest(parts: Parts) -> tuple[object, ...]:
        return tuple(value for key, value in parts.items() if key not in INSIDE_ONE_PROCESS)

    assert Counter(map(rest, for_ray())) == dict.fromkeys(map(rest, valid()), 1)
    for key in INSIDE_ONE_PROCESS:
        assert {parts[key] for parts in for_ray()} == {parts[key] for parts in valid()}
    assert {name(parts) for parts in for_ray()} <= {name(parts) for parts in valid()}


# -- they run ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("parts", covering(), ids=name)
def test_a_covering_set_runs(data_file: Path, tmp_path: Path, parts: Parts) -> None:
    watched = Watched()
    ran = go(run_config(data_file, tmp_path, parts), client_app=watched)
    complete_and_finite(ran)
    the_right_layers_travel(ran, watched)
    bytes_are_counted(ran)
    an_adapter_or_a_word_why_not(ran)


@pytest.mark.usefixtures("no_plots")
def test_the_number_of_nodes_changes_no_bit_where_steps_are_normalised(data_file: Path, tmp_path: Path) -> None:
    """Kbar is a sum over the answers to the roll call, which come node by node."""
    flat = run_config(data_file, tmp_path, {**covering()[0], "step-normalised": True})
    one, three = (go({**flat, "run-name": f"on-{nodes}"}, nodes=nodes) for nodes in (1, 3))
    assert one.parameter_bytes == three.parameter_bytes
    assert one.lines_without("seconds", "bytes", "detail") == three.lines_without("seconds", "bytes", "detail")
    assert one.summary["layer_scores"] == three.summary["layer_scores"]


def complete_and_finite(ran: Ran) -> None:
    start, *lines = ran.lines
    assert (ran.summary["status"], start["round"]) == ("completed", 0)
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    for line in lines:
        assert (line["accepted"], line["failed"], line["missing"]) == (PER_ROUND, {}, [])
        assert line["warm_up"] is (line["round"] <= warm_up_rounds(ran))
        assert 0 < line["update_norm"] < math.inf
        assert 0 < line["train_loss"] < math.inf
        assert all(0 <= line[key] <= 1 for key in ("personalised_accuracy", "global_accuracy"))
    assert all(torch.isfinite(value).all() for value in ran.parameters.values())
    final = ran.summary["final"]
    assert all(math.isfinite(final[key]) for key in ("personalised_loss", "shared_loss", "global_loss"))


def the_right_layers_travel(ran: Ran, watched: Watched) -> None:
    """S has the asked size; before it is known all layers travel, afterwards no message holds another."""
    layers, parts = ran.summary["layers"], ran.settings.selection
    if parts.layers == "all":
        assert layers == [0, 1]
    else:
        ratio = parts.ratio if parts.estimator is None else ran.summary["ratio"]["ratio"]
        assert len(layers) == layer_count(float(ratio), LAYERS)
    chosen = travelling(layers)
    assert set(ran.parameters) == set(chosen)
    wanted = {"int8": torch.uint8}.get(ran.settings.server.precision) or getattr(torch, ran.settings.server.precision)
    for passed in [*watched.of("train"), *watched.of("train", "up"), *watched.of("evaluate")]:
        here = travelling([0, 1]) if is_warm_up(ran, passed) else chosen
        for record, arrays in passed.content.array_records.items():
            if not record.startswith("moments"):
                assert set(arrays) == set(here), (passed.kind, record)
                assert {torch.from_numpy(array.numpy()).dtype for array in arrays.values()} == {wanted}
    assert len(watched.of("train", "up")) >= ROUNDS


def bytes_are_counted(ran: Ran) -> None:
    """What came up holds as many numbers as it should, in the asked width (int8: squeezed); the sums are sums."""
    squeezed = ran.settings.server.precision == "int8"
    width, scales = {"float32": (4, 0), "float16": (2, 0), "int8": (1, 1)}[ran.settings.server.precision]
    total = 0
    for line in ran.lines[1:]:
        names = travelling([0, 1] if line["warm_up"] else ran.summary["layers"])
        for kind, here in (
            ("prompts", [n for n in names if "prompt" in n]),
            ("head", [n for n in names if "head" in n]),
        ):
            payload = PER_ROUND * (sum(SIZES[n] for n in here) * width + scales * len(here))
            least, frame = (payload / 3, FRAME + 8) if squeezed else (payload, FRAME)
            assert least < line["up_detail"][kind] < payload + PER_ROUND * len(here) * frame
        assert ("control" in line["down_detail"]) is (uses_control(ran) and not line["warm_up"])
        assert ("moments" in line["up_detail"]) is (shares_moments(ran) and not line["warm_up"])
        assert "control" not in line["up_detail"]
        for way in ("down", "up"):
            assert line[f"{way}_bytes"] == sum(line[f"{way}_detail"].values())
        total += line["down_bytes"] + line["up_bytes"]
        assert line["cumulative_bytes"] == total
    told = ran.summary["bytes"]
    assert told["down"] + told["up"] == total
    assert told["evaluation"] > 0


def an_adapter_or_a_word_why_not(ran: Ran) -> None:
    everywhere = ran.settings.selection.unselected_prompts == "local" or len(ran.summary["layers"]) == LAYERS
    assert (ran.folder / "adapter" / "adapter_model.safetensors").exists() is everywhere
    assert ("no adapter written" in (ran.summary["adapter_note"] or "")) is not everywhere


def travelling(layers: list[int]) -> list[str]:
    return [*(f"prompt.{layer}" for layer in layers), "head.classifier.weight", "head.classifier.bias"]


def warm_up_rounds(ran: Ran) -> int:
    return ran.settings.selection.warmup_rounds if ran.settings.selection.estimator else 0


def is_warm_up(ran: Ran, passed: Passed) -> bool:
    records = passed.content.config_records
    server_round: Any = next(r["round"] for r in records.values() if "round" in r)
    return passed.kind == "train" and server_round <= warm_up_rounds(ran)


def uses_control(ran: Ran) -> bool:
    return ran.settings.server.drift_correction == "device"


def shares_moments(ran: Ran) -> bool:
    return ran.settings.local.device_second_moment == "shared"

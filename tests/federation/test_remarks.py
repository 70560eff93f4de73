"""Oddities are remarked on, in words, and usual settings are not."""

from __future__ import annotations

import pytest

from federation.remarks import remarks, remarks_on_resuming
from federation.settings import Scalar, defaults, parse


def of(**changes: Scalar) -> list[str]:
    return remarks(parse({**defaults(), **{key.replace("_", "-"): value for key, value in changes.items()}}))


def test_the_defaults_are_usual() -> None:
    assert of() == []


def test_a_run_that_trains_nothing_is_remarked_on() -> None:
    (line,) = of(rounds=0)
    assert "nothing is trained" in line
    assert of(rounds=0, final_local_epochs=4) == []


@pytest.mark.parametrize(
    ("changes", "key", "why"),
    [
        ({"warmup_rounds": 3}, "warmup-rounds", "ratio is a number"),
        ({"ratio": 0.25, "layers": "1"}, "ratio", "layers are named"),
        ({"score_order": "lowest", "layers": "all"}, "score-order", "layers are named"),
        ({"max_lost_share": 0.1, "drift_correction": "server"}, "max-lost-share", "device"),
        ({"server_momentum": 0.9, "server_optimizer": "none"}, "server-momentum", "none"),
        ({"server_second_momentum": 0.9}, "server-second-momentum", "neither adam nor yogi"),
        ({"server_adaptivity": 0.1}, "server-adaptivity", "adaptive"),
        ({"alpha": 1.0, "partition": "iid"}, "alpha", 'not "label-skew"'),
        ({"alpha": 1.0, "partition": "column", "partition-column": "user"}, "alpha", 'not "label-skew"'),
        ({"control_precision": "int8", "drift_correction": "server"}, "control-precision", "device"),
        ({"error_feedback": False}, "error-feedback", "int8"),
        ({"error_feedback": False, "precision": "int8", "update_precision": "float16"}, "error-feedback", "int8"),
        ({"label_loss": "label-words", "head": "linear"}, "label-loss", "no label words"),
        ({"weight_decay": 0.1, "device_optimizer": "sgd"}, "weight-decay", "sgd"),
        ({"prompt_init": "vocabulary", "prompt_init_std": 0.1}, "prompt-init-std", "nothing that is tuned is drawn"),
        ({"tuned": "lora", "prompt_init_std": 0.1}, "prompt-init-std", "nothing that is tuned is drawn"),
        ({"tuned": "adapter", "prompt_init": "vocabulary"}, "prompt-init", "no prompt of its own"),
        ({"tuned": "lora", "prompt_tokens": 5}, "prompt-tokens", "there is no prompt"),
        ({"prompt_layer": 2}, "prompt-layer", "late-prompts"),
        ({"prompt_sources": "/a"}, "prompt-sources", "mixed-prompts"),
        ({"tuned": "lora", "bottleneck": 8}, "bottleneck", "has none"),
        ({"tuned": "adapter", "lora_rank": 4}, "lora-rank", "lora"),
        ({"lora_alpha": 4.0}, "lora-alpha", "lora"),
        ({"lora_targets": "query"}, "lora-targets", "lora"),
        ({"lora_train": "B"}, "lora-train", "lora"),
        ({"lora_travels": "A"}, "lora-travels", "lora"),
        ({"score": "perturbation", "layers": "1"}, "score", "layers are named"),
        ({"perturbation": 0.1}, "perturbation", "score is not"),
        ({"perturbation_examples": 8}, "perturbation-examples", "score is not"),
        ({"score_batches": 8, "score": "perturbation"}, "score-batches", "score is not"),
        ({"curriculum_order": "hard"}, "curriculum-order", "no curriculum"),
        ({"curriculum_start": 0.5}, "curriculum-start", "no curriculum"),
        ({"curriculum_full": 0.5}, "curriculum-full", "no curriculum"),
        ({"fisher_momentum": 0.5}, "fisher-momentum", "all parameters are updated"),
        ({"fisher_batches": 2}, "fisher-batches", "all parameters are updated"),
        ({"tuned": "lora", "update_share": 0.5, "layers": "all"}, "update-share", "nothing is tuned outside"),
        (
            {"tuned": "lora", "update_share": 0.5, "unselected_prompts": "none"},
            "update-share",
            "nothing is tuned outside",
        ),
    ],
)
def test_a_changed_value_without_effect_is_named(changes: dict[str, Scalar], key: str, why: str) -> None:
    (line,) = of(**changes)
    assert line.startswith(f"{key} = ")
    assert "has no effect" in line
    assert why in line


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup_rounds": 3, "ratio": "eigengap"},
        {"drift_correction": "device", "max_lost_share": 0.1},
        {"error_feedback": False, "update_precision": "int8"},
        {"drift_correction": "device", "control_precision": "int8"},
        {"server_momentum": 0.9},
        {"server_ema": 0.9, "rounds": 30},
        {"tuned": "lora", "lora_rank": 4, "lora_alpha": 8.0, "lora_targets": "query"},
        {"tuned": "adapter", "bottleneck": 8, "prompt_init_std": 0.1},
        {"prompt_init": "vocabulary", "prompt_tokens": 5},
        {
            "server_optimizer": "adam",
            "server_learning_rate": 0.01,
            "server_second_momentum": 0.9,
            "server_adaptivity": 0.1,
        },
        {"server_optimizer": "none"},
        {"alpha": 1.0},
        {"score": "perturbation", "perturbation": 0.1, "perturbation_examples": 8},
        {"curriculum": "exp", "curriculum_order": "short", "curriculum_start": 0.5, "curriculum_full": 0.5},
        {"tuned": "lora", "update_share": 0.5, "fisher_momentum": 0.5, "fisher_batches": 2},
        {"tuned": "lora", "update_share": "plateau", "curvature_steps": 10, "curvature_examples": 4},
        {"tuned": "lora", "lora_train": "B"},
        {"tuned": "lora", "lora_travels": "A"},
    ],
)
def test_one_with_an_effect_is_not(changes: dict[str, Scalar]) -> None:
    assert of(**changes) == []


@pytest.mark.parametrize("optimizer", ["adam", "yogi", "adagrad"])
def test_plain_averagings_server_learning_rate_is_too_much_for_an_adaptive_optimizer(optimizer: str) -> None:
    (line,) = of(server_optimizer=optimizer)
    assert "server-learning-rate = 1" in line
    assert "0.001 to 0.1" in line


@pytest.mark.parametrize(("decay", "rounds", "told"), [(0.95, 20, False), (0.95, 19, True), (0.999, 100, True)])
def test_an_average_over_more_than_the_whole_run_is_remarked_on(decay: float, rounds: int, told: bool) -> None:
    lines = of(server_ema=decay, rounds=rounds)
    assert [line.startswith(f"server-ema = {decay:g} averages about the last") for line in lines] == [True] * told


def test_a_curriculum_that_other_rounds_set_back_is_remarked_on() -> None:
    """linear from 0.6: after 10 rounds of 10 all batches; round 11 of 25 is at half of the way."""
    settings = parse({**defaults(), "curriculum": "linear", "rounds": 25})
    (line,) = remarks_on_resuming(settings, 10, 10)
    assert line.startswith("rounds = 25 was 10, and the curriculum's pace is of the rounds: round 11 sees 80% of")
    assert "after 100% in round 10" in line
    assert remarks_on_resuming(settings, 50, 1) != []


@pytest.mark.parametrize(
    ("changes", "rounds", "done"),
    [
        ({"curriculum": "linear", "rounds": 25}, 25, 10),
        ({"curriculum": "linear", "rounds": 25}, 10, 0),
        ({"curriculum": "linear", "curriculum-start": 1.0, "rounds": 25}, 10, 10),
        ({"rounds": 25}, 10, 10),
    ],
)
def test_one_that_goes_on_at_its_pace_is_not(changes: dict[str, Scalar], rounds: int, done: int) -> None:
    assert remarks_on_resuming(parse({**defaults(), **changes}), rounds, done) == []

"""What an estimate of the ratio depends on is in the key of its cache; tests/server_app/test_ratio_phase.py holds the rest."""

from __future__ import annotations

import pytest

from federation.settings import defaults
from server_app.ratio_phase import cache_key

MATTERS = (
    *("seed", "model", "dtype", "head", "prompt-tokens", "prompt-init-std", "backbone-dropout"),
    *("tuned", "prompt-init", "bottleneck", "lora-rank", "lora-alpha", "lora-targets"),
    *("curriculum", "curriculum-order", "curriculum-start", "curriculum-full"),
    *("dataset", "text-column", "label-column", "labels", "train-examples", "max-length"),
    *("clients", "partition", "alpha", "clients-per-round"),
    *(
        "local-epochs",
        "batch-size",
        "learning-rate",
        "device-optimizer",
        "weight-decay",
        "clip-norm",
        "restart-moments",
    ),
    *("precision", "model-precision", "update-precision", "error-feedback"),
    *("ratio", "warmup-rounds", "curvature-steps", "curvature-probes", "curvature-examples"),
)


@pytest.mark.parametrize("setting", MATTERS)
def test_what_moves_the_warm_up_or_the_estimate_is_in_the_key(setting: str) -> None:
    flat = defaults()
    assert cache_key({**flat, setting: "another"}, {}, []) != cache_key(flat, {}, [])


@pytest.mark.parametrize("curriculum", ["none", "linear"])
def test_rounds_matter_by_the_point_that_the_warm_up_came_to_alone(curriculum: str) -> None:
    """They may have been others when it began."""
    flat = {**defaults(), "curriculum": curriculum}
    assert cache_key({**flat, "rounds": 7}, {}, []) == cache_key(flat, {}, [])
    assert cache_key(flat, {"point": "a"}, []) != cache_key(flat, {"point": "b"}, [])

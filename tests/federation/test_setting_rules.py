from __future__ import annotations

import re

import pytest

from federation.settings import Scalar, defaults, parse
from tests.refusals import refused

RELEASED: dict[str, Scalar] = {
    "variant": "released",
    "drift-correction": "none",
    "server-optimizer": "none",
    "restart-moments": False,
}
TOGETHER: list[tuple[dict[str, Scalar], str, str]] = [
    ({"clients": 5, "clients-per-round": 6}, "clients-per-round", r"only 5 clients.*Lower it"),
    ({"validation-fraction": 0.5, "test-fraction": 0.5}, "validation-fraction", r"test-fraction = 0\.5.*less than 1"),
    (
        {"device-second-moment": "shared", "device-optimizer": "sgd"},
        "device-second-moment",
        r"sgd has no second moment.*device-optimizer to adam",
    ),
    (
        {"restart-moments": False, "device-optimizer": "sgd"},
        "restart-moments",
        r"sgd has no moments to go on with.*restart-moments to true",
    ),
    ({"ratio": "eigengap", "layers": "9,8"}, "ratio", r'nothing to estimate with layers = "9,8".*layers to auto'),
    ({"ratio": "plateau", "layers": "all"}, "ratio", r'nothing to estimate with layers = "all".*ratio a number'),
    (
        {"warmup-rounds": 20, "ratio": "eigengap", "rounds": 20},
        "warmup-rounds",
        r"no round is left.*Lower it, or raise rounds",
    ),
    ({"autocast": "bfloat16", "ratio": "plateau"}, "autocast", r"need float32.*Set autocast to none"),
    ({"quantisation": "int4", "ratio": "eigengap"}, "quantisation", r"need float32.*Set quantisation to none"),
    ({"clients-together": 2, "backbone-dropout": 0.1}, "clients-together", r"depend on its company"),
    ({"dtype": "bfloat16", "ratio": "eigengap"}, "dtype", r"second derivatives, which need float32.*ratio a number"),
    (
        {"variant": "released"},
        "variant",
        r'drift-correction = "server" excludes.*drift-correction = "none", server-optimizer = "none", restart-moments = false',
    ),
    ({**RELEASED, "variant": "released-aliased", "step-normalised": True}, "variant", r"Set step-normalised = false"),
    (
        {"lora-train": "B", "lora-travels": "A", "tuned": "lora"},
        "lora-travels",
        r"nothing that is trained would travel",
    ),
    ({"update-share": 0.5}, "update-share", r'tuned = "deep-prompts" has none.*tuned to "lora"'),
    ({"restart-moments": False, "tuned": "lora", "update-share": 0.5}, "restart-moments", r"do not fit the next"),
    ({"restart-moments": False, "tuned": "lora", "lora-train": "B"}, "restart-moments", r"do not fit the next"),
    ({"lora-travels": "A", "tuned": "lora", "ratio": "eigengap"}, "lora-travels", r"needs second derivatives in both"),
    ({"lora-train": "B", "tuned": "lora", "ratio": "plateau"}, "lora-train", r"needs second derivatives in both"),
    ({"lora-train": "B", "tuned": "lora", "update-share": "plateau"}, "lora-train", r"or give update-share a number"),
    ({"update-share": "eigengap"}, "update-share", r'tuned = "deep-prompts" has none'),
    (
        {"dtype": "bfloat16", "tuned": "lora", "update-share": "eigengap"},
        "dtype",
        r"update-share = \"eigengap\" takes second.*or give update-share a number",
    ),
    (
        {"curriculum-full": 0.9, "curriculum": "exp", "rounds": 3},
        "curriculum-full",
        r"Set it to 0\.66 or less, or raise",
    ),
    (
        {"curriculum-full": 0.8, "curriculum": "sqrt", "rounds": 1},
        "curriculum-full",
        r"curriculum-start to 1, or raise",
    ),
    ({"step-normalised": True, "curriculum": "linear"}, "step-normalised", r"steps from round to round"),
    (
        {"labels": "", "partition": "own", "score": "perturbation"},
        "labels",
        r"takes all classes beforehand.*Name them, or a task; or set score",
    ),
    ({**RELEASED, "proximal": 0.1}, "variant", r"proximal = 0.1 excludes.*Set proximal = 0"),
    ({**RELEASED, "device-second-moment": "shared"}, "variant", r'Set device-second-moment = "local"'),
]


@pytest.mark.parametrize(("changes", "key", "message"), TOGETHER, ids=[",".join(changes) for changes, _, _ in TOGETHER])
def test_contradictions_are_refused(changes: dict[str, Scalar], key: str, message: str) -> None:
    error = refused({**defaults(), **changes})
    assert (error.key, error.value) == (key, changes[key])
    assert re.search(message, str(error))


@pytest.mark.parametrize(
    "changes",
    [
        {"clients": 5, "clients-per-round": 5},
        {"validation-fraction": 0.5, "test-fraction": 0.49},
        {"device-second-moment": "shared"},
        {"device-second-moment": "shared", "restart-moments": False},
        {"ratio": "eigengap", "warmup-rounds": 19, "rounds": 20},
        {"warmup-rounds": 20, "rounds": 5},
        {"dtype": "bfloat16"},
        {"curriculum": "exp", "curriculum-full": 0.66, "rounds": 3},
        {"curriculum": "linear", "rounds": 0},
        {"curriculum": "linear", "curriculum-start": 1.0, "rounds": 1},
        {"curriculum": "linear", "rounds": 5},
        {"tuned": "lora", "lora-train": "B"},
        {"tuned": "lora", "lora-travels": "A", "restart-moments": False},
        {"tuned": "lora", "ratio": "eigengap", "update-share": 0.5},
        {"tuned": "lora", "lora-travels": "A", "update-share": "plateau", "layers": "3,4"},
        {"partition": "own", "score": "perturbation", "labels": "a,b"},
        {"partition": "own", "score": "perturbation", "task": "sst2"},
        {"partition": "own", "score": "perturbation", "layers": "3,4"},
        {"partition": "own"},
        {"score": "perturbation"},
        RELEASED,
        {**RELEASED, "variant": "released-aliased", "ratio": "plateau"},
    ],
)
def test_what_just_fits_together_is_taken(changes: dict[str, Scalar]) -> None:
    parse({**defaults(), **changes})

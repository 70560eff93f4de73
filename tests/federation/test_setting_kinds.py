from __future__ import annotations

import pytest

from federation.settings import Scalar, Settings, defaults, layer_list, parse
from tests.refusals import refused


def with_(key: str, value: Scalar) -> Settings:
    return parse({**defaults(), key: value})


BAD: list[tuple[str, Scalar, str]] = [
    ("ratio", 0.0, "above 0 and at most 1"),
    ("ratio", 1.01, "above 0 and at most 1"),
    ("ratio", "half", "above 0 and at most 1, or one of eigengap, plateau"),
    ("ratio", True, "above 0 and at most 1"),
    ("learning-rate", -0.01, "above 0"),
    ("learning-rate", 0.0, "above 0"),
    ("learning-rate", float("nan"), "above 0"),
    ("learning-rate", float("inf"), "above 0"),
    ("server-learning-rate", 0.0, "above 0"),
    ("server-momentum", 1.0, "from 0 to below 1"),
    ("server-momentum", -0.1, "from 0 to below 1"),
    ("backbone-dropout", 1.0, "from 0 to below 1"),
    ("weight-decay", -1e-9, "at least 0"),
    ("clip-norm", 0.0, "above 0"),
    ("prompt-init", "zeros", "normal, vocabulary"),
    ("prompt-init-std", -0.02, "at least 0"),
    ("prompt-layer", -2, "a layer, or -1 for the middle one"),
    ("prompt-sources", "/runs/a,runs/b", "absolute paths with commas between them"),
    ("bottleneck", 0, "at least 1"),
    ("lora-rank", 0, "at least 1"),
    ("lora-alpha", 0.0, "above 0"),
    ("lora-train", "A", "one of both, B"),
    ("lora-travels", "B", "one of both, A"),
    ("score", "spectrum", "one of similarity, perturbation"),
    ("perturbation", 0.0, "above 0"),
    ("perturbation-examples", 0, "at least 1"),
    ("update-share", 0.0, "above 0 and at most 1"),
    ("update-share", 1.01, "above 0 and at most 1"),
    ("update-share", "auto", "or one of eigengap, plateau"),
    ("fisher-momentum", 1.0, "from 0 to below 1"),
    ("fisher-batches", 0, "at least 1"),
    ("curriculum", "cosine", "one of none, linear, sqrt, exp"),
    ("curriculum-order", "fisher", "one of easy, hard, short, random"),
    ("curriculum-start", 1.1, "above 0 and at most 1"),
    ("curriculum-start", 0.0, "above 0 and at most 1"),
    ("curriculum-full", 1.5, "above 0 and at most 1"),
    ("hidden-cache-mb", -1, "at least 0"),
    ("hidden-cache-disk-mb", -1, "at least 0"),
    ("hidden-cache-dtype", "int8", "float32, bfloat16, float16"),
    ("clients-together", 0, "at least 1"),
    ("alpha", 0.0, "above 0"),
    ("max-lost-share", 1.1, "from 0 to 1"),
    ("max-lost-share", -0.1, "from 0 to 1"),
    ("round-timeout-s", 0.0, "above 0"),
    ("validation-fraction", 0.0, "between 0 and 1"),
    ("test-fraction", 1.0, "between 0 and 1"),
    ("clients", 0, "whole number of at least 1"),
    ("clients", 10.0, "whole number"),
    ("clients", True, "whole number"),
    ("clients", "100", "whole number"),
    ("clients-per-round", 0, "at least 1"),
    ("rounds", -1, "at least 0"),
    ("final-local-epochs", -1, "at least 0"),
    ("checkpoints", 0, "at least 1"),
    ("over-sampling", -1, "at least 0"),
    ("quorum", 0, "at least 1"),
    ("quorum-wait-s", -1.0, "at least 0"),
    ("norm-limit", 1.0, "0 or a number above 1"),
    ("strikes", -1, "at least 0"),
    ("message-limit-mb", -1, "at least 0"),
    ("resume", "runs/one", "absolute path"),
    ("seed", -1, "at least 0"),
    ("tuned", "suffix", "one of deep-prompts"),
    ("prompt-tokens", 0, "at least 1"),
    ("score-batches", 0, "at least 1"),
    ("local-epochs", 0, "at least 1"),
    ("batch-size", 0, "at least 1"),
    ("metric", "recall", "one of auto, accuracy, matthews, f1, accuracy-and-f1"),
    ("evaluation-batch-size", 0, "at least 1"),
    ("threads", 0, "at least 1"),
    ("max-length", -1, "at least 0"),
    ("train-examples", -1, "at least 0"),
    ("test-examples", -5, "at least 0"),
    ("test-every", -1, "at least 0"),
    ("evaluate-every", -1, "at least 0"),
    ("layers", "", "auto, all"),
    ("task", "triage.yaml", "absolute path of a .yaml file"),
    ("task", "tasks/triage", "absolute path of a .yaml file"),
    ("task", "~/triage.yml", "absolute path of a .yaml file"),
    ("partition", "hospital", "label-skew, iid, column"),
    ("labels", "negative,positive,", "none of them empty"),
    ("labels", "negative, ,positive", "none of them empty"),
    ("labels", " ", "none of them empty"),
    ("layers", "-1", "auto, all"),
    ("layers", "3,,4", "auto, all"),
    ("layers", "3;4", "auto, all"),
    ("layers", "every", "auto, all"),
    ("layers", 2.5, "auto, all"),
    ("layers", False, "auto, all"),
    ("dtype", "float64", "float32, bfloat16, float16"),
    ("head", "mlp", "auto, linear, model, masked-lm, causal-lm"),
    ("label-loss", "words", "vocabulary, label-words"),
    ("autocast", "float32", "none, bfloat16, float16"),
    ("quantisation", "int2", "none, int8, int4"),
    ("gradient-checkpointing", 1, "true or false"),
    ("unpadding", "auto", "true or false"),
    ("own-learning-rate", -0.1, "at least 0"),
    ("partition", "Label-skew", "label-skew, iid"),
    ("score-order", "best", "highest, lowest, random"),
    ("unselected-prompts", "", "local, none"),
    ("device-optimizer", "adamw", "adam, sgd"),
    ("device-second-moment", "global", "local, shared"),
    ("drift-correction", "client", "none, server, device"),
    ("server-optimizer", "adamw", "momentum, heavy-ball, adam, yogi, adagrad, none"),
    ("variant", "published", "fedpeptao, released, released-aliased"),
    ("step-normalised", 1, "true or false"),
    ("step-normalised", "true", "true or false"),
    ("restart-moments", 0.0, "true or false"),
    ("server-second-momentum", 1.0, "from 0 to below 1"),
    ("server-ema", 1.0, "from 0 to below 1"),
    ("server-ema", -0.1, "from 0 to below 1"),
    ("server-adaptivity", 0.0, "above 0"),
    ("proximal", -0.1, "at least 0"),
    ("device-momentum", 1.0, "below 1"),
    ("label-prior", "uniform", "one of auto, none, client"),
    ("personal-head", 1, "true or false"),
    ("ditto", -1.0, "at least 0"),
    ("warmup-rounds", 0, "at least 1"),
    ("curvature-steps", 3, "at least 4"),
    ("curvature-probes", 0, "at least 1"),
    ("curvature-examples", 0, "at least 1"),
    ("precision", "int4", "float32, float16, int8"),
    ("precision", "", "float32, float16, int8"),
    ("model-precision", "bfloat16", "float32, float16, int8, or nothing"),
    ("control-precision", "int4", "float32, float16, int8, or nothing"),
    ("update-precision", "INT8", "float32, float16, int8, or nothing"),
    ("error-feedback", "int8", "true or false"),
    ("model", " ", "not empty"),
    ("dataset", "", "not empty"),
    ("text-column", "", "not empty"),
    ("label-column", "", "not empty"),
    ("validation", "data/valid.jsonl", "absolute path"),
    ("test", "./test.jsonl", "absolute path"),
    ("state-disk-mb", -1, "at least 0"),
    ("min-clients", -1, "at least 0"),
    ("runs-dir", "~/runs", "absolute path"),
    ("run-name", "../elsewhere", "without slashes"),
    ("run-name", "..", "without slashes"),
    ("run-name", 3, "without slashes"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD, ids=[f"{key}={value!r}" for key, value, _ in BAD])
def test_a_bad_value_names_key_value_and_what_would_be_right(key: str, value: Scalar, expected: str) -> None:
    error = refused({**defaults(), key: value})
    assert error.key == key
    assert repr(error.value) == repr(value)
    assert expected in error.problem
    assert error.mend
    assert str(error).startswith(f"{key} = {value!r}: it has to be ")


def test_every_key_refuses_something() -> None:
    """A key whose values are never checked would not be in the list above."""
    takes_any_text = {"device", "text-pair-column", "partition-column", "lora-targets"}
    assert {key for key, _, _ in BAD} | takes_any_text == set(defaults())
    for key in takes_any_text:
        assert refused({**defaults(), key: 3.5}).key == key


GOOD: list[tuple[str, Scalar]] = [
    ("ratio", 1.0),
    ("ratio", 1),
    ("ratio", "eigengap"),
    ("ratio", "plateau"),
    ("server-second-momentum", 0.0),
    ("server-ema", 0.999),
    ("proximal", 0.0),
    ("server-momentum", 0.0),
    ("server-momentum", 0),
    ("max-lost-share", 1.0),
    ("weight-decay", 0.0),
    ("layers", "all"),
    ("layers", "0"),
    ("layers", " 9, 8,11"),
    ("clients-per-round", 100),
    ("test-every", 0),
    ("seed", 0),
    ("runs-dir", "/data/runs"),
    ("run-name", "mine"),
]


@pytest.mark.parametrize(("key", "value"), GOOD, ids=[f"{key}={value!r}" for key, value in GOOD])
def test_the_last_value_that_is_right_is_taken(key: str, value: Scalar) -> None:
    assert with_(key, value).flat()[key] == value


def test_whole_numbers_pass_for_numbers_and_become_floats() -> None:
    rate = with_("learning-rate", 1).local.learning_rate
    assert (rate, type(rate)) == (1.0, float)


def test_one_layer_or_label_may_come_without_quotes() -> None:
    """`--run-config 'layers=3'` reaches us as a number."""
    assert with_("layers", 3).selection.layers == "3"
    assert with_("labels", 7).data.labels == "7"


@pytest.mark.parametrize(
    ("text", "layers"), [("3,4,5", (3, 4, 5)), ("9, 8,11", (8, 9, 11)), ("2,2,0", (0, 2)), ("0", (0,))]
)
def test_layers_by_hand_ascend_without_repeats(text: str, layers: tuple[int, ...]) -> None:
    assert layer_list(text) == layers


@pytest.mark.parametrize("text", ["²", "3,¹"])
def test_digits_that_are_no_numbers_are_refused(text: str) -> None:
    assert refused({**defaults(), "layers": text}).key == "layers"

"""What a server may not ask for, and a message that no settings allow is an error before anything is built for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from client_app import checks
from federation.messages import CURVATURE, EVALUATE, TRAIN, Ask, AskHeader, MessageError
from federation.settings import Settings, parse
from tests.small_runs import Flat

MakeFlat = Callable[..., Flat]
HEADER = AskHeader("run", 3, ("a", "b", "c"), (1,), (0, 2), (2, 0), 0, False)


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat())


def refusal(settings: Settings, kind: str = TRAIN, **changes: Any) -> str:
    with pytest.raises(MessageError) as caught:
        checks.check_header(settings, replace(HEADER, **changes), kind, (0, 2, 4))
    return str(caught.value)


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, CURVATURE])
def test_a_good_question_passes(settings: Settings, kind: str) -> None:
    checks.check_header(settings, HEADER, kind, (0, 2, 4))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"clients": (0, 1)}, r"clients [1] do not live on this node"),
        ({"clients": (2, 2)}, "a client is named twice"),
        ({"round": 0, "accepted": (0, 0)}, "round 0 and epoch 0"),
        ({"round": -1}, "round -1 and epoch 0"),
        ({"epoch": -1}, "round 3 and epoch -1"),
        ({"accepted": (3, 0)}, "round 3 cannot be accepted when round 3 is asked for"),
        ({"accepted": (0, -1)}, "round -1 cannot be accepted"),
        ({"layers": ()}, "layers [] of a model with layers 0 to 1"),
        ({"layers": (2,)}, "layers [2] of a model"),
        ({"layers": (-1,)}, "layers [-1] of a model"),
        ({"layers": (1, 1)}, "layers [1, 1] of a model"),
        ({"layers": (0, 1)}, "are not a selection by layers = 'auto', ratio = 0.5"),
        ({"warm_up": True}, "these settings have no warm-up"),
    ],
)
def test_a_question_that_the_settings_do_not_allow(settings: Settings, changes: dict[str, Any], why: str) -> None:
    assert why in refusal(settings, **changes)


def test_an_evaluation_may_follow_the_round_that_was_accepted(settings: Settings) -> None:
    checks.check_header(settings, replace(HEADER, round=2, accepted=(2, 1)), EVALUATE, (0, 2))
    checks.check_header(settings, replace(HEADER, round=0, accepted=(0, 0)), EVALUATE, (0, 2))
    assert "cannot be accepted" in refusal(settings, EVALUATE, round=1)


@pytest.mark.parametrize(
    ("selection", "layers", "warm_up", "passes"),
    [
        ({"layers": "0"}, (0,), False, True),
        ({"layers": "0"}, (1,), False, False),
        ({"layers": "all"}, (0, 1), False, True),
        ({"layers": "all"}, (1,), False, False),
        ({"ratio": 1.0}, (0, 1), False, True),
        ({"ratio": 1.0}, (0,), False, False),
        ({"ratio": "plateau", "warmup_rounds": 1}, (0,), False, True),
        ({"ratio": "plateau", "warmup_rounds": 1}, (0, 1), True, True),
        ({"ratio": "plateau", "warmup_rounds": 1}, (0,), True, False),
    ],
)
def test_layers_follow_from_the_settings(
    make_flat: MakeFlat, selection: dict[str, Any], layers: tuple[int, ...], warm_up: bool, passes: bool
) -> None:
    own = parse(make_flat(**selection))
    if passes:
        checks.check_header(own, replace(HEADER, layers=layers, warm_up=warm_up), TRAIN, (0, 2))
    else:
        assert "are not a selection" in refusal(own, layers=layers, warm_up=warm_up)


def bringing(size: int) -> RecordDict:
    return RecordDict({"shared": ArrayRecord({"x": Array(np.zeros(size, np.int8))})})


def labels_refused(settings: Settings, labels: tuple[str, ...], brought: int = 10**6) -> str:
    with pytest.raises(MessageError) as caught:
        checks.check_labels(settings, replace(HEADER, labels=labels), bringing(brought))
    return str(caught.value)


def test_labels(settings: Settings, make_flat: MakeFlat) -> None:
    checks.check_labels(settings, HEADER, bringing(10**6))
    assert "1 labels" in labels_refused(settings, ("a",))
    assert "3 labels, 2 of them different" in labels_refused(settings, ("a", "b", "a"))
    named = parse(make_flat(labels="animals,colours,verbs"))
    assert "these settings have animals" in labels_refused(named, ("animals", "verbs"))
    checks.check_labels(named, replace(HEADER, labels=("animals", "colours", "verbs")), bringing(0))


def test_a_list_of_labels_is_bounded_by_the_head_that_the_message_brings(settings: Settings) -> None:
    """Else a few bytes of labels would cost the memory of as many rows of hidden size."""
    many = tuple(str(number) for number in range(10**5))
    assert "too few for a head of so many" in labels_refused(settings, many, 6 * 10**5)
    hidden = 32
    checks.check_labels(settings, replace(HEADER, labels=many[:100]), bringing(100 * hidden))
    assert "too few" in labels_refused(settings, many[:100], 100 * hidden - 1 - 200)


def test_no_model_is_built_for_too_many_labels(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.client_app.test_app import answer, ask_content

    flat = make_flat()
    content = ask_content(flat, (0,))
    content["round"]["labels"] = [str(number) for number in range(10**5)]
    monkeypatch.setattr("client_app.host.travelling_layout", lambda *given: pytest.fail("a head is made"))
    assert "too few for a head" in str(answer(flat, content, 1000).error.reason)
    assert not list(tmp_path.rglob("*.safetensors"))


def ask(**changes: Any) -> Ask:
    return Ask(**{**vars(HEADER), "shared": torch.zeros(3), "control": torch.zeros(3), **changes})


def test_what_travels_beside_x(settings: Settings, make_flat: MakeFlat) -> None:
    checks.check_parts(settings, ask(), TRAIN)
    checks.check_parts(settings, ask(control=None), EVALUATE)
    with pytest.raises(MessageError, match="there is no control variate"):
        checks.check_parts(settings, ask(control=None), TRAIN)
    with pytest.raises(MessageError, match="there is a control variate"):
        checks.check_parts(parse(make_flat(drift_correction="none")), ask(), TRAIN)
    with pytest.raises(MessageError, match="there are second moments"):
        checks.check_parts(settings, ask(second_moments=torch.ones(1)), TRAIN)
    shared = parse(make_flat(device_second_moment="shared"))
    checks.check_parts(shared, ask(second_moments=torch.ones(1)), TRAIN)
    checks.check_parts(shared, ask(), TRAIN)  # there is none before the first update


def test_a_message_over_the_limit_is_refused_before_it_is_read(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.client_app.test_app import answer, ask_content

    flat = make_flat()
    content = ask_content(flat, (0,))
    content["shared"]["prompt.1"] = Array("float32", (1,), "numpy.ndarray", bytes(5 * 2**20))
    monkeypatch.setattr("federation.records.decode_ask", lambda *given: pytest.fail("it is read"))
    assert "message-limit-mb" in str(answer(flat, content, 1000).error.reason)
    content = ask_content({**flat, "message-limit-mb": 0}, (0,))
    content["clients"]["ids"], content["clients"]["accepted"] = [0], [0]
    content["shared"]["prompt.1"] = Array("float32", (1,), "numpy.ndarray", bytes(2**20))
    assert "at most 1,048,576" in str(answer({**flat, "message-limit-mb": 1}, content, 1000).error.reason)

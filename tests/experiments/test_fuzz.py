"""Some hundred cases of the fuzz, the same each time; that it sees what it looks for; and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from experiments import fuzz, fuzz_ends
from experiments.fuzz_ends import Receiver, as_bytes
from experiments.fuzz_mutations import MUTATIONS
from federation import arrays
from strategies import shell

Ends = dict[str, tuple[bytes, Receiver]]
CASES = 400


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_app.plots.draw", lambda *given, **named: None)
        return fuzz_ends.receivers(tmp_path_factory.mktemp("fuzz"))


def first(cases: int) -> Callable[[int], bool]:
    return lambda done: done < cases


def test_every_kind_of_message_is_taken_as_it_was_sent(ends: Ends) -> None:
    assert len(ends) == 8 + 6  # those with arrays in int8 too
    for real, receive in ends.values():
        assert receive(fuzz_ends.parsed(real)) == "taken"


def test_what_is_mutated_is_taken_or_refused(ends: Ends) -> None:
    found = fuzz.fuzz(ends, 1, first(CASES))
    assert found.findings == []
    assert (found.cases, sum(sum(counts.values()) for counts in found.results.values())) == (CASES, CASES)
    refused = sum(n for counts in found.results.values() for what, n in counts.items() if what.startswith("refused"))
    assert refused > CASES / 2
    assert found.longest_s < 2
    assert len(found.reasons) > 20


@pytest.mark.parametrize(
    ("owner", "protection", "instead"),
    [
        (arrays, "_checked", lambda array, dtype, shape: array.numpy()),
        (shell, "objection", lambda reply, *rest: "x" * (reply.examples * 10**6)),
    ],
)
def test_it_sees_a_protection_that_is_gone(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, owner: object, protection: str, instead: object
) -> None:
    """A crash, or memory out of proportion."""
    monkeypatch.setattr(owner, protection, instead)
    assert fuzz.fuzz(ends, 1, first(160)).findings


def test_it_sees_a_hang(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(content: RecordDict) -> str:
        while content is not None:
            pass
        return "taken"

    monkeypatch.setattr(fuzz, "HANG_S", 0.05)
    real = next(iter(ends.values()))[0]
    monkeypatch.setattr(fuzz.signal, "setitimer", _only_when_armed(fuzz.signal.setitimer))
    quick = lambda content: "taken" if not _Armed.on else slow(content)  # noqa: E731
    assert "HangError" in fuzz.fuzz({"one": (real, quick)}, 0, first(1)).findings[0]["error"]


class _Armed:
    on = False


def _only_when_armed(real: Callable[..., object]) -> Callable[..., object]:
    def armed(which: int, seconds: float) -> object:
        _Armed.on = seconds > 0
        return real(which, seconds)

    return armed


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_mutation_changes_a_message(mutation: Callable[[RecordDict, np.random.Generator], None]) -> None:
    def whole() -> RecordDict:
        array = Array(np.arange(6, dtype=np.float32))
        return RecordDict({"shared": ArrayRecord({"x": array}), "client.0": ConfigRecord({"a": 1, "b": [2, 3]})})

    changed = 0
    for seed in range(30):
        content = whole()
        mutation(content, np.random.default_rng(seed))
        changed += as_bytes(content) != as_bytes(whole())
        mutation(RecordDict(), np.random.default_rng(seed))  # nothing to change is no error
    assert changed > 15


def test_the_command_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Ends) -> None:
    monkeypatch.setattr(fuzz, "receivers", lambda folder: ends)
    monkeypatch.setattr("sys.argv", ["fuzz", "--minutes", "0.01", "--out", str(tmp_path / "fuzz.json")])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 0
    assert '"largest_allocation_bytes"' in (tmp_path / "fuzz.json").read_text()

"""The ratio phase in small whole runs whose clients give canned spectra: who is asked, what counts, what is kept and left."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.serverapp import Grid

from client_app import host
from federation.grids import Exchange, count_bytes, exchanges
from federation.messages import Ask, CurvatureReply
from federation.settings import Scalar, Settings, parse
from fedpeptao.errors import InputError, RunError
from server_app import ratio_phase
from server_app.ratio_phase import WITHOUT_INFLUENCE, cache_key
from strategies.shell import SelectiveStrategy
from tests.small_runs import Flat, Ran, Watched, go

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
Answer = Callable[[Ask, int], CurvatureReply]
RATIOS = {0: 0.1, 1: 0.9, 2: 0.4, 3: 1.0, 4: 0.25}


def canned(ask: Ask, client: int) -> CurvatureReply:
    return CurvatureReply(
        client=client,
        round=ask.round,
        batch=8,
        parameters=384,
        ratio=RATIOS[client],
        found=client != 3,
        gaps_low=[] if client == 3 else [2.0],
        gaps_high=[] if client == 3 else [8.5],
        lipschitz=0.125,
        theta=[-1.0, 0.0, 1.5, 9.0],
        weight=[0.25] * 4,
        residual=[0.5] * 4,
        products=12,
        seconds=1.5,
        peak_bytes=10**9 + client,
    )


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Makes all clients answer so; they count as asked."""

    def give(answer: Answer) -> None:
        def spectrum_of(settings: Settings, ask: Ask, client: int, *state: object) -> CurvatureReply:
            return answer(ask, client)

        monkeypatch.setattr("client_app.answering.spectrum_of", spectrum_of)

    give(canned)
    return give


@pytest.fixture
def flat(make_flat: MakeFlat, answering: object) -> Flat:
    return make_flat(ratio="eigengap", warmup_rounds=2, rounds=3, prompt_tokens=1, run_name="first")


def spectrum(ran: Ran) -> dict[str, Any]:
    return dict(json.loads((ran.folder / "spectrum.json").read_text(encoding="utf8")))


def weighted(ran: Ran, clients: Iterable[int]) -> float:
    sizes = {client: ran.summary["clients"][str(client)]["examples"] for client in clients}
    return sum(n * RATIOS[client] for client, n in sizes.items()) / sum(sizes.values())


# -- who is asked, and what counts -------------------------------------------------------------------------


def test_the_clients_of_the_last_warm_up_round_are_asked_at_what_it_sent_out(flat: Flat) -> None:
    watched = Watched()
    ran = go(flat, client_app=watched)
    asked = watched.of("query.curvature")
    sent = [p for p in watched.of("train") if p.content.config_records["round"]["round"] == 2]
    assert {p.content["shared"].object_id for p in asked} == {p.content["shared"].object_id for p in sent}
    assert {name for p in asked for name in p.content} == {"shared", "round", "clients"}
    assert all(p.content.config_records["round"]["warm_up"] for p in asked)
    assert all(p.content.config_records["round"]["round"] == 2 for p in asked)
    clients = sorted(client for p in asked for client in p.content.config_records["clients"]["ids"])
    assert clients == sorted(ran.lines[2]["clients"])
    assert len(asked) <= 2  # one for each node


def test_a_client_whose_last_reply_was_not_accepted_is_not_asked(flat: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = host.train, []

    def train(settings: Settings, ask: Ask, client: int, *rest: Any) -> Any:
        if ask.round == 2 and not failed:
            failed.append(client)
            raise ValueError("tired")
        return real(settings, ask, client, *rest)

    monkeypatch.setattr(host, "train", train)
    ran = go(flat)
    answered = [one["client"] for one in spectrum(ran)["clients"]]
    assert answered == sorted(set(ran.lines[2]["clients"]) - set(failed))
    assert len(answered) == 2


def test_the_ratio_is_the_mean_weighted_by_examples(flat: Flat) -> None:
    ran = go(flat)
    clients = sorted(ran.lines[2]["clients"])
    assert ran.summary["ratio"]["ratio"] == pytest.approx(weighted(ran, clients), rel=1e-12)
    assert weighted(ran, clients) != pytest.approx(sum(RATIOS[c] for c in clients) / 3, rel=1e-3)
    assert [one["examples"] for one in spectrum(ran)["clients"]] == [
        ran.summary["clients"][str(c)]["examples"] for c in clients
    ]


def test_who_fails_or_does_not_answer_is_left_out_by_name(
    flat: Flat, answering: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch, shown: list[str]
) -> None:
    flat = {**flat, "clients-per-round": 5}

    def all_but_the_last(grid: Grid, messages: Iterable[Message], timeout_s: float) -> Iterator[Exchange]:
        yield from list(exchanges(grid, messages, timeout_s))[:-1]

    def tired(ask: Ask, client: int) -> CurvatureReply:
        if client == 1:
            raise ArithmeticError("no")
        return replace(canned(ask, client), round=1 if client == 2 else ask.round)

    answering(tired)
    monkeypatch.setattr(ratio_phase, "exchanges", all_but_the_last)
    ran = go(flat, nodes=5)
    text = "\n".join(shown)
    assert "client 1 is left out of the ratio: ArithmeticError: no" in text
    assert "client 2 is left out of the ratio: refused: it answers round 1" in text
    assert "is left out of the ratio: no answer within round-timeout-s" in text
    figures = spectrum(ran)
    (missing,) = figures["missing"]
    assert sorted(figures["failed"]) == ["1", "2"]
    assert ran.summary["ratio"]["ratio"] == pytest.approx(weighted(ran, {0, 3, 4} - {missing}))
    assert not (ran.folder.parent / ".curvature").exists()  # another run may hear from all


def test_without_any_answer_the_run_ends_with_the_first_reason(
    flat: Flat, answering: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ask: Ask, client: int) -> CurvatureReply:
        raise ValueError(f"a product is not finite at {client}")

    answering(broken)
    with pytest.raises(RunError, match=r"estimate the ratio: ValueError: a product is not finite at \d\. Give ratio a"):
        go(flat)
    monkeypatch.setattr(ratio_phase, "exchanges", lambda *given: [])
    with pytest.raises(RunError, match=r"no answer within round-timeout-s\. Give ratio a number"):
        go({**flat, "run-name": "second"})


def test_where_nobody_finds_a_gap_all_layers_travel_and_it_is_said(
    flat: Flat, answering: Callable[[Answer], None], shown: list[str]
) -> None:
    answering(lambda ask, client: replace(canned(ask, 3), client=client))
    ran = go(flat)
    assert ran.summary["layers"] == [0, 1]
    assert (ran.summary["ratio"]["ratio"], ran.summary["ratio"]["found"]) == (1.0, 0)
    assert any(line.startswith("No client found a gap in its spectrum, so that every layer travels") for line in shown)
    assert ran.summary["status"] == "completed"


# -- what is left ------------------------------------------------------------------------------------------


def test_what_is_left_behind(flat: Flat) -> None:
    watched = Watched()
    ran = go(flat, client_app=watched)
    figures, ratio = spectrum(ran), ran.summary["ratio"]
    passed = {
        way: sum((count_bytes(p.content) for p in watched.of("query.curvature", way)), Counter())
        for way in ("down", "up")
    }
    assert (figures["down_bytes"], figures["up_bytes"]) == (passed["down"].total(), passed["up"].total())
    assert ratio == {
        "estimator": "eigengap",
        "ratio": figures["ratio"],
        "found": sum(client != 3 for client in ran.lines[2]["clients"]),
        "clients": 3,
        "seconds": figures["seconds"],
        "peak_bytes": 10**9 + max(ran.lines[2]["clients"]),
        "bytes": figures["down_bytes"] + figures["up_bytes"],
        "from_cache": False,
    }
    assert figures["settings"] == {
        "warmup-rounds": 2,
        "curvature-steps": 50,
        "curvature-probes": flat["curvature-probes"],
        "curvature-examples": 8,
    }
    assert figures["round"] == 2
    assert 0 < figures["seconds"] < ran.summary["seconds"]
    one = figures["clients"][0]
    wanted = canned(replace_round(2), one["client"])
    assert {key: one[key] for key in vars(wanted)} == vars(wanted)
    trained = sum(count_bytes(p.content).total() for way in ("down", "up") for p in watched.of("train", way))
    assert ran.lines[-1]["cumulative_bytes"] == trained


def replace_round(server_round: int) -> Any:
    return type("Ask", (), {"round": server_round})()


def test_lines_of_the_warm_up_come_once_and_first(flat: Flat) -> None:
    """Also with a single round of it."""
    for rounds in (1, 2):
        ran = go({**flat, "warmup-rounds": rounds, "run-name": f"warm-{rounds}"})
        assert [line["round"] for line in ran.lines] == [0, 1, 2, 3]
        assert [line["warm_up"] for line in ran.lines[1:]] == [True] * rounds + [False] * (3 - rounds)


# -- the cache ---------------------------------------------------------------------------------------------


def questions(flat: Flat, **changes: Scalar) -> tuple[Ran, int]:
    """A run, and how many nodes it asked for spectra."""
    watched = Watched()
    ran = go({**flat, **changes}, client_app=watched)
    return ran, len(watched.of("query.curvature"))


def test_a_second_run_asks_nobody_and_says_what_it_had_cost(flat: Flat, shown: list[str]) -> None:
    (one, asked), (two, again) = questions(flat), questions(flat, **{"run-name": "other"})
    assert asked > 0
    assert again == 0
    assert one.parameter_bytes == two.parameter_bytes
    assert two.summary["ratio"] == {**one.summary["ratio"], "from_cache": True}
    assert spectrum(two) == {**spectrum(one), "from_cache": True}
    assert any(line.startswith("Ratio: taken from ") and "estimated then in" in line for line in shown)


def test_a_lost_reply_of_the_warm_up_is_another_key(flat: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    questions(flat)
    real = host.train

    def train(settings: Settings, ask: Ask, client: int, *rest: Any) -> Any:
        if ask.round == 1 and client == first.lines[1]["clients"][0]:
            raise ValueError("tired")
        return real(settings, ask, client, *rest)

    first, _ = questions(flat, **{"run-name": "again"})
    monkeypatch.setattr(host, "train", train)
    assert questions(flat, **{"run-name": "lossy"})[1] > 0


def test_the_key_is_of_settings_facts_point_and_history(flat: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    points, real = [], ratio_phase._point

    def point(strategy: SelectiveStrategy) -> str:
        points.append(real(strategy))
        return points[-1]

    monkeypatch.setattr(ratio_phase, "_point", point)
    one, _ = questions(flat)
    (path,) = (one.folder.parent / ".curvature").iterdir()
    facts = {**ratio_phase._facts(one.settings, ""), "point": points[0]}
    assert path.stem == cache_key(one.settings.flat(), facts, one.lines[:3])


@pytest.mark.parametrize("lost_in", [1, 2])
def test_a_state_that_a_client_lost_in_the_warm_up_is_another_key(flat: Flat, lost_in: int) -> None:
    """Its reply comes all the same, and counts: the lines of the rounds are alike."""
    flat = {**flat, "clients-per-round": 5, "restart-moments": False, "warmup-rounds": 3, "rounds": 4}

    def lossy(message: Message, context: Context) -> None:
        if message.metadata.message_type == "train" and message.content["round"]["round"] == lost_in + 1:
            shutil.rmtree(Path(str(flat["runs-dir"])) / "lossy" / "clients" / "client-1", ignore_errors=True)

    one, _ = questions(flat)
    watched = Watched(lossy)
    two = go({**flat, "run-name": "lossy"}, client_app=watched)
    assert [line["clients"] for line in two.lines] == [line["clients"] for line in one.lines]
    assert not any(line["failed"] or line["missing"] for line in two.lines[1:])
    assert len(watched.of("query.curvature")) > 0


def test_a_warm_up_that_began_at_another_pace_is_another_key(flat: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began as one of 5 rounds, and went on with the settings of one of 9 from the start."""
    flat = {**flat, "curriculum": "linear", "curriculum-start": 0.3, "curriculum-order": "random", "batch-size": 2}
    flat |= {"warmup-rounds": 3, "rounds": 9}
    real = host.train

    def tired(settings: Settings, ask: Ask, client: int, *rest: Any) -> Any:
        if ask.round == 3:
            raise ValueError("tired")
        return real(settings, ask, client, *rest)

    monkeypatch.setattr(host, "train", tired)
    with pytest.raises(RunError, match="tired"):
        questions(flat, rounds=5)
    monkeypatch.setattr(host, "train", real)
    folder = Path(str(flat["runs-dir"])) / "first"
    one, asked = questions(flat, **{"resume": str(folder)})
    assert asked > 0
    two, asked = questions(flat, **{"run-name": "from the start"})
    assert one.lines[2]["data_share"] > two.lines[2]["data_share"]
    assert asked > 0
    assert questions(flat, **{"run-name": "again"})[1] == 0


@pytest.mark.parametrize("damage", ["torn", "empty", "changed", "a list", "no figures", "not text"])
def test_a_damaged_file_is_ignored_and_written_again(flat: Flat, damage: str, shown: list[str]) -> None:
    one, _ = questions(flat)
    (path,) = (one.folder.parent / ".curvature").iterdir()
    text = path.read_text(encoding="utf8")
    damaged = {
        "torn": text[: len(text) // 2],
        "empty": "",
        "changed": text.replace('"ratio": 0.', '"ratio": 0.0'),
        "a list": "[]",
        "no figures": json.dumps({"sha256": json.loads(text)["sha256"]}),
    }
    path.write_bytes(b"\xff\xfe" if damage == "not text" else damaged[damage].encode())
    two, asked = questions(flat, **{"run-name": "second"})
    assert asked > 0
    assert any(line.startswith(f"{path} is damaged") for line in shown)
    assert two.summary["ratio"]["ratio"] == one.summary["ratio"]["ratio"]
    three, asked = questions(flat, **{"run-name": "third"})
    assert asked == 0
    assert three.summary["ratio"]["ratio"] == one.summary["ratio"]["ratio"]


def test_a_cache_that_cannot_be_written_costs_a_warning(flat: Flat, shown: list[str]) -> None:
    folder = Path(str(flat["runs-dir"]))
    folder.mkdir()
    (folder / ".curvature").write_text("in the way", encoding="utf8")
    ran, asked = questions(flat)
    assert asked > 0
    assert ran.summary["status"] == "completed"
    assert any("the estimate is not kept for other runs" in line for line in shown)


def test_every_setting_is_in_the_key_but_for_those_without_influence(flat: Flat) -> None:
    """A setting that is added later matters, until it is named."""
    facts, history = {"model": "m"}, [{"failed": None, "missing": None}, {"failed": {"3": "no"}, "missing": [1]}]
    key = cache_key(flat, facts, history)
    assert set(WITHOUT_INFLUENCE) < set(flat)
    assert len(set(WITHOUT_INFLUENCE)) == len(WITHOUT_INFLUENCE)
    for setting in flat:
        other = cache_key({**flat, setting: "something else"}, facts, history)
        assert (other == key) is (setting in WITHOUT_INFLUENCE), setting
    assert cache_key({**flat, "new": 1}, facts, history) != key
    assert cache_key(flat, {"model": "n"}, history) != key
    assert cache_key(flat, facts, history[:1]) != key
    assert cache_key(flat, facts, [{**history[0], "clients": [2]}, history[1]]) != key
    assert set(ratio_phase._facts(parse(flat), "")) == {"fedpeptao", "torch", "model", "data"}


# -- bad input ---------------------------------------------------------------------------------------------


def test_a_model_without_second_derivatives_is_refused_before_anybody_is_asked(
    flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(*given: object, **named: object) -> None:
        raise NotImplementedError("derivative for aten::_attention_backward is not implemented")

    monkeypatch.setattr("models.curvature.Hessian.times", fused)
    watched = Watched()
    with pytest.raises(InputError, match=r"no second derivative.*_attention_backward.*Give ratio a number") as caught:
        go(flat, client_app=watched)
    assert (caught.value.key, caught.value.value) == ("ratio", "eigengap")
    assert not watched.passed
    assert go({**flat, "ratio": 0.5, "run-name": "number"}).summary["status"] == "completed"

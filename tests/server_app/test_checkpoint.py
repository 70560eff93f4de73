"""What a checkpoint holds, what happens to one that is damaged or another's, and which settings may change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from client_app import host
from federation.grids import InProcessGrid
from federation.messages import Evaluation
from federation.resuming import how_to_go_on
from federation.sealed import facts_of, seal, tensors_of
from federation.settings import defaults
from fedpeptao import cli
from fedpeptao.errors import InputError, RunError
from fedpeptao.loaded import open_model
from server_app import course
from server_app.checkpoint import FOLDER, FORM, MAY_CHANGE, Checkpoints, Identity, Progress, check_identity
from server_app.run_folder import RunFolder, read_summary
from strategies.drift import DriftState
from strategies.fedpeptao import State
from strategies.standing import Standing
from tests.small_runs import Flat, Ran, Watched, go

MakeFlat = Callable[..., Flat]
WHO = Identity(defaults(), "model", "data", {0: (10, 4), 7: (12, 6)})


def state(made_in: int) -> State:
    x = torch.arange(5, dtype=torch.float64) / 3 + made_in
    drift = DriftState(control=x * 2, epoch=3, epoch_round=1, lost_examples=9)
    return State(
        made_in, made_in - 1, ("a", "b"), x, {"m": x + 1, "v": x * x}, drift, x[:2] / 7, {0: 1, 7: made_in}, x / 11
    )


def progress(made_in: int = 2) -> Progress:
    counts = {0: Evaluation(3, 2, 1.1, 1, float("inf")), 7: Evaluation(4, 4, 0.1, 4, 0.3)}
    known = {"labels": ["no", "yes"], "layer_scores": [0.1, 1 / 3], "ratio": None}
    standing = Standing((1 / 3, 2.5e-9), {7: 2}, {0: 1, 7: 4})
    return Progress(state(made_in), True, (0, 2), known, torch.ones(5, dtype=torch.float64) / 9, counts, standing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text('{"round": 1}\n')
    return tmp_path


def test_it_comes_back_to_the_last_bit(folder: Path) -> None:
    wanted = progress()
    Checkpoints(folder, 2).save(WHO, wanted)
    kept = Checkpoints(folder, 2).latest()
    assert kept is not None
    who, found = kept
    assert who == WHO
    assert found.sent is not None
    assert wanted.sent is not None
    assert torch.equal(found.sent, wanted.sent)
    assert (found.warm_up, found.layers, found.known) == (wanted.warm_up, wanted.layers, wanted.known)
    assert found.evaluation == wanted.evaluation
    assert found.standing == wanted.standing
    one, other = found.state, wanted.state
    assert (one.round, one.updates, one.names, one.accepted) == (2, 1, ("a", "b"), {0: 1, 7: 2})
    for name in ("x", "vbar", "average"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.moments.keys() == {"m", "v"}
    assert all(torch.equal(one.moments[name], other.moments[name]) for name in other.moments)
    assert one.drift.control is not None
    assert other.drift.control is not None
    assert torch.equal(one.drift.control, other.drift.control)
    assert (one.drift.epoch, one.drift.epoch_round, one.drift.lost_examples) == (3, 1, 9)


def test_the_last_few_stay(folder: Path) -> None:
    checkpoints = Checkpoints(folder, 3)
    for made_in in range(1, 12):
        checkpoints.save(WHO, progress(made_in))
    names = sorted(path.name for path in (folder / FOLDER).iterdir())
    assert names == [f"round-{made_in:06d}.safetensors" for made_in in (9, 10, 11)]


def test_lines_of_rounds_that_will_run_again_go(folder: Path) -> None:
    Checkpoints(folder, 2).save(WHO, progress())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2}\n{"rou')
    assert Checkpoints(folder, 2).latest() is not None
    assert (folder / "metrics.jsonl").read_text() == '{"round": 1}\n'


def test_a_history_that_was_changed_is_refused(folder: Path) -> None:
    Checkpoints(folder, 2).save(WHO, progress())
    (folder / "metrics.jsonl").write_text('{"round": 9}\n')
    with pytest.raises(RunError, match="was changed since"):
        Checkpoints(folder, 2).latest()


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "zeros"])
def test_a_damaged_one_is_set_aside_and_the_one_before_it_serves(folder: Path, damage: str, shown: list[str]) -> None:
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(WHO, progress(1))
    checkpoints.save(WHO, progress(2))
    path = folder / FOLDER / "round-000002.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-1], "empty": b"", "flip": content, "zeros": bytes(len(content))}
    path.write_bytes(damaged[damage])
    kept = checkpoints.latest()
    assert kept is not None
    assert kept[1].state.round == 1
    aside = folder / FOLDER / "round-000002.set-aside-1"
    assert aside.read_bytes() == damaged[damage]
    assert any("set aside" in line and path.name in line for line in shown)


def test_every_flipped_bit_is_noticed(folder: Path) -> None:
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(WHO, progress())
    path = folder / FOLDER / "round-000002.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(RunError, match="no whole checkpoint is left"):
            checkpoints.latest()


def test_without_a_whole_one_nothing_of_a_run_is_lost(folder: Path, shown: list[str]) -> None:
    """It is refused as often as it is tried, until one is restored."""
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(WHO, progress(1))
    checkpoints.save(WHO, progress(2))
    one, other = sorted((folder / FOLDER).iterdir())
    content = one.read_bytes()
    one.write_bytes(b"")
    other.write_bytes(b"")
    names = "round-000001.set-aside-1, round-000002.set-aside-1"
    for _ in range(2):
        with pytest.raises(RunError, match=f"no whole checkpoint is left in {folder / FOLDER}: {names} were damaged"):
            checkpoints.latest()
    assert (folder / "metrics.jsonl").read_text() == '{"round": 1}\n'
    assert [line.rpartition(", ")[2] for line in shown] == ["the one before it is looked at", "none is before it"]
    one.write_bytes(content)
    kept = checkpoints.latest()
    assert kept is not None
    assert kept[1].state.round == 1


@pytest.mark.parametrize(
    "lines", ['{"round": 1}\n', '{"round": 0}\n{"rou\n{"round": 2}\n', '{"round": 0}\n{"round": 7}\n']
)
def test_without_any_a_run_with_rounds_is_not_begun_anew(folder: Path, lines: str) -> None:
    (folder / "metrics.jsonl").write_text(lines)
    with pytest.raises(RunError, match=r"there is none\. Restore one from a copy"):
        Checkpoints(folder, 2).latest()
    assert (folder / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("lines", ["", '{"round": 0}\n{"rou', '{"rou'])
def test_without_any_a_run_of_which_no_round_ended_begins_anew(folder: Path, lines: str) -> None:
    """Also where the one from before its first round is damaged."""
    (folder / "metrics.jsonl").write_text(lines)
    Checkpoints(folder, 2).save(WHO, replace(progress(), state=state(0)))
    (folder / FOLDER / "round-000000.safetensors").write_bytes(b"")
    assert Checkpoints(folder, 2).latest() is None
    assert (folder / "metrics.jsonl").read_text() == ""


def test_one_of_another_version_is_refused_by_name(folder: Path) -> None:
    Checkpoints(folder, 2).save(WHO, progress())
    path = folder / FOLDER / "round-000002.safetensors"
    facts, tensors = facts_of(path.read_bytes()), tensors_of(path.read_bytes())
    path.write_bytes(seal(tensors, {**facts, "form": str(FORM + 1)}))
    with pytest.raises(InputError, match=rf"of form {FORM + 1}, and this version reads form {FORM}"):
        Checkpoints(folder, 2).latest()
    assert path.exists()  # nothing is set aside that another version can read


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(WHO, progress(1))

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("os.fsync", no_space)
        with pytest.raises(RunError, match=r"No space left on device.*--resume"):
            checkpoints.save(WHO, progress(2))
    assert [path.name for path in (folder / FOLDER).iterdir()] == ["round-000001.safetensors"]
    kept = checkpoints.latest()
    assert kept is not None
    assert kept[1].state.round == 1


# -- what has to be the same -------------------------------------------------------------------------------


def test_every_setting_but_those_that_may_change_has_to_be_the_same() -> None:
    assert set(defaults()) >= MAY_CHANGE
    for key, value in defaults().items():
        other = (not value) if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value + 1
        now = Identity({**defaults(), key: other}, "model", "data", {})
        if key in MAY_CHANGE:
            check_identity(WHO, now, Path("/run"))
        else:
            with pytest.raises(InputError, match=f"the run began with {key} = ") as caught:
                check_identity(WHO, now, Path("/run"))
            assert caught.value.key == "resume"


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (Identity(defaults(), "another", "data", {}), "the model is another one"),
        (Identity(defaults(), "model", "other", {}), "the data set is another one"),
        (Identity(defaults(), "model", "data", {7: (12, 5)}), "client 7 began with 12 examples and 6 steps"),
        (Identity(defaults(), "model", "data", {0: (9, 4)}), "client 0 began with 10 examples"),
    ],
)
def test_another_model_data_set_or_client_is_named(now: Identity, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_identity(WHO, now, Path("/run"))


def test_other_prompts_that_are_mixed_are_named() -> None:
    """And a checkpoint that says nothing of them, an earlier version's, goes on."""
    mixing, other = (Identity(defaults(), f"model+{what}", "data", {}) for what in ("these", "those"))
    with pytest.raises(InputError, match=r"the prompt that is mixed is another one \(fingerprint these, now those\)"):
        check_identity(mixing, other, Path("/run"))
    check_identity(WHO, other, Path("/run"))


def test_a_setting_that_came_later_was_at_its_default() -> None:
    older = {key: value for key, value in defaults().items() if key != "alpha"}
    check_identity(Identity(older, "model", "data", {}), WHO, Path("/run"))
    with pytest.raises(InputError, match="alpha"):
        check_identity(
            Identity(older, "model", "data", {}), Identity({**defaults(), "alpha": 9.0}, "model", "data", {}), Path("/")
        )
    with pytest.raises(InputError, match="began with old-key"):
        check_identity(Identity({**defaults(), "old-key": 1}, "model", "data", {}), WHO, Path("/run"))


# -- whole runs --------------------------------------------------------------------------------------------


def resumed(ran: Ran, **changes: object) -> Flat:
    return {**ran.settings.flat(), "resume": str(ran.folder), **changes}


def test_more_rounds_later_are_as_if_asked_for_at_once(make_flat: MakeFlat, no_plots: None) -> None:
    first, whole = go(make_flat(run_name="run", rounds=2)), go(make_flat(run_name="other", rounds=4))
    more = go(resumed(first, rounds=4))
    assert more.folder == first.folder
    assert [line["round"] for line in more.lines] == [0, 1, 2, 3, 4]
    assert more.parameter_bytes == whole.parameter_bytes
    assert more.summary["final"] == whole.summary["final"]
    assert [one["round"] for one in more.summary["resumed"]] == [2]
    assert json.loads((more.folder / "settings.json").read_text())["rounds"] == 4


def test_more_rounds_that_set_a_curriculum_back_are_remarked_on_once(
    make_flat: MakeFlat, no_plots: None, shown: list[str]
) -> None:
    first = go(make_flat(rounds=3, curriculum="linear", curriculum_full=0.6))
    again = go(resumed(first, rounds=6))
    (remark,) = [line for line in shown if line.startswith("Remark: rounds = 6 was 3, and the curriculum's pace")]
    assert "round 4 sees 93% of each client's batches, after 100% in round 3" in remark
    del shown[:]
    go(resumed(again, rounds=6))
    assert not [line for line in shown if "curriculum's pace" in line]


def test_fewer_rounds_end_the_run_where_it_is(make_flat: MakeFlat, no_plots: None) -> None:
    ran = go(make_flat(rounds=3))
    for path in sorted((ran.folder / FOLDER).iterdir())[-1:]:
        path.unlink()
    ended = go(resumed(ran, rounds=2))
    assert ended.summary["rounds"] == 2
    assert ended.summary["final"]["personalised_accuracy"] is not None
    with pytest.raises(InputError, match=r"rounds = 1: the run has come to round 2 already"):
        go(resumed(ended, rounds=1))


def test_a_run_that_is_complete_ends_at_once(make_flat: MakeFlat, no_plots: None) -> None:
    ran = go(make_flat())
    again = go(resumed(ran))
    assert again.lines == ran.lines
    assert again.summary["final"] == ran.summary["final"]


def per_client(ran: Ran) -> object:
    return ran.summary["final"]["per_client"]


@pytest.mark.parametrize("before", [0, 2])
def test_final_epochs_that_are_asked_for_later_are_done(make_flat: MakeFlat, no_plots: None, before: int) -> None:
    """Of a run that is complete: its evaluation was made without them, or with others."""
    flat = make_flat(run_name="run", final_local_epochs=before)
    whole = go({**flat, "runs-dir": f"{flat['runs-dir']}-whole", "final-local-epochs": 1})
    ran = go(flat)
    assert per_client(ran) != per_client(whole)
    more = go(resumed(ran, **{"final-local-epochs": 1}))
    assert per_client(more) == per_client(whole)
    for client in range(5):
        assert torch.equal(open_model(more.folder, client=client).row, open_model(whole.folder, client=client).row)
    assert more.parameter_bytes == whole.parameter_bytes


def test_a_run_that_ends_at_an_evaluation_on_its_way_does_its_final_epochs(make_flat: MakeFlat, no_plots: None) -> None:
    flat = make_flat(run_name="run", rounds=3, evaluate_every=2, final_local_epochs=1)
    whole = go({**flat, "runs-dir": f"{flat['runs-dir']}-whole", "rounds": 2})
    ran = go(flat)
    for path in sorted((ran.folder / FOLDER).iterdir())[-1:]:
        path.unlink()
    ended = go(resumed(ran, rounds=2))
    assert per_client(ended) == per_client(whole)


def test_an_evaluation_as_it_is_asked_for_now_serves(make_flat: MakeFlat, no_plots: None) -> None:
    flat = make_flat(rounds=3, evaluate_every=2)
    ran = go(flat)
    for path in sorted((ran.folder / FOLDER).iterdir())[-1:]:
        path.unlink()
    watched = Watched()
    assert per_client(go(resumed(ran, rounds=2), client_app=watched))
    assert not watched.of("evaluate")


def test_a_refusal_leaves_the_folder_as_it_was(make_flat: MakeFlat, no_plots: None) -> None:
    ran = go(make_flat())
    before = {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"the run began with alpha = 0.3, and now it is 1.0"):
        go(resumed(ran, alpha=1.0))
    assert {path: path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()} == before


def test_settings_that_the_roll_call_refuses_are_not_written(
    make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own are there to go on with."""
    ran = go(make_flat())
    names = ("settings.json", "resume.toml")
    before = {name: (ran.folder / name).read_bytes() for name in names}
    with monkeypatch.context() as patch:
        patch.setattr("server_app.course.roll_call.call", lambda *given: pytest.fail("a client is at fault"))
        with pytest.raises(pytest.fail.Exception):
            go(resumed(ran, rounds=3))
    assert {name: (ran.folder / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1)])
def test_a_run_goes_on_with_another_number_of_checkpoints(
    make_flat: MakeFlat, no_plots: None, before: int, now: int
) -> None:
    """Clients and the server's rows too; the newest checkpoint of the second part is damaged then, and one more round is made."""
    flat = make_flat(run_name="run", rounds=5, clients_per_round=4, drift_correction="server")
    whole = go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"})
    first = go({**flat, "rounds": 2, "checkpoints": before})
    second = go(resumed(first, rounds=4, checkpoints=now))
    *_, newest = checkpoints = sorted((second.folder / FOLDER).iterdir())
    assert len(checkpoints) == now
    if now > 1:
        newest.write_bytes(b"")
    third = go(resumed(second, rounds=5))
    assert third.parameter_bytes == whole.parameter_bytes
    assert [line["round"] for line in third.lines] == [0, 1, 2, 3, 4, 5]


HALF_WRITTEN = ("checkpoints/.round-000001.safetensors", ".summary.json", ".facts.json")
TOKEN = "0123456789abcdef"


def half_written(run: Path, *names: str) -> list[Path]:
    """What a server leaves that is killed as it writes."""
    paths = [run / f"{name}.{TOKEN}" for name in names]
    for path in paths:
        path.write_bytes(b"half")
    return paths


def test_what_a_killed_server_had_half_written_goes_when_its_run_goes_on(make_flat: MakeFlat, no_plots: None) -> None:
    """Of this run alone, and nothing that the server's lock does not cover."""
    ran = go(make_flat())
    left = half_written(ran.folder, *HALF_WRITTEN)
    (ran.folder.parent / "another").mkdir()
    others = [*half_written(ran.folder, ".report.html"), *half_written(ran.folder.parent / "another", ".facts.json")]
    with pytest.raises(InputError, match="the run began with"):
        go(resumed(ran, rounds=3, seed=9))
    assert all(path.exists() for path in left)  # one that is refused leaves the folder as it was
    assert go(resumed(ran, rounds=3)).summary["status"] == "completed"
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in others)
    told = [json.loads(line) for line in (ran.folder / "log.jsonl").read_text(encoding="utf8").splitlines()]
    gone = {line["file"] for line in told if line["event"] == "half-written file removed"}
    assert gone == {f"{name}.{TOKEN}" for name in HALF_WRITTEN}


def test_nothing_is_tidied_where_no_lock_keeps_others_out(
    make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = go(make_flat())
    left = half_written(ran.folder, *HALF_WRITTEN)

    def unsupported(file: object, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert go(resumed(ran, rounds=3)).summary["status"] == "completed"
    assert all(path.exists() for path in left)


def test_a_second_server_is_kept_out(make_flat: MakeFlat, no_plots: None) -> None:
    """Also one in another process; and the first one's death lets it in."""
    ran = go(make_flat())
    holder = (
        "import time; from pathlib import Path; from server_app.run_folder import RunFolder; "
        f"held = RunFolder(Path({str(ran.folder)!r})); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="a server that is alive works in this folder"):
            go(resumed(ran, rounds=3))
    finally:
        child.kill()
        child.wait()
    assert go(resumed(ran, rounds=3)).summary["status"] == "completed"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("nowhere", "no run's folder"),
        ("elsewhere/run", "clients keep what is theirs in"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_gone_on_with_is_named(make_flat: MakeFlat, place: str, problem: str) -> None:
    flat = make_flat()
    Path(flat["runs-dir"]).mkdir()
    with pytest.raises(InputError, match=problem) as caught:
        go({**flat, "resume": f"{flat['runs-dir']}/{place}"})
    assert caught.value.key in ("resume",)


def test_resume_toml_is_all_that_it_takes(make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = go(make_flat(rounds=1))
    asked = []
    monkeypatch.setattr("fedpeptao.launch.run", lambda simulation: asked.append(simulation) or 0)
    assert cli.main(["run", "--resume", str(ran.folder), "--run-config", "rounds=2"]) == 0
    assert cli.main(["run", "--run-config", str(ran.folder / "resume.toml")]) == 0
    by_option, by_file = (simulation.settings.flat() for simulation in asked)
    assert by_option == {**by_file, "rounds": 2}
    assert go(by_option).summary["rounds"] == 2


# -- a full disk -------------------------------------------------------------------------------------------


class Full:
    """A disk: once full it takes nothing, of nobody."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.on, real = False, os.fsync

        def fsync(handle: int) -> None:
            if self.on:
                raise OSError(28, "No space left on device")
            real(handle)

        patch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("file", ["parameters.safetensors", "metrics.jsonl", "checkpoints/round-000001.safetensors"])
def test_a_full_disk_is_what_is_told_and_the_run_goes_on_later(
    make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Whatever the folder's last files come to."""
    flat = make_flat(run_name="run")
    whole = go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"})
    folder = Path(str(flat["runs-dir"])) / "run"
    with monkeypatch.context() as patch:
        disk, real, append = Full(patch), course.save_parameters, RunFolder.append

        def save(*given: Any) -> None:
            disk.on = file != "checkpoints/round-000001.safetensors"
            if file == "parameters.safetensors":
                raise SafetensorError("No space left on device (os error 28)")
            real(*given)

        def appended(folder: RunFolder, line: dict[str, Any]) -> None:
            append(folder, line)
            disk.on = line["round"] == 1

        patch.setattr(course, "save_parameters", save)
        patch.setattr(RunFolder, "append", appended)
        with pytest.raises(
            RunError, match=rf"round 1 cannot be kept in {folder / file}: No space left.*--resume {folder}$"
        ):
            go(flat)
    assert read_summary(folder)["status"] == "running"
    assert go({**flat, "resume": str(folder)}).parameter_bytes == whole.parameter_bytes


def test_a_full_disk_at_the_end_is_told_of_a_run_that_completed(
    make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, disk = make_flat(run_name="run", rounds=1), Full(monkeypatch)
    real = course.to_peft

    def last(*given: Any) -> str | None:
        disk.on = True
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(course, "to_peft", last)
        with pytest.raises(RunError, match="the summary cannot be kept in"):
            go(flat)
    disk.on = False
    assert go({**flat, "resume": f"{flat['runs-dir']}/run"}).summary["status"] == "completed"


# -- a deployment's runs -----------------------------------------------------------------------------------


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether the nodes of the runs from now on count as a deployment's."""
    return lambda on: monkeypatch.setattr("server_app.run.GrpcGrid", InProcessGrid if on else int)


def test_a_deployed_run_names_the_command_that_goes_on_with_it(
    make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch, deployed: Callable[[bool], None]
) -> None:
    flat = make_flat(run_name="run")
    folder = Path(str(flat["runs-dir"])) / "run"
    deployed(True)
    with monkeypatch.context() as patch:
        patch.setattr(host, "train", lambda *given: 1 / 0)
        with pytest.raises(
            RunError, match=f": flwr run . <federation> --stream --run-config {folder / 'resume.toml'}$"
        ):
            go(flat)
    copied = f"copy {folder / 'resume.toml'}, set strikes=0 in the copy, and flwr run . <federation> --stream"
    assert how_to_go_on(folder, "strikes=0") == f"{copied} --run-config <the copy>", (
        "Flower takes nothing beside a file"
    )
    assert go({**flat, "resume": str(folder)}).summary["status"] == "completed"


def test_a_deployed_run_is_not_gone_on_with_in_a_simulation(
    make_flat: MakeFlat,
    no_plots: None,
    monkeypatch: pytest.MonkeyPatch,
    deployed: Callable[[bool], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By neither command, whose message names the one that does."""
    deployed(True)
    ran = go(make_flat(rounds=1))
    resume = ran.folder / "resume.toml"
    monkeypatch.setattr("fedpeptao.launch.run", lambda simulation: pytest.fail("a simulation was begun"))
    for given in (["--resume", str(ran.folder)], ["--run-config", str(resume)]):
        assert cli.main(["run", *given]) == 2
        assert f"Go on with flwr run . <federation> --stream --run-config {resume}" in capsys.readouterr().err
    deployed(False)
    with pytest.raises(InputError, match="its clients are on the nodes of a deployment"):
        go(resumed(ran))


def test_a_run_whose_facts_do_not_say_goes_on_and_is_noted(
    make_flat: MakeFlat, no_plots: None, deployed: Callable[[bool], None]
) -> None:
    ran = go(make_flat(rounds=1))
    facts = ran.folder / "facts.json"
    before = json.loads(facts.read_text())
    assert before.pop("deployed") is False
    facts.write_text(json.dumps(before))
    go(resumed(ran, rounds=2))
    assert json.loads(facts.read_text()) == before
    deployed(True)
    go(resumed(ran, rounds=3))
    assert json.loads(facts.read_text()) == {**before, "deployed": True}


def test_a_read_only_folder_is_named(make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rights themselves bind no administrator, so the system's answer is given by hand."""
    ran = go(make_flat())

    def refused(*given: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(InputError, match="Read-only file system"):
        RunFolder.reopen(ran.folder)

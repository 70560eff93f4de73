"""What lies in the folders of client states, and that nothing is removed under a living process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client_app.state_folder import Held, InUseError, KeptRun, kept_runs
from fedpeptao.errors import InputError

HOLDER = """
import sys, time, pathlib
from client_app.state_folder import Held
held = Held(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def lay(place: Path, run: str, **rounds: bytes) -> Path:
    """A run with client 0's files; the folder of states."""
    folder = place / run / "clients"
    (folder / "client-0").mkdir(parents=True)
    for name, content in rounds.items():
        (folder / "client-0" / f"{name.replace('_', '-')}.safetensors").write_bytes(content)
    return folder


def only(place: Path) -> KeptRun:
    (run,) = kept_runs(place)
    return run


def test_runs_are_listed_with_what_they_keep(tmp_path: Path) -> None:
    folder = lay(tmp_path, "b", round_2=b"12345", round_11=b"678")
    (folder / "client-3").mkdir()
    (folder / "client-3" / "round-1.set-aside-1").write_bytes(b"90")
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1000, 1000))
    os.utime(folder / "client-0" / "round-2.safetensors", (5000, 5000))
    lay(tmp_path, "a")
    (tmp_path / "results-only").mkdir()
    (tmp_path / "a file").write_text("", encoding="utf8")
    first, second = kept_runs(tmp_path)
    assert (first.run, first.clients, first.size_bytes, first.last_round) == ("a", 1, 0, None)
    assert (second.run, second.folder, second.clients, second.size_bytes) == ("b", folder, 2, 10)
    assert (second.last_round, second.changed, second.in_use) == (11, 5000, False)
    assert kept_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize("other", ["notes.txt", "client-list", "acme"])
def test_clients_of_other_programs_are_no_states(tmp_path: Path, other: str) -> None:
    (lay(tmp_path, "crm", round_1=b"1") / other).mkdir()
    (tmp_path / "empty" / "clients").mkdir(parents=True)
    Held(lay(tmp_path, "run")).close()
    assert only(tmp_path).run == "run"


def test_a_folder_above_the_runs_is_refused_with_the_right_one_named(tmp_path: Path) -> None:
    """A node keeps runs in <--state>/clients, and a unit's states lie one level deeper still."""
    node = tmp_path / "node"
    folder = lay(node / "clients", "run", round_1=b"1")
    for above in (tmp_path, node):
        with pytest.raises(InputError, match=f"runs are in {node / 'clients'}. Give that folder"):
            kept_runs(above)
    assert only(node / "clients").folder == folder


def test_removal_takes_the_states_and_leaves_the_results(tmp_path: Path) -> None:
    folder = lay(tmp_path, "run", round_1=b"1")
    (tmp_path / "run" / "summary.json").write_text("{}", encoding="utf8")
    only(tmp_path).remove()
    assert not folder.exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["summary.json"]
    assert kept_runs(tmp_path) == []


def test_nothing_is_left_where_nothing_else_was(tmp_path: Path) -> None:
    lay(tmp_path, "run", round_1=b"1")
    only(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_stays_whole_until_the_last_user_ends(tmp_path: Path) -> None:
    folder = lay(tmp_path, "run", round_1=b"1")
    one, two = Held(folder), Held(folder)
    for user in (one, two):
        assert only(tmp_path).in_use
        with pytest.raises(InUseError, match="a living process works with it"):
            only(tmp_path).remove()
        user.close()
    assert (folder / "client-0" / "round-1.safetensors").read_bytes() == b"1"
    assert not only(tmp_path).in_use
    only(tmp_path).remove()


def test_a_process_that_is_killed_holds_nothing_any_more(tmp_path: Path) -> None:
    folder = lay(tmp_path, "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert only(tmp_path).in_use
        process.send_signal(signal.SIGKILL)
    assert not only(tmp_path).in_use
    assert (folder / ".lock").exists()  # a file that is there means nothing: the system knows who lives


def test_what_cannot_be_locked_is_taken_for_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lay(tmp_path, "run")
    Held(folder).close()

    def unsupported(file: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert only(tmp_path).in_use
    with pytest.raises(InUseError, match="No locks available"):
        only(tmp_path).remove()
    assert folder.exists()


def test_what_a_removal_that_was_cut_short_left_is_in_nobodys_way(tmp_path: Path) -> None:
    lay(tmp_path, "run", round_1=b"1")
    left = tmp_path / "run" / ".clients-removed" / "client-1"
    left.mkdir(parents=True)
    only(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def cut_short(folder: Path) -> Path:
    """What a removal that was killed half-way leaves."""
    away = folder.with_name(".clients-removed")
    folder.rename(away)
    return away


def test_what_a_removal_that_was_cut_short_left_is_listed_and_removed(tmp_path: Path) -> None:
    folder = lay(tmp_path, "run", round_3=b"12345")
    (folder / "client-1").mkdir()
    away = cut_short(folder)
    left = only(tmp_path)
    assert (left.run, left.folder, left.clients, left.size_bytes, left.last_round) == ("run", away, 2, 5, 3)
    left.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_the_system_stops_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "run", round_1=b"1")
    real = shutil.rmtree

    def stopped(path: Path, **options: bool) -> None:
        if not options:
            raise OSError(5, "Input/output error")
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stopped)
        with pytest.raises(OSError, match="Input/output error"):
            only(tmp_path).remove()
    assert only(tmp_path).size_bytes == 1
    only(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_rest_is_a_rest_too(tmp_path: Path) -> None:
    (tmp_path / "run" / ".clients-removed").mkdir(parents=True)
    only(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_a_rest_beside_states_made_since_goes_with_them(tmp_path: Path) -> None:
    cut_short(lay(tmp_path, "run", round_1=b"12"))
    folder = lay(tmp_path, "run", round_2=b"345")
    both = only(tmp_path)
    assert (both.folder, both.clients, both.size_bytes, both.last_round) == (folder, 1, 5, 2)
    both.remove()
    assert list(tmp_path.iterdir()) == []


def test_two_removals_at_once_are_one(tmp_path: Path) -> None:
    away = cut_short(lay(tmp_path, "run", round_1=b"1"))
    other = Held(away)  # as the other one holds it alone
    assert only(tmp_path).in_use
    with pytest.raises(InUseError, match="a living process works with it"):
        only(tmp_path).remove()
    other.close()
    only(tmp_path).remove()


def test_a_rest_of_another_program_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "crm" / ".clients-removed" / "acme").mkdir(parents=True)
    assert kept_runs(tmp_path) == []


def test_a_nodes_log_goes_with_the_states_and_a_servers_stays_with_the_results(tmp_path: Path) -> None:
    """A traceback in it may name rows of the node's data."""
    for run in ("of a node", "of a server"):
        lay(tmp_path, run, round_1=b"1")
        (tmp_path / run / "log.jsonl").write_text("{}\n", encoding="utf8")
    (tmp_path / "of a server" / "metrics.jsonl").write_text("", encoding="utf8")
    for run in kept_runs(tmp_path):
        run.remove()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "of a server",
        "of a server/log.jsonl",
        "of a server/metrics.jsonl",
    ]


def test_a_nodes_log_is_gone_before_the_run_is_listed_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "run", round_1=b"1")
    (tmp_path / "run" / "log.jsonl").write_text("{}\n", encoding="utf8")
    seen: list[list[str]] = []
    real = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        seen.append(sorted(one.name for one in (tmp_path / "run").iterdir()))
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    only(tmp_path).remove()
    assert seen == [["clients", "log.jsonl"], [".clients-removed"]]


def test_the_lock_of_a_folder_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for it holds the lock of the folder that was made since, or learns that there is none."""
    import fcntl

    folder, real = lay(tmp_path, "run"), fcntl.flock
    waits = [lambda: folder.rename(tmp_path / "away"), lambda: None]

    def waited(file: int, how: int) -> None:
        waits.pop(0)()
        folder.mkdir(exist_ok=True)
        real(file, how)

    monkeypatch.setattr("fcntl.flock", waited)
    held = Held(folder)
    assert waits == []
    assert held.holds()

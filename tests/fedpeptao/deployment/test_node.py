"""A node that the server does not let in: its log says what to look at, and its process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import grpc
import pytest
from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor as authentication
from flwr.supernode import start_client_internal

from fedpeptao.deployment.node import say_why


class Refusal(grpc.RpcError):
    """A call that the server ended."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


UNAUTHENTICATED, PRECONDITION = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION
CASES = [
    (UNAUTHENTICATED, "Invalid timestamp", ["clock is more than 5 s ahead"], ["registered"]),
    (UNAUTHENTICATED, "Invalid node ID", ["not registered"], ["clock"]),
    (UNAUTHENTICATED, "Bad day", ["not registered", "clock is more than 5 s ahead"], []),
    (PRECONDITION, "No SuperNode found with the given public key.", ["not registered"], ["clock"]),
    (PRECONDITION, "SuperNode with node ID 7 could not be activated.", ["for a minute at most"], ["clock"]),
]


@pytest.mark.parametrize(("code", "details", "causes", "others"), CASES)
def test_the_cause_is_said_once_and_flower_decides_as_ever(
    capsys: pytest.CaptureFixture[str], code: grpc.StatusCode, details: str, causes: list[str], others: list[str]
) -> None:
    asked, module = [], ModuleType("flowers")
    vars(module)["make_simple_grpc_retry_invoker"] = lambda: SimpleNamespace(should_giveup=asked.append)
    say_why(module)
    error = Refusal(code, details)
    for _ in range(2):
        assert module.make_simple_grpc_retry_invoker().should_giveup(error) is False
    assert asked == [error, error]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"The server refuses this node ({details}): ")
    assert all(cause in line for cause in causes)
    assert not any(other in line for other in others)


def test_of_other_failures_nothing_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In Flower's own module, whose nodes connect by what is put there."""
    make = start_client_internal.make_simple_grpc_retry_invoker
    monkeypatch.setattr(start_client_internal, "make_simple_grpc_retry_invoker", make)  # put back afterwards
    say_why(start_client_internal)
    gives_up = start_client_internal._make_fleet_connection_retry_invoker().should_giveup
    assert gives_up is not None
    assert not gives_up(Refusal(grpc.StatusCode.UNAVAILABLE, "no route"))
    assert gives_up(Refusal(PRECONDITION, "Run ID not found"))
    assert capsys.readouterr().err == ""
    assert gives_up(Refusal(PRECONDITION, "No SuperNode found with the given public key."))
    assert "not registered" in capsys.readouterr().err


def test_flower_believes_the_clocks_that_the_page_says() -> None:
    assert (authentication.MIN_TIMESTAMP_DIFF, authentication.MAX_TIMESTAMP_DIFF) == (-5, 305)


ENDS = [
    ("pass", 0, ""),
    ("raise SystemExit", 0, ""),
    ("raise SystemExit(0)", 0, ""),
    ("raise SystemExit(7)", 7, ""),
    ("raise SystemExit('no server')", 1, "no server"),
    ("raise RuntimeError('refused')", 1, "RuntimeError: refused"),
    ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
]


@pytest.mark.parametrize(("work", "status", "said"), ENDS)
def test_a_node_that_has_ended_waits_for_no_thread(work: str, status: int, said: str) -> None:
    """By Python's own way out, this process would wait for a thread that never ends."""
    script = f"""
import threading, sys
from fedpeptao.deployment.node import end_with
def work():
    threading.Thread(target=threading.Event().wait).start()
    print("buffered", end="")
    {work}
end_with(work)
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=buffered, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (status, "buffered")
    assert (ended.stderr.strip().splitlines() or [""])[-1] == said

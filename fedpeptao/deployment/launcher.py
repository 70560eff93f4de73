"""Flower's SuperExec of a node, with shorter pauses and client processes that have imported Flower when they begin.

    python -m fedpeptao.deployment.launcher <ClientAppIo's address> <its certificate> <SuperNode's process number>

A process that has imported Flower, and opened no connection and no thread, forks a copy of itself for each message, which goes on
as `flwr-clientapp`: that saves the second that imports take. It loads nothing of the application: that comes with a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub
from flwr.supercore.superexec import run_superexec as superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.plugin import ClientAppExecPlugin
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from federation import pauses

NAME = "flwr-clientapp"
OURS = ("fedpeptao", "federation")


class ForkingExecutor:
    """Starts what Flower's own executor starts, by a line to who forks; see flwr.supercore.superexec.executor.Executor."""

    def __init__(self, line: int, paced: pauses.Pauses) -> None:
        self._line, self._paced = line, paced

    def wait_for_capacity(self) -> None:
        """There is no bound."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """As flwr.supercore.superexec.executor.SubprocessExecutor does, over TLS."""
        told = ["--clientappio-api-address", spec.appio_api_address, "--token", spec.token]
        told += ["--root-certificates", str(spec.root_certificates_path), "--parent-pid", str(spec.parent_pid)]
        os.write(self._line, json.dumps(told).encode() + b"\n")  # one write: shorter than a pipe's atomic one
        self._paced.anew()
        return LaunchResult.accepted()


def run(address: str, certificate: str, node: int) -> None:
    """Until the SuperNode ends."""
    pauses.look_again_soon(run_clientapp)
    line = forker()
    executor = ForkingExecutor(line, pauses.put_into(superexec))

    def plugin(**told: Any) -> ClientAppExecPlugin:
        return ClientAppExecPlugin(**{**told, "executor": executor})

    superexec.run_superexec(
        plugin_class=plugin,  # type: ignore[arg-type]
        stub_class=ClientAppIoStub,
        appio_api_address=address,
        insecure=False,
        root_certificates_path=certificate,
        parent_pid=node,
    )


def forker() -> int:
    """Forks the process that forks; each line written to this end of a pipe starts a client process, its end ends it."""
    there, here = os.pipe()
    if os.fork() == 0:
        os.close(here)
        with contextlib.suppress(KeyboardInterrupt), open(there, encoding="utf8") as lines:
            for line in lines:
                _fork_client(json.loads(line), there)
        os._exit(0)
    os.close(there)
    return here


def _fork_client(told: list[str], inherited: int) -> None:
    _reap()
    if os.fork() == 0:
        status = 1
        try:
            os.close(inherited)
            status = _client(told)
        except BaseException:  # nothing may go on as the process that forks
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _client(told: list[str]) -> int:
    """As the command `flwr-clientapp` in a process of its own; its exit status."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]  # this application's may be of another version than the run's
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME, encoding="utf8")  # as `ps` shows it
    random.seed()
    sys.argv = [NAME, *told]
    try:
        flwr_clientapp()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _reap() -> None:
    """Client processes that have ended leave the system's table."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))

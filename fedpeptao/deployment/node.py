"""Flower's SuperNode with shorter pauses, and beside it who starts its client processes (launcher.py).

python -m fedpeptao.deployment.node <arguments of flower-supernode>
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import grpc
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

from federation import pauses

_CLOCK = "this machine's clock is more than 5 s ahead of the server's, or 5 minutes behind it: let NTP set both"
_KEY = "its key is not registered there, or not any more: flwr supernode register"
_CAUSES = {
    "Invalid timestamp": _CLOCK,
    "No SuperNode found": _KEY,
    "Invalid node ID": _KEY,
    "could not be activated": "the one that ran before counts as there, for a minute at most, or another node has its key",
}
"""What to look at, by what Flower's server says when it does not let a node in."""
_GRACE_S = 10.0
_OWN = "--clientappio-api-address", "--appio-ssl-ca-certfile"


def main(told: list[str]) -> None:
    """Becomes the SuperNode; its own command line is the whole of what Flower reads. Does not return."""
    address, authority = (told[told.index(option) + 1] for option in _OWN)
    pauses.put_into(start_client_internal)
    pauses.look_again_soon(start_client_internal)
    say_why(start_client_internal)
    command = [sys.executable, "-m", "fedpeptao.deployment.launcher", address, authority, str(os.getpid())]
    threading.Thread(target=_end_after, args=(subprocess.Popen(command),), daemon=True).start()
    sys.argv = ["flower-supernode", *told, "--isolation", "process"]
    end_with(flower_supernode)


def end_with(work: Callable[[], None]) -> NoReturn:
    """Ends the process as soon as the work has ended, with the status and the traceback that Python would give.

    Python's own way out can wait for ever, where a gRPC server of the process still has a call open, and whoever starts a refused
    node anew would wait with it.
    """
    status: object = 0
    try:
        work()
    except SystemExit as asked:
        status = asked.code
    except BaseException:  # the process ends by it, as ever
        traceback.print_exc()
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def say_why(module: ModuleType) -> None:
    """Where the server does not let this node in, one line says what to look at: Flower ends the process without a word.

    Args:
        module: of Flower, whose `make_simple_grpc_retry_invoker` decides what becomes of a call that failed.

    Raises:
        AttributeError: it has none.
    """
    make, told = module.make_simple_grpc_retry_invoker, set[str]()

    def made() -> object:
        invoker = make()
        gives_up = invoker.should_giveup

        def refused(error: grpc.RpcError) -> bool:
            if (cause := _cause(error)) not in told and cause:
                told.add(cause)
                print(f"The server refuses this node ({error.details()}): {cause}", file=sys.stderr, flush=True)
            return bool(gives_up(error))

        invoker.should_giveup = refused
        return invoker

    vars(module)["make_simple_grpc_retry_invoker"] = made


def _cause(error: grpc.RpcError) -> str:
    """What to look at; "" where the call failed for something else."""
    said = str(error.details())
    known = next((cause for words, cause in _CAUSES.items() if words in said), "")
    return known or (f"{_KEY}; or {_CLOCK}" if error.code() == grpc.StatusCode.UNAUTHENTICATED else "")


def _end_after(launcher: subprocess.Popen[bytes]) -> None:
    """A node that can start no client process would take messages and answer none: its init system starts it anew.

    Where both were told to end, the node has the time that it needs to say so to the server.
    """
    launcher.wait()
    time.sleep(_GRACE_S)
    print("who starts client processes has ended: the node ends, too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])

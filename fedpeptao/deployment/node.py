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

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

from federation import pauses

_GRACE_S = 10.0
_OWN = "--clientappio-api-address", "--appio-ssl-ca-certfile"


def main(told: list[str]) -> None:
    """Becomes the SuperNode; its own command line is the whole of what Flower reads."""
    address, authority = (told[told.index(option) + 1] for option in _OWN)
    pauses.put_into(start_client_internal)
    pauses.look_again_soon(start_client_internal)
    command = [sys.executable, "-m", "fedpeptao.deployment.launcher", address, authority, str(os.getpid())]
    threading.Thread(target=_end_with, args=(subprocess.Popen(command),), daemon=True).start()
    sys.argv = ["flower-supernode", *told, "--isolation", "process"]
    flower_supernode()


def _end_with(launcher: subprocess.Popen[bytes]) -> None:
    """A node that can start no client process would take messages and answer none: its init system starts it anew.

    Where both were told to end, the node has the time that it needs to say so to the server.
    """
    launcher.wait()
    time.sleep(_GRACE_S)
    print("who starts client processes has ended: the node ends, too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])

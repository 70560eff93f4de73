"""Faults of real machines, each put in on purpose: what happens, and what is lost.

    python -m tests.machine_faults [BEGINNING OF A NAME ..]

plays each on processes of this machine, with TLS and node authentication, and writes docs/MACHINE_FAULTS.md and
results/machine_faults.json; tests/test_machine_faults.py plays the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from experiments.machine import RESULTS, facts, write
from server_app import plots
from tests import machine_input, machine_network, machine_nodes, machine_server, machine_strangers
from tests.fault_table import NOTHING, Fault, row, table
from tests.link import Link
from tests.machine_network import far_stage, over
from tests.machine_stage import Stage, near_stage

RAW = RESULTS / "machine_faults.json"
PAGE = RESULTS.parent / "docs" / "MACHINE_FAULTS.md"
SAME, AGAIN = "with the same bits", "the round is void; it is asked again, and ends with the same bits"
ITS_ROUND, A_ROUND = "the work of the round it died in", "the time of one round"
ITS_PART, ITS_START = "that client's part of that round", "until it is mended, that node"
OUTSIDE = "ends with an error, and is never listed as online"
RESUMED = f"`flwr run` with `resume` goes on, and ends {SAME}"
Faults = tuple[Fault[Stage], ...]

AT_THE_DOOR: Faults = (
    Fault("a key that nobody registered", OUTSIDE, NOTHING, machine_strangers.unregistered),
    Fault("no key", OUTSIDE, NOTHING, machine_strangers.keyless),
    Fault("plaintext against TLS", OUTSIDE, NOTHING, machine_strangers.plaintext),
    Fault(
        "TLS, and no node's signature or no secret",
        "each call of the Fleet API and of ServerAppIo is refused",
        NOTHING,
        machine_strangers.unsigned,
    ),
    Fault("a SuperExec without the secret", "is refused", NOTHING, machine_strangers.without_secret),
    *(
        Fault(f"a node {what}", f"does not start: {said}", ITS_START, machine_input.does_not_start(harm, told))
        for what, said, harm, told in (
            ("without the authority's certificate", "names it", machine_input.certificate_missing, "ca.crt"),
            ("whose key others can read", "names its mode", machine_input.key_open_to_all, "mode 0644"),
            ("whose key is in PEM", "says what it needs", machine_input.key_in_another_form, "OpenSSH's form"),
            ("whose data are not there", "names the path", machine_input.data_missing, "there is no such file"),
            ("whose port is taken", "names it", machine_input.port_taken, "cannot be listened on"),
        )
    ),
)
"""Seconds each, and no node is needed: these are among the usual tests."""

IN_A_RUN: Faults = (
    Fault("none", f"the run ends {SAME} as in one process", NOTHING, machine_nodes.nothing),
    Fault(
        "a server of another authority",
        "the node does not start, and says so; Flower's own ends, too",
        ITS_START,
        machine_strangers.another_authority,
    ),
    Fault(
        "a server's certificate that has expired",
        "the server does not start; no node believes one that did",
        "until it is renewed, all",
        machine_strangers.expired,
    ),
    Fault("a copy of a key whose node is there", OUTSIDE, NOTHING, machine_strangers.duplicate),
    Fault("SIGTERM of a node while it trains", AGAIN, A_ROUND, machine_nodes.node_ended),
    Fault("SIGKILL of a node while it trains", f"after a minute {AGAIN}", "a minute", machine_nodes.node_killed),
    Fault("the same with FibecFed", f"after a minute {AGAIN}", "a minute", machine_nodes.fibecfed_node_killed),
    Fault(
        "SIGTERM of all nodes",
        f"the run stops within `quorum-wait-s`, and says why; {RESUMED}",
        ITS_ROUND,
        machine_nodes.all_nodes_gone,
    ),
    Fault(
        "SIGSTOP of a client beyond the deadline, then SIGCONT",
        "the round closes without it; its answer is counted as late and dropped",
        ITS_PART,
        machine_nodes.client_stopped,
    ),
    Fault("SIGKILL of a node's worker while it trains", AGAIN, A_ROUND, machine_nodes.worker_killed),
    Fault("a worker killed by the kernel for want of memory", AGAIN, A_ROUND, machine_nodes.out_of_memory),
    Fault(
        "SIGKILL of who starts a node's client processes",
        f"the node ends, and its init system starts it; {AGAIN}",
        A_ROUND,
        machine_nodes.launcher_killed,
    ),
    Fault("SIGKILL of the ServerApp", RESUMED, ITS_ROUND, machine_server.server_app_killed),
    Fault("of FibecFed's ServerApp", RESUMED, ITS_ROUND, machine_server.fibecfed_server_app_killed),
    Fault(
        "SIGKILL of the SuperExec",
        f"its ServerApp ends by itself, the run fails; {RESUMED}",
        ITS_ROUND,
        machine_server.super_exec_killed,
    ),
    Fault(
        "SIGKILL of the SuperLink, and its restart",
        f"nodes and ServerApp come back by themselves; the run ends {SAME}",
        NOTHING,
        machine_server.super_link_killed,
    ),
    Fault(
        "the same where the SuperLink starts the ServerApp itself (Flower's subprocess isolation)",
        f"the run fails; {RESUMED}",
        ITS_ROUND,
        machine_server.super_link_killed_with_what_it_started,
    ),
    Fault("a node joins at round 3", "its client takes part from then on", NOTHING, machine_nodes.node_joins),
    Fault("two runs at once", f"both end {SAME}", NOTHING, machine_server.two_runs),
    Fault(
        "no SuperExec",
        f"the run is listed as pending, and no folder of it is made; with one it begins, and ends {SAME}",
        NOTHING,
        machine_server.pending,
    ),
    Fault(
        "a node whose data are gone, and one whose data lack a column",
        "the run's output names node and setting, the node's log the file; the others train",
        "those clients' part",
        machine_input.data_of_two_nodes,
    ),
    Fault(
        "another version of the application installed on a node",
        f"the run's own travels with it: it ends {SAME}",
        NOTHING,
        machine_input.another_version,
    ),
)

OVER_A_LINK: Faults = (
    *(
        Fault(f"nodes behind a link with {what}", f"the run ends {SAME}, at the first attempt", NOTHING, over(link))
        for what, link in {
            "50 ms delay either way": Link(delay_s=0.05),
            "1 % loss": Link(loss=0.01),
            "10 Mbit/s": Link(bits_per_s=10e6),
        }.items()
    ),
    Fault("that link cut for 30 s while they train", f"the run waits, and ends {SAME}", "30 s", machine_network.cut),
)
"""In network namespaces, where they can be made."""
ALL = AT_THE_DOOR + IN_A_RUN + OVER_A_LINK


def page(rows: list[dict[str, Any]], made: dict[str, Any]) -> str:
    """docs/MACHINE_FAULTS.md."""
    lines = [
        "# Faults of real machines, and what becomes of a run",
        "",
        "Each row is done on purpose to processes of one machine, with TLS on every connection and node authentication: a",
        "SuperLink, a SuperExec, two nodes with a client each, a random two-layer model; and is a test (`make test-deployment`).",
        "*The same bits* are those of the undisturbed run in one process: shared parameters, and each client's figures. Seconds",
        "are those from `flwr run` to the run's end, all attempts together, to be read beside the first run's (*none*): two",
        "rounds, or as many as the case needs. Of what is refused they go on until it was.",
        "",
        f"Made by `python -m tests.machine_faults` on {made['cpu']}, 2 cores; raw:",
        "[results/machine_faults.json](../results/machine_faults.json). What an operator does: [DEPLOYMENT.md](DEPLOYMENT.md),",
        "[RECOVERY.md](RECOVERY.md). Faults of disks and messages: [FAULTS.md](FAULTS.md).",
        "",
        *table(rows),
    ]
    played = {row["fault"] for row in rows}
    if left := [fault.name for fault in ALL if fault.name not in played]:
        lines += ["", f"Written as tests, and not played for this page yet: {'; '.join(left)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Plays all, or those whose names begin with one of the texts given, and writes the raw figures and the page."""
    plots.draw = lambda *given, **named: None
    wanted = tuple(sys.argv[1:]) or ("",)
    made, seconds = facts("tests.machine_faults"), {} if wanted == ("",) else _known()
    _write(seconds, made)  # the list may have changed since
    failed = False
    with tempfile.TemporaryDirectory() as folder, ExitStack() as until:
        near = until.enter_context(near_stage(Path(folder) / "near"))
        for faults, stage in ((AT_THE_DOOR, near), (IN_A_RUN, near), (OVER_A_LINK, None)):
            for fault in (fault for fault in faults if fault.name.startswith(wanted)):
                stage = stage or until.enter_context(far_stage(Path(folder) / "far"))
                try:
                    fault.strike(stage)
                except (Exception, pytest.skip.Exception):
                    traceback.print_exc()
                    print(f"  not played to its end: {fault.name}", flush=True)
                    failed = True
                    continue
                print(f"{stage.seconds:6.1f} s  {fault.name}", flush=True)
                seconds[fault.name] = stage.seconds
                _write(seconds, made)
    return int(failed)


def _write(seconds: dict[str, float], made: dict[str, Any]) -> None:
    """What is known so far: the next one may be the last."""
    rows = [row(fault, seconds[fault.name]) for fault in ALL if fault.name in seconds]
    write(RAW, {**made, "command": "python -m tests.machine_faults", "faults": rows})
    PAGE.write_text(page(rows, made), encoding="utf8")


def _known() -> dict[str, float]:
    """Seconds of what was played before."""
    if not RAW.exists():
        return {}
    return {one["fault"]: one["seconds"] for one in json.loads(RAW.read_text(encoding="utf8"))["faults"]}


if __name__ == "__main__":
    sys.exit(main())

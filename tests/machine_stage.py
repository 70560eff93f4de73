"""Where faults of real machines are put on: a federation of processes on the loopback, used by one case after the other."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Context, Message

from client_app.app import app
from federation.settings import Scalar, defaults
from fedpeptao.processes import started_with
from server_app.run_folder import METRICS, read_history, read_summary
from tests.client_app.warm.stand_in import workers
from tests.deployed import Deployed
from tests.small_runs import Flat, Ran, examples, go, small, write_jsonl

NODES, PARTITIONS = 2, 3  # a third node may join
LIMIT_S = 300.0
LOOK_S = 0.05
CLIENT, SERVER_APP = "flwr-clientapp", "flwr-serverapp"


@dataclass
class Stage:
    """A server and two nodes, which a case may harm; the next one finds them whole.

    Attributes:
        folder: of all that is made.
        host, namespaces: as a Deployed's.
        link: between those namespaces, where there are any (tests/link.py).
        seconds: of the run, from its start to its end; of who is refused, until then.
    """

    folder: Path
    host: str = "127.0.0.1"
    namespaces: tuple[str, str] = ("", "")
    link: subprocess.Popen[str] | None = None
    seconds: float = 0.0
    _runs: int = 0
    _whole: dict[str, Ran] = field(default_factory=dict)

    # -- the federation ------------------------------------------------------------------------------------

    @cached_property
    def server(self) -> Deployed:
        """The server alone, with keys for the nodes."""
        deployed = Deployed(self.folder / "federation", host=self.host, namespaces=self.namespaces)
        deployed.make_server_keys()
        deployed.start_server()
        return deployed

    @property
    def federation(self) -> Deployed:
        """With both nodes there, whatever the case before left."""
        here = self.server
        self.start_again("superlink", "superexec")
        if here.alive("node2"):
            self.end_politely("node2")
        for number in range(NODES):
            if not here.keys(f"node{number}").exists():
                here.make_node_keys(f"node{number}")
                here.register(f"node{number}")
        here.wait(lambda: self.nodes_started(), "a node", LIMIT_S, pause_s=2.0)
        return here

    def nodes_started(self) -> bool:
        """Whether all are there; starts those that have ended, as an init system does."""
        here = self.server
        for number in range(NODES):
            if not here.alive(f"node{number}"):
                self.start_node(number)
        return here.nodes_online() == NODES

    def start_node(self, number: int) -> None:
        """With examples of its own, which a run may ask for or not."""
        self.server.start_node(number, PARTITIONS, "--data", str(self.own_data(number)))

    def own_data(self, number: int) -> Path:
        """A node's own file."""
        path = self.folder / f"ward-{number}.jsonl"
        return path if path.exists() else write_jsonl(path, examples(90)[number::PARTITIONS])

    def third_node(self) -> None:
        """One that only some cases have."""
        if not self.server.keys("node2").exists():
            self.server.make_node_keys("node2")
            self.server.register("node2")
        self.start_node(2)

    def start_again(self, *roles: str) -> None:
        """Of the server's processes those that have ended."""
        for role in roles:
            if not self.server.alive(role):
                self.server.start_role(role)

    def kill(self, name: str) -> None:
        """SIGKILL to a process and all that it started, as of a machine that loses its power."""
        for process in started_with(self.server.home(name)):
            process.kill()
        self.server.processes[name].wait()

    def end_politely(self, name: str) -> None:
        """SIGTERM, as an operator does it."""
        self.server.processes[name].send_signal(signal.SIGTERM)
        self.server.processes[name].wait(timeout=60)

    def worker(self, node: str) -> psutil.Process:
        """The newest of a node's: an earlier run's may not have ended yet."""
        return max(workers(self.server.folder / node / "clients"), key=lambda one: one.create_time())

    def only(self, name: str, command: str) -> psutil.Process:
        """The newest process of that command below a role."""
        found = [one for one in started_with(self.server.home(name)) if command in one.name()]
        assert found, f"{name} has no {command}"
        return max(found, key=lambda one: one.create_time())

    def has(self, name: str, command: str) -> bool:
        """Whether a process of that command lives below a role."""
        return any(command in one.name() for one in started_with(self.server.home(name)))

    def end(self) -> None:
        """Leaves nothing running."""
        if "server" in self.__dict__:
            self.server.end()

    # -- runs ----------------------------------------------------------------------------------------------

    def flat(self, **changes: Any) -> Flat:
        """A run of two clients, one on each node, both of them in each of two rounds, with control variates."""
        data = self.folder / "texts.jsonl"
        if not data.exists():
            write_jsonl(data, examples(100))
        self._runs += 1
        told: dict[str, Any] = {
            **{"clients": NODES, "clients_per_round": NODES, "min_clients": NODES, "quorum": NODES, "rounds": 2},
            **{"quorum_wait_s": LIMIT_S, "labels": "animals,colours,verbs", "local_epochs": 60, "test_every": 0},
            **{"max_lost_share": 1.0, "run_name": f"run-{self._runs}", **changes},
        }
        return small(data, self.folder / "runs", **told)

    def run(self, flat: Flat) -> Path:
        """Its folder."""
        return self.folder / "runs" / str(flat["run-name"])

    def begin(self, flat: Flat) -> str:
        """Starts it; Flower's id of it. The clock runs."""
        self._began = time.monotonic()
        changed: dict[str, Scalar] = {key: value for key, value in flat.items() if value != _DEFAULTS[key]}
        return self.server.start_run(changed)

    def go_on(self, flat: Flat) -> str:
        """What an operator does after a run died."""
        before = self._count(flat, "run begins")
        run = self.server.start_run_by(self.run(flat) / "resume.toml")
        self.server.wait(lambda: self._count(flat, "run begins") > before, "what goes on", LIMIT_S, LOOK_S)
        return run

    def end_of(self, flat: Flat, within_s: float = LIMIT_S, status: str = "completed") -> None:
        """Waits for it."""
        self.server.wait(lambda: self.status(flat) != "running", "the run's end", within_s, LOOK_S)
        assert self.status(flat) == status, self.server.log("superexec")[-3000:]
        self.seconds = time.monotonic() - self._began

    def status(self, flat: Flat) -> str:
        """By its folder: running, completed, failed. A killed one seems to run until another goes on with it and ends."""
        said = [event["event"] for event in self.events(flat) if event["event"] in ("run begins", "run ends")]
        return str(read_summary(self.run(flat))["status"]) if said[-1:] == ["run ends"] else "running"

    def _count(self, flat: Flat, what: str) -> int:
        return sum(event["event"] == what for event in self.events(flat))

    def lines(self, flat: Flat) -> list[dict[str, Any]]:
        """Of its metrics.jsonl, without round 0's."""
        there = (self.run(flat) / METRICS).exists()
        return [line for line in read_history(self.run(flat)) if line["round"]] if there else []

    def until_line(self, flat: Flat, number: int) -> None:
        """Until this round is over."""
        self.server.wait(lambda: len(self.lines(flat)) >= number, f"round {number}", LIMIT_S, LOOK_S)

    def until_training(self, flat: Flat, number: int, node: int = 0) -> None:
        """Until a node is at work for this round."""
        said = {"event": "training begins", "round": number}
        self.server.wait(
            lambda: any(said.items() <= event.items() for event in self.events(flat, node)),
            f"node {node}'s round {number}",
            LIMIT_S,
            LOOK_S,
        )

    def events(self, flat: Flat, node: int | None = None) -> list[dict[str, Any]]:
        """The run's log for machines; a node's own."""
        states = self.server.folder / f"node{node}" / "clients" / str(flat["run-name"])
        log = (self.run(flat) if node is None else states) / "log.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def whole(self, flat: Flat) -> Ran:
        """The same run in this process, with nothing in its way."""
        free = {"run-name", "runs-dir", "round-timeout-s", "quorum", "min-clients", "quorum-wait-s"}
        key = json.dumps({name: value for name, value in flat.items() if name not in free})
        if key not in self._whole:
            self._whole[key] = go({**flat, "runs-dir": str(self.folder / "whole")}, PARTITIONS, self._with_files)
        return self._whole[key]

    def _with_files(self, message: Message, context: Context) -> Message:
        """The client app, on nodes with these files."""
        own = {"data": str(self.own_data(int(context.node_config["partition-id"])))}
        return app(message, replace(context, node_config={**context.node_config, **own}))

    def same_bits(self, flat: Flat) -> bool:
        """Whether it ended with the parameters, and the clients' own figures, of the undisturbed run."""
        whole, here = self.whole(flat), read_summary(self.run(flat))
        same = (self.run(flat) / "parameters.safetensors").read_bytes() == whole.parameter_bytes
        return same and here["final"]["per_client"] == whole.summary["final"]["per_client"]


_DEFAULTS = defaults()


@contextmanager
def near_stage(folder: Path) -> Iterator[Stage]:
    """A federation on this machine's loopback."""
    folder.mkdir()
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.end()

"""A federation of real processes on the loopback: SuperLink, SuperExec and SuperNodes with TLS and node authentication."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from federation.settings import Scalar
from fedpeptao.cli import main
from fedpeptao.processes import end_all, free_port
from fedpeptao.run_config import to_toml

CHECKOUT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0


@dataclass
class Deployed:
    """A federation in a folder of its own; `end` leaves nothing running.

    Attributes:
        folder: keys, states and logs of all its processes lie below it.
        ports: of Fleet, Control and ServerAppIo.
        processes: by name, those that were started last.
    """

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("fleet", "control", "appio")})
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    # -- keys ------------------------------------------------------------------------------------------------

    def make_server_keys(self) -> None:
        assert main(["keys", "ca", str(self.keys("ca"))]) == 0
        assert main(["keys", "server", str(self.keys("server")), "--ca", str(self.keys("ca")), "127.0.0.1"]) == 0
        self.home("operator").mkdir(parents=True)
        own = {"address": self.address("control"), "root-certificates": str(self.keys("server") / "ca.crt")}
        (self.home("operator") / "config.toml").write_text(
            '[superlink]\ndefault = "fed"\n\n[superlink.fed]\n' + to_toml(own), encoding="utf8"
        )

    def make_node_keys(self, name: str) -> None:
        """On a real machine the authority's certificate is brought by its operator."""
        assert main(["keys", "node", str(self.keys(name))]) == 0
        (self.keys(name) / "ca.crt").write_bytes((self.keys("server") / "ca.crt").read_bytes())

    def keys(self, name: str) -> Path:
        return self.folder / "keys" / name

    # -- processes -------------------------------------------------------------------------------------------

    def start_server(self) -> None:
        addresses = [f"--{name}={self.address(name)}" for name in ("fleet", "control", "appio")]
        self.start("superlink", "superlink", "--keys", str(self.keys("server")), *addresses)
        self.start("superexec", "superexec", "--keys", str(self.keys("server")), addresses[-1])
        self.wait(lambda: "Starting Flower SuperExec" in self.log("superexec"), "the server")
        self.wait(lambda: self.flwr("supernode", "list", "--format", "json").returncode == 0, "the Control API")

    def start_node(self, number: int, nodes: int, *told: str, name: str = "") -> str:
        """A SuperNode, with a port of its own for its own processes."""
        name = name or f"node{number}"
        where = ["--superlink", self.address("fleet"), "--appio", f"127.0.0.1:{free_port()}"]
        which = ["--partition-id", str(number), "--num-partitions", str(nodes)]
        self.start(name, "supernode", "--keys", str(self.keys(name)), *where, *which, *told)
        return name

    def start(self, name: str, role: str, *told: str) -> subprocess.Popen[str]:
        state = self.folder / name
        command = [sys.executable, "-W", "ignore", "-m", "fedpeptao", "start", role, "--state", str(state), *told]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("a", encoding="utf8") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        return self.processes[name]

    @property
    def environment(self) -> dict[str, str]:
        python_path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        return {**os.environ, "PYTHONPATH": python_path, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf8", errors="replace")

    def home(self, name: str) -> Path:
        return self.folder / name / "flwr"

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def end(self) -> None:
        left = [process for name in self.processes for process in end_all(self.home(name))]
        for process in self.processes.values():
            process.kill()
            process.wait()
        assert left == []

    # -- the operator ----------------------------------------------------------------------------------------

    def flwr(self, *arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        own = {"FLWR_HOME": str(self.home("operator")), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return subprocess.run(
            ["flwr", *arguments],
            cwd=CHECKOUT,
            env={**self.environment, **own},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def register(self, name: str) -> None:
        told = self.flwr("supernode", "register", str(self.keys(name) / "node.pub"), "fed")
        assert told.returncode == 0, told.stdout + told.stderr

    def nodes_online(self) -> int:
        told = self.flwr("supernode", "list", "fed", "--format", "json")
        return sum(node["status"] == "online" for node in json.loads(told.stdout)["nodes"])

    def start_run(self, settings: dict[str, Scalar]) -> None:
        path = self.folder / "run.toml"
        path.write_text(to_toml(settings), encoding="utf8")
        told = self.flwr("run", ".", "fed", "--run-config", str(path))
        assert told.returncode == 0, told.stdout + told.stderr

    def status(self) -> str:
        """Of the latest run, in Flower's words."""
        return str(json.loads(self.flwr("ls", "fed", "--format", "json").stdout)["runs"][0]["status"])

    def run(self, settings: dict[str, Scalar], patience_s: float) -> str:
        """A whole run; its status."""
        self.start_run(settings)
        self.wait(lambda: self.status().startswith("finished"), "the run's end", patience_s, pause_s=3.0)
        return self.status()

    def wait(self, ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S, pause_s: float = 0.5) -> None:
        """Until it is so, or the test fails and shows what all processes said last."""
        end = time.monotonic() + patience_s
        while not ready():
            logs = "\n".join(f"{name}:\n{self.log(name)[-2000:]}" for name in self.processes)
            assert time.monotonic() < end, f"{what} is not there\n{logs}"
            time.sleep(pause_s)

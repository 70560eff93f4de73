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
from server_app.run_folder import SUMMARY, read_summary

CHECKOUT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0


@dataclass
class Deployed:
    """A federation in a folder of its own; `end` leaves nothing running.

    Attributes:
        folder: keys, states and logs of all its processes lie below it.
        ports: of Fleet, Control and ServerAppIo.
        processes: by name, those that were started last.
        host: by which nodes reach the server.
        namespaces: of the server, and of the nodes; "": this process's own.
    """

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("fleet", "control", "appio")})
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    namespaces: tuple[str, str] = ("", "")

    # -- keys ------------------------------------------------------------------------------------------------

    def make_server_keys(self) -> None:
        assert main(["keys", "ca", str(self.keys("ca"))]) == 0
        assert main(["keys", "server", str(self.keys("server")), "--ca", str(self.keys("ca")), self.host]) == 0
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
        self.start_role("superlink")
        self.start_role("superexec")
        self.wait(lambda: "Starting Flower SuperExec" in self.log("superexec"), "the server")
        self.wait(lambda: self.flwr("supernode", "list", "--format", "json").returncode == 0, "the Control API")

    def start_role(self, role: str) -> None:
        """The server's SuperLink, or its SuperExec."""
        names = ("fleet", "control", "appio") if role == "superlink" else ("appio",)
        addresses = [f"--{name}={self.address(name)}" for name in names]
        self.start(role, role, "--keys", str(self.keys("server")), *addresses)

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
        return self.start_command(name, _within(self.namespaces[role == "supernode"], command), {})

    def start_command(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Any process; its log goes on where one of its name ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("a", encoding="utf8") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self.processes[name]

    def alive(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

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
        return f"{self.host if name == 'fleet' else '127.0.0.1'}:{self.ports[name]}"

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
            _within(self.namespaces[0], ["flwr", *arguments]),
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
        """As the server lists them; none, while it cannot be asked."""
        try:
            told = self.flwr("supernode", "list", "fed", "--format", "json", timeout_s=20.0)
        except subprocess.TimeoutExpired:
            return 0
        return sum(node["status"] == "online" for node in json.loads(told.stdout).get("nodes", []))

    def start_run(self, settings: dict[str, Scalar]) -> str:
        """Flower's id of it."""
        path = self.folder / f"{settings.get('run-name', 'run')}.toml"
        path.write_text(to_toml(settings), encoding="utf8")
        return self.start_run_by(path)

    def start_run_by(self, path: Path) -> str:
        told = self.flwr("run", ".", "fed", "--run-config", str(path), "--format", "json")
        assert told.returncode == 0, told.stdout + told.stderr
        return str(json.loads(told.stdout)["run-id"])

    def status(self, run_id: str = "") -> str:
        """Of a run, or of the latest, in Flower's words."""
        listed = self.flwr("ls", "fed", *(["--run-id", run_id] if run_id else []), "--format", "json")
        return str(json.loads(listed.stdout)["runs"][0]["status"])

    def run_log(self, run_id: str) -> str:
        """What the application's server part said."""
        told = self.flwr("log", run_id, "fed", "--show")
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    def run(self, settings: dict[str, Scalar], patience_s: float) -> str:
        """A whole run, in a folder that is named; its status. Flower is asked when the folder says that it is over.

        Until there is a folder it is asked now and then: a run that is refused makes none.
        """
        run, folder = self.start_run(settings), Path(str(settings["runs-dir"])) / str(settings["run-name"])
        self.wait(lambda: folder.exists() or self.status(run).startswith("finished"), "its begin", patience_s, 2.0)
        if not folder.exists():
            return self.status(run)
        summary = folder / SUMMARY
        self.wait(lambda: summary.exists() and read_summary(folder)["status"] != "running", "the run's end", patience_s)
        self.wait(lambda: self.status(run).startswith("finished"), "Flower's word for it")
        return self.status(run)

    def wait(self, ready: Callable[[], bool], what: str, patience_s: float = PATIENCE_S, pause_s: float = 0.5) -> None:
        """Until it is so, or the test fails and shows what all processes said last."""
        end = time.monotonic() + patience_s
        while not ready():
            assert time.monotonic() < end, f"{what} is not there\n{self._last_words()}"
            time.sleep(pause_s)

    def _last_words(self) -> str:
        return "\n".join(f"{name}:\n{self.log(name)[-2000:]}" for name in self.processes)


def _within(namespace: str, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command] if namespace else command

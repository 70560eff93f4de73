"""What a node is told by whoever operates it, and by no message: who lives on it, where its data and states lie, its device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from federation.settings import Scalar, Settings
from fedpeptao.errors import InputError

AUTO, NONE = "auto", "none"
_PLACE = "node-config"


@dataclass(frozen=True)
class NodeConfig:
    """A node's own settings; Flower hands them to the application as `node_config`.

    Attributes:
        partition_id: k; client i lives on node i mod num_partitions.
        num_partitions: how many nodes there are.
        state_dir: absolute folder of its clients' states; "": beside the run's results.
        data: absolute path of its own examples, used where the run says partition = "own"; "": none.
        validation: absolute path of its own evaluation examples; "": split from data.
        device: in place of the run's; "": as the run says.
        worker: "auto": a process that stays warm answers its messages; "none": the one that Flower starts for each.
    """

    partition_id: int
    num_partitions: int
    state_dir: str = ""
    data: str = ""
    validation: str = ""
    device: str = ""
    worker: str = NONE

    def flat(self) -> dict[str, Scalar]:
        """As Flower's node-config: kebab-case keys, without those that are not set."""
        told = [(f.name.replace("_", "-"), getattr(self, f.name), f.default) for f in fields(self)]
        return {key: value for key, value, default in told if value != default}

    def settings(self, run: Settings) -> Settings:
        """A run's settings as they are on this node.

        Raises:
            InputError: the run is over nodes' own data, and this one has none, or more than one client for it.
        """
        if self.device:
            run = replace(run, model=replace(run.model, device=self.device))
        if not run.federation.own_data:
            return run
        if not self.data:
            raise InputError(_PLACE, "", 'this node has no data, and the run says partition = "own"', "Set data on it")
        if self.num_partitions < run.federation.clients:
            problem = f"with clients = {run.federation.clients} several live here, and its own data are one client's"
            raise InputError("num-partitions", self.num_partitions, problem, "Set it to the number of clients")
        return replace(run, data=replace(run.data, dataset=self.data, validation=self.validation, test=""))


def parse_node_config(given: Mapping[str, Scalar]) -> NodeConfig:
    """From Flower's node-config.

    Raises:
        InputError: a key that is none, a value that cannot be, or a file that is not there or may not be read.
    """
    names = {f.name.replace("_", "-"): f.name for f in fields(NodeConfig)}
    if unknown := sorted(given.keys() - names.keys()):
        raise InputError(
            _PLACE, unknown[0], "there is no such setting of a node", f"Its settings are {', '.join(names)}"
        )
    for key in ("partition-id", "num-partitions"):
        value = given.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(key, value, "a node needs a whole number here", "Set it in --node-config")
    node = NodeConfig(**{names[key]: value for key, value in given.items()})  # type: ignore[arg-type]
    if node.partition_id >= node.num_partitions:
        problem = f"with num-partitions = {node.num_partitions} they go from 0 to {node.num_partitions - 1}"
        raise InputError("partition-id", node.partition_id, problem, "Give each node one of its own")
    _check_paths(given)
    if node.worker not in (AUTO, NONE):
        raise InputError("worker", node.worker, "a node knows no such worker", f"Write {AUTO} or {NONE}")
    if node.worker == AUTO and not node.state_dir:
        raise InputError("worker", AUTO, "it is reached through a folder of the node", "Set state-dir, too")
    return node


def _check_paths(given: Mapping[str, Scalar]) -> None:
    for key in ("state-dir", "data", "validation", "device", "worker"):
        if not isinstance(given.get(key, ""), str):
            raise InputError(key, given[key], "it has to be a text", f'Write {key}="..." in --node-config')
    for key in ("state-dir", "data", "validation"):
        path = str(given.get(key, ""))
        if path and not Path(path).is_absolute():
            raise InputError(key, path, "it has to be an absolute path", "Begin it with /")
        if path and key != "state-dir":
            _check_file(key, path)


def _check_file(key: str, path: str) -> None:
    option = f"--{key} of fedpeptao start supernode"
    try:
        there = Path(path).is_file()
    except OSError as error:
        mend = f"Let the node's user into its folder, or name another file ({option})"
        raise InputError(key, path, f"this node cannot look for it ({error.strerror})", mend) from error
    if not there:
        raise InputError(key, path, "there is no such file on this node", f"Mend the path ({option})")
    if not os.access(path, os.R_OK):
        mend = f"Let the node's user read it, or name another file ({option})"
        raise InputError(key, path, "this node may not read it", mend)

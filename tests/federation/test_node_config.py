"""What a node is told: read strictly, and never more than the run asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from federation.node_config import NodeConfig, parse_node_config
from federation.settings import Scalar, parse
from fedpeptao.errors import InputError
from tests.small_runs import Flat

PLACE: dict[str, Scalar] = {"partition-id": 1, "num-partitions": 5}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.touch()
    node = NodeConfig(1, 5, state_dir=str(tmp_path), data=str(data), device="cpu")
    assert parse_node_config(node.flat()) == node
    assert set(node.flat()) == {"partition-id", "num-partitions", "state-dir", "data", "device"}


@pytest.mark.parametrize(
    ("told", "key"),
    [
        ({"date": "/x"}, "node-config"),
        ({"partition-id": 5}, "partition-id"),
        ({"partition-id": -1}, "partition-id"),
        ({"num-partitions": "5"}, "num-partitions"),
        ({"partition-id": True}, "partition-id"),
        ({"data": "here.jsonl"}, "data"),
        ({"data": "/no/such/file.jsonl"}, "data"),
        ({"validation": "/no/such/file.jsonl"}, "validation"),
        ({"state-dir": "states"}, "state-dir"),
        ({"device": 0}, "device"),
        ({"worker": "hot", "state-dir": "/x"}, "worker"),
        ({"worker": "auto"}, "worker"),
    ],
)
def test_what_cannot_be_is_named(told: dict[str, Scalar], key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_node_config({**PLACE, **told})
    assert caught.value.key == key


def test_a_file_that_is_not_there_is_named_with_the_option_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl.*there is no such file on this node.*--data of fedpeptao start"):
        parse_node_config(PLACE | {"data": str(tmp_path / "gone.jsonl")})


@pytest.mark.parametrize("key", ["data", "validation"])
def test_a_file_that_its_user_cannot_reach_or_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    file = tmp_path / "d.jsonl"
    file.touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(
        InputError, match=rf"^{key} = .*d\.jsonl.*this node may not read it.*--{key} of fedpeptao start"
    ):
        parse_node_config(PLACE | {key: str(file)})
    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(InputError, match=rf"^{key} = .*cannot look for it \(Permission denied\).*--{key} of fedpeptao"):
        parse_node_config(PLACE | {key: str(file)})


def closed(path: Path, **how: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_run_over_a_common_data_set_does_not_touch_a_nodes_own(make_flat: Callable[..., Flat]) -> None:
    run = parse(make_flat())
    assert NodeConfig(0, 5, data="/own.jsonl", validation="/v.jsonl").settings(run) == run


def test_the_nodes_file_stands_in_for_the_runs(make_flat: Callable[..., Flat]) -> None:
    run = parse(make_flat(partition="own", dataset="stdlib-docs", test="/server/test.jsonl"))
    found = NodeConfig(0, 5, data="/own.jsonl", device="cuda:1").settings(run)
    assert (found.data.dataset, found.data.validation, found.data.test) == ("/own.jsonl", "", "")
    assert found.model.device == "cuda:1"
    with pytest.raises(InputError, match="has no data"):
        NodeConfig(0, 5).settings(run)
    with pytest.raises(InputError, match="several live here"):
        NodeConfig(0, 4, data="/own.jsonl").settings(run)


@pytest.mark.parametrize("told", [{"dataset": "/d.jsonl"}, {"dataset": "stdlib-docs", "validation": "/v.jsonl"}])
def test_a_run_over_nodes_own_data_names_no_data_set(told: dict[str, Scalar], make_flat: Callable[..., Flat]) -> None:
    with pytest.raises(InputError, match="each node names its own"):
        parse(make_flat(partition="own", **told))

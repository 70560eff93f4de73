"""An application whose worker is there at once: this one's folder, with an answer that loads no model."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto

from client_app.warm.asking import APPLICATION, FOLDER
from federation.node_config import AUTO, NodeConfig

ANSWERING = """
import os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict

def answer(message, context):
    ask = message.content.config_records["ask"]
    if ask["do"] == "raise":
        raise ValueError("that cannot be")
    if ask["do"] == "wait":
        Path(ask["mark"]).touch()
        time.sleep(60)
    return Message(RecordDict({"reply": ConfigRecord({"pid": os.getpid(), "said": ask["do"]})}), reply_to=message)
"""
BROKEN = "raise ImportError('a library is not there')\n"
PATIENCE_S = 120.0


def make_application(folder: Path, answering: str = ANSWERING) -> Path:
    """Code of another folder counts as another version."""
    shutil.copytree(APPLICATION / "client_app", folder / "client_app", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "client_app" / "answering.py").write_text(answering, encoding="utf8")
    return folder


def node(states: Path) -> NodeConfig:
    return NodeConfig(0, 1, state_dir=str(states), worker=AUTO)


def context(run: int = 1) -> Context:
    return Context(run_id=run, node_id=7, node_config={}, state=RecordDict(), run_config={"rounds": 2})


def message(do: str, **more: str) -> Message:
    """As it comes from Flower: with ids."""
    made = Message(RecordDict({"ask": ConfigRecord({"do": do, **more})}), dst_node_id=7, message_type="train")
    made.metadata.__dict__.update(_message_id="m1", _src_node_id=1, _run_id=1)
    return message_from_proto(message_to_proto(made))


def pid_of(reply: Message | None) -> int:
    assert reply is not None
    return int(str(reply.content.config_records["reply"]["pid"]))


def workers(states: Path) -> list[psutil.Process]:
    """Those whose socket lies here."""
    mine = str(states / FOLDER)
    return [process for process in psutil.process_iter() if any(mine in part for part in _command(process))]


def until(ready: object, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextmanager
def python_path() -> Iterator[None]:
    """What is not in the stand-in comes from this checkout."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(APPLICATION), *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _command(process: psutil.Process) -> list[str]:
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except psutil.Error:
        return []


assert sys.platform == "linux"

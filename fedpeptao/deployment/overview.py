"""A federation at a glance: which nodes are connected, and what the newest run's log says of the clients that live on them.

Flower knows nodes and knows no clients; a run's log knows both. Neither needs to be running for the other to be shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation import locks
from federation.logs import LOG
from federation.resuming import how_to_go_on
from fedpeptao.errors import InputError

WAITING = ("pending", "starting")
RUNNING, DIED = "running", "died"
Event = Mapping[str, Any]


@dataclass(frozen=True)
class ClientSeen:
    """What a run's log says of a client.

    Attributes:
        client: its number.
        node: where it lived when it was last heard of.
        reply: when its last reply was used, or was not (UTC, ISO 8601); "" if it gave none yet.
        round: of that reply.
        state: what it went on from then: new, restored, or lost (it had one, and began anew).
        accepted: rounds in which its reply was used.
        trouble: why its last reply was not used; "" if it was.
    """

    client: int
    node: int | None = None
    reply: str = ""
    round: int = 0
    state: str = ""
    accepted: int = 0
    trouble: str = ""

    def after(self, event: Event) -> ClientSeen:
        """With one more line of the log."""
        here = replace(self, node=event.get("node", self.node))
        time, round_ = str(event.get("time", "")), int(event.get("round", 0))
        match event["event"]:
            case "reply accepted":
                used = replace(here, reply=time, round=round_, trouble="")
                return replace(used, state=str(event.get("state", "")))
            case "reply failed" | "reply refused":
                return replace(here, reply=time, round=round_, trouble=str(event.get("why", "")))
            case "reply missing":
                return replace(here, trouble=f"no reply in round {round_}")
        return here


@dataclass(frozen=True)
class Node:
    """A node as the SuperLink knows it.

    Attributes:
        node: Flower's id.
        status: online, offline, or registered (never there yet).
        since: when that began (UTC); "" if nobody knows.
        clients: who lives there, as far as the run knows.
        refused: why the run does not let it take part; "" if it does.
    """

    node: int
    status: str
    since: str
    clients: tuple[ClientSeen, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Overview:
    """All that is shown.

    Attributes:
        nodes: in the order of registration.
        waiting: Flower's ids of runs that were submitted and have not begun.
        run: folder of the run that clients are shown of; None: there is none.
        status: of that run, `died` if nobody works on it any more and it did not come to say so; the last round with a line.
    """

    nodes: tuple[Node, ...]
    waiting: tuple[str, ...] = ()
    run: Path | None = None
    status: str = ""
    round: int = 0
    elsewhere: tuple[ClientSeen, ...] = field(default=())

    def flat(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "run": None if self.run is None else str(self.run)}


def read_log(folder: Path) -> list[Event]:
    """A run's events; lines that a dying process left half are passed over. [] if there is no log."""
    try:
        lines = (folder / LOG).read_text(encoding="utf8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        mend = "Run this as the user whose run it is"
        raise InputError("--run", str(folder), f"its log cannot be read ({error.strerror})", mend) from error
    return [event for line in lines if isinstance(event := _parsed(line), dict) and "event" in event]


def overview(
    listed: Mapping[str, Any], runs: Mapping[str, Any], folder: Path | None, events: Iterable[Event]
) -> Overview:
    """What `flwr supernode list` and `flwr ls` answered, and a run's folder with its log."""
    clients, refused = _clients(events)
    nodes = []
    for told in listed["nodes"]:
        number, status = int(told["node-id"]), str(told["status"])
        since = told["online-at"] if status == "online" else told["offline-at"]
        here = tuple(clients.pop(c) for c, seen in sorted(clients.items()) if seen.node == number)
        nodes.append(Node(number, status, "" if since == "N/A" else since, here, refused.get(number, "")))
    waiting = tuple(str(run["run-id"]) for run in runs["runs"] if run["status"] in WAITING)
    left = tuple(clients[number] for number in sorted(clients))
    status, last = ("", 0) if folder is None else _progress(folder)
    return Overview(tuple(nodes), waiting, folder, status, last, left)


def as_table(name: str, shown: Overview, now: datetime | None = None) -> Iterator[str]:
    """For people; a line per node, or per client where several live on it."""
    now = now or datetime.now(UTC)
    online = sum(node.status == "online" for node in shown.nodes)
    about = "no run was found" if shown.run is None else f"run {shown.run.name}: {shown.status}, round {shown.round}"
    yield f"{name}: {online} of {len(shown.nodes)} nodes online; {about}"
    if shown.status == DIED and shown.run is not None:
        yield f"to go on with it: {how_to_go_on(shown.run, federation=name)}"
    if shown.waiting:
        yield f"waiting to begin: {', '.join(shown.waiting)} (if that lasts, is the SuperExec running?)"
    rows: list[tuple[str, ...]] = [("node", "status", "since", "client", "last reply", "state", "accepted", "")]
    for node in shown.nodes:
        first = (str(node.node), node.status, _ago(node.since, now))
        rows += _rows(first, node.clients, now) or [(*first, "-", "-", "-", "-", node.refused)]
    rows += _rows(("no node", "-", "-"), shown.elsewhere, now)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)] + [row[-1]]).rstrip()


def _rows(first: tuple[str, str, str], clients: Sequence[ClientSeen], now: datetime) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for seen in clients:
        last = f"round {seen.round}, {_ago(seen.reply, now)}" if seen.reply else "-"
        rows.append((*first, str(seen.client), last, seen.state or "-", str(seen.accepted), seen.trouble))
        first = ("", "", "")
    return rows


def _clients(events: Iterable[Event]) -> tuple[dict[int, ClientSeen], dict[int, str]]:
    """By number; and why which nodes may not take part."""
    clients: dict[int, ClientSeen] = {}
    used: dict[int, set[int]] = {}  # rounds; one that was void, or is done again after a resumption, counts once
    refused: dict[int, str] = {}
    for event in events:
        number = event.get("client")
        if isinstance(number, int):
            clients[number] = clients.get(number, ClientSeen(number)).after(event)
            if event["event"] == "reply accepted":
                used.setdefault(number, set()).add(int(event.get("round", 0)))
        if event["event"] == "round void":
            for rounds in used.values():
                rounds.discard(int(event.get("round", 0)))
        if event["event"] == "may not take part" and isinstance(event.get("node"), int):
            refused[event["node"]] = str(event.get("why", ""))
    return {number: replace(seen, accepted=len(used.get(number, ()))) for number, seen in clients.items()}, refused


def _progress(folder: Path) -> tuple[str, int]:
    """Status and last round of a run, by what lies in its folder now."""
    summary = _parsed(_text(folder / "summary.json"))
    lines = [_parsed(line) for line in _text(folder / "metrics.jsonl").splitlines()]
    rounds = [int(line["round"]) for line in lines if isinstance(line, dict) and "round" in line]
    status = str(summary.get("status", RUNNING)) if isinstance(summary, dict) else RUNNING
    dead = status == RUNNING and not locks.is_taken(folder / "metrics.jsonl")
    return DIED if dead else status, max(rounds, default=0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _ago(when: str, now: datetime) -> str:
    """ "3 min ago"; "-" for no time."""
    if not when:
        return "-"
    begun = datetime.fromisoformat(when.replace(" ", "T").replace("Z", "+00:00"))
    seconds = max(0.0, (now - begun.replace(tzinfo=begun.tzinfo or UTC)).total_seconds())
    size, unit = next((one[1:] for one in _UNITS if seconds >= one[0]), (1, "s"))
    return f"{seconds / size:.0f} {unit} ago"


_UNITS = ((172_800, 86_400, "d"), (7200, 3600, "h"), (120, 60, "min"))

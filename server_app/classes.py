"""What clients call the classes: who has which, and names that may be meant for one, as `negative` and `Negative`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from federation.logs import event
from server_app.console import some, warn

_SHOWN = 5


def holders(labels: Mapping[int, Collection[str]]) -> dict[str, list[int]]:
    """Label -> the clients that have it; both in order."""
    found: dict[str, list[int]] = {}
    for client, names in sorted(labels.items()):
        for name in names:
            found.setdefault(name, []).append(client)
    return dict(sorted(found.items()))


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Those that differ only by case or by blanks around them, together."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(label.strip().casefold(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def warn_of_alike(seen: Mapping[str, Sequence[int]], nodes: Mapping[int, int]) -> None:
    """In the log and to the user; seen: label -> clients; nodes: client -> node."""
    groups = alike(seen)
    for group in groups[:_SHOWN]:
        who = {label: seen[label] for label in group}
        event("classes alike", logging.WARNING, classes=who)
        warn(f"Classes that differ only by case or blanks: {with_holders(who, nodes)}")
    if groups:
        more = f"{len(groups) - _SHOWN} more are alike. " if len(groups) > _SHOWN else ""
        warn(f"  {more}Names that are meant for one class have to be the same in the data of all clients")


def with_holders(seen: Mapping[str, Sequence[int]], nodes: Mapping[int, int]) -> str:
    """Labels, each with the clients that have it; one client with its node."""
    return ", ".join(f"{plain(label)} ({_who(clients, nodes)})" for label, clients in seen.items())


def plain(label: str) -> str:
    """A label for people; in quotes where blanks or what cannot be printed would not be seen."""
    return label if label.isprintable() and label == label.strip() else repr(label)


def _who(clients: Sequence[int], nodes: Mapping[int, int]) -> str:
    if len(clients) > 1:
        return f"{len(clients)} clients: {some(clients)}"
    where = f" on node {nodes[clients[0]]}" if clients[0] in nodes else ""  # it may have left meanwhile
    return f"client {clients[0]}{where}"

"""How the clients fare, one by one: accuracy against size, its distribution, and what personalisation gives each of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server_app.report.facts import Run, number
from server_app.report.markup import Element, folded, table
from server_app.report.plot import Frame, Key, axis
from server_app.report.sections import figure, section

MOST = 1000  # of clients that are drawn or listed one by one; beyond it, every second, third, ..
BINS = 10
_LEAST_RADIUS, _RADIUS = 2.6, 2.2


@dataclass(frozen=True)
class Client:
    """A client in the last evaluation: n_i, its evaluation examples, its two accuracies, and its name (else its number)."""

    number: int
    name: str
    examples: int
    labels: int
    tested: int
    own: float
    shared: float


def clients_section(run: Run) -> Element:
    """Three plots, a summary, and all clients."""
    clients = _clients(run)
    if not clients:
        return section("clients", "Clients", [])
    shown = clients[:: -(-len(clients) // MOST)]
    some = f" {len(shown)} of {len(clients)} clients are drawn." if len(shown) < len(clients) else ""
    plots = [
        figure(
            "Accuracy against size",
            _against_size(run, shown),
            "Each client with its own model, on its own evaluation examples; the line is all of them pooled." + some,
        ),
        figure("Distribution", _distribution(clients), "How many clients have which accuracy."),
        figure(
            "What personalisation gives",
            _gain(shown),
            "Each client's accuracy with its own model over that of the shared model; above the diagonal, it gains. Larger "
            "circles are several clients at one place.",
        ),
    ]
    return section("clients", "Clients", plots, _summary(clients), _table(shown, len(clients)))


def _clients(run: Run) -> list[Client]:
    """Those with evaluation examples, by number."""
    known = run.summary.get("clients") or {}
    found = []
    for client, counts in (run.final.get("per_client") or {}).items():
        if not counts["examples"]:
            continue
        one = known.get(client) or {}
        own, shared = (counts[key] / counts["examples"] for key in ("correct", "shared_correct"))
        found.append(
            Client(
                int(client),
                one.get("name", client),
                one.get("examples", 0),
                len(one.get("labels", [])),
                counts["examples"],
                own,
                shared,
            )
        )
    return sorted(found, key=lambda client: client.number)


def _against_size(run: Run, clients: Sequence[Client]) -> Element:
    x = axis("training examples of the client", 0, max(client.examples for client in clients), whole=True)
    frame = Frame("Accuracy of each client against its number of training examples", x, axis("accuracy", 0, 1.0))
    if (pooled := run.final.get("personalised_accuracy")) is not None:
        frame.level(pooled, f"all {pooled:.3f}", "orange")
    for client in clients:
        tip = (
            f"client {client.name}: {client.examples} training examples of {client.labels} labels\n"
            f"personalised: {client.own:.3f}\nshared model: {client.shared:.3f}\non {client.tested} evaluation examples"
        )
        frame.circle(client.examples, client.own, 3.6, "dot orange", tip)
    return frame.element


def _distribution(clients: Sequence[Client]) -> Element:
    edges = np.linspace(0, 1, BINS + 1)
    own = np.histogram([client.own for client in clients], edges)[0].tolist()
    shared = np.histogram([client.shared for client in clients], edges)[0].tolist()
    keys = [Key("personalised", "orange", "square"), Key("shared model", "green", "square")]
    y = axis("clients", 0, max(*own, *shared), whole=True)
    frame = Frame("Distribution of the clients' accuracies", axis("accuracy", 0, 1.0), y, keys)
    for left, right, a, b in zip(edges[:-1], edges[1:], own, shared, strict=True):
        middle = (left + right) / 2
        frame.bar(left, middle, 0, a, "fill orange", gap=0.8)
        frame.bar(middle, right, 0, b, "fill green", gap=0.8)
        frame.band(
            left, right, f"accuracy {left:.1f} to {right:.1f}\npersonalised: {a} clients\nshared model: {b} clients"
        )
    return frame.element


def _gain(clients: Sequence[Client]) -> Element:
    x, y = axis("accuracy with the shared model", 0, 1.0), axis("accuracy, personalised", 0, 1.0)
    frame = Frame("Accuracy of each client, personalised over shared", x, y)
    frame.line([0, 1], [0, 1], "grey thin")
    places: dict[tuple[float, float], list[str]] = defaultdict(list)
    for client in clients:
        places[round(client.shared, 6), round(client.own, 6)].append(client.name)
    for (shared, own), names in sorted(places.items(), key=lambda place: -len(place[1])):
        who = ", ".join(names[:12]) + (", .." if len(names) > 12 else "")
        several = "clients" if len(names) > 1 else "client"
        tip = f"personalised: {own:.3f}\nshared model: {shared:.3f}\n{several} {who}"
        frame.circle(shared, own, _LEAST_RADIUS + _RADIUS * (len(names) - 1) ** 0.5, "dot orange", tip)
    return frame.element


def _summary(clients: Sequence[Client]) -> Element:
    head = ("over clients", "mean", "median", "worst tenth", "best tenth", "least", "std. deviation")
    rows = []
    for name, values in (("personalised", [c.own for c in clients]), ("shared model", [c.shared for c in clients])):
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
        figures = (np.mean(values), middle, low, high, min(values), np.std(values))
        rows.append((name, *(number(float(value)) for value in figures)))
    signs = Counter(int(np.sign(client.own - client.shared)) for client in clients)
    caption = (
        f"Each client counts once. Of {len(clients)} clients, {signs[1]} are better off personalised, {signs[0]} the same, "
        f"{signs[-1]} worse. Worst and best tenth are the quantiles at .1 and .9"
    )
    return table(head, rows, caption)


def _table(shown: Sequence[Client], clients: int) -> Element:
    head = ("client", "training examples", "labels", "evaluation examples", "personalised", "shared model")
    rows = [(c.name, c.examples, c.labels, c.tested, number(c.own), number(c.shared)) for c in shown]
    caption = "Accuracies of each client in the last evaluation"
    caption += f"; {len(shown)} of {clients}, summary.json has all" if len(shown) < clients else ""
    return folded("Figures by client", table(head, rows, caption))

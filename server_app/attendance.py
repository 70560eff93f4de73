"""Who is there: nodes come and go between rounds, and with them the clients that live on them.

A client is its number in the roll call and no node: one that comes back under another node is the same client. A node that was
not heard yet gets a roll call of its own; but at the start of a run nobody waits for the answer, which counts when it has come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from flwr.app import Message

from federation import records
from federation.grids import LOST, Exchange, RecordingGrid
from federation.logs import event
from federation.messages import ROLL_CALL, RollCallAsk, RollCallReply
from federation.settings import Settings
from fedpeptao.errors import RunError
from server_app import roll_call
from server_app.classes import plain
from server_app.console import say, warn
from server_app.roll_call import RollCall
from strategies.shell import SelectiveStrategy

POLL_S = 0.5
ASK_AGAIN_S = 60.0
"""After so long a node that was refused is asked again: it may have been mended and restarted between two looks, under its id."""


class Attendance:
    """Keeps a strategy's roster true.

    Args:
        run: the run's name.
        found: by a roll call before, and what an earlier process of the run knew of its clients.
        labels: the run's classes; () while they are not agreed on: then a client may have any.
        present: clients that were there when the run was last heard of; None: those found.
    """

    def __init__(
        self,
        grid: RecordingGrid,
        settings: Settings,
        run: str,
        found: RollCall,
        labels: Collection[str] = (),
        present: Collection[int] | None = None,
    ) -> None:
        self._grid, self._settings, self._run = grid, settings, run
        self.found, self.labels = found, labels
        self._present = set(found.nodes if present is None else present)
        self._homes = dict(found.nodes)  # client -> its last node, whether that is there or not
        self._asked: dict[str, int] = {}  # message -> node, of roll calls without an answer
        self._contested: dict[int, set[int]] = {}  # node -> clients that it may not have while another node has them
        self._refused: dict[int, float] = {}  # node -> when it was refused, or one of its clients (monotonic)
        self._connected: set[int] = set()
        self._refusals: list[str] = []
        self._news: dict[str, list[int]] = {}
        self._absent = sorted(found.agreed.keys() - self._present)

    def gather(self, wanted: int, score: bool) -> None:
        """Waits until so many clients are there, for `round-timeout-s` at most; score: asks for the layers' scores too.

        Raises:
            RunError: they are not.
        """
        within, last = self._settings.run.round_timeout_s, -1
        end = time.monotonic() + within
        while True:
            self._listen(score)
            there = len(self.found.nodes)
            if there >= wanted:
                if not self.found.before:  # a run that begins: nobody was there before
                    self._present = set(self.found.nodes)
                return
            if time.monotonic() > end:
                refused = f". Refused: {'; '.join(self._refusals)}" if self._refusals else ""
                raise RunError(
                    f"{there} of the {wanted} clients with which a run begins (min-clients) answered the roll call "
                    f"within {within:g} s (round-timeout-s){refused}"
                )
            if there != last:
                say(f"  {there} of {wanted} clients are there")
                last = there
            time.sleep(POLL_S)

    def look(self, strategy: SelectiveStrategy) -> None:
        """Between two rounds: asks who is new, hears who has answered, and tells the strategy who is there now."""
        self._listen(score=False)
        roster, agreed, nodes = strategy.roster, self.found.agreed, dict(self.found.nodes)
        joined = sorted(agreed.keys() - roster.examples.keys())
        self._tell("joined", joined)
        self._tell("back", sorted(nodes.keys() - self._present - set(joined)))
        self._tell("left", sorted(self._present - nodes.keys()))
        self._present, self._absent = set(nodes), sorted(agreed.keys() - nodes.keys())
        if nodes == roster.nodes and not joined:
            return
        evaluated = {client: reply.validation_examples for client, reply in self.found.replies.items()}
        strategy.meet(
            replace(
                roster,
                examples={client: examples for client, (examples, _) in agreed.items()},
                steps={client: steps for client, (_, steps) in agreed.items()},
                evaluated=evaluated,
                nodes=nodes,
            )
        )

    def wait(self, strategy: SelectiveStrategy, wanted: int, end: float, alarm: Callable[[], None]) -> bool:
        """Looks until so many clients can be asked, or it is `end` (monotonic); whether they can. alarm: before it waits."""
        self.look(strategy)
        if len(strategy.clients) < wanted and time.monotonic() < end:
            alarm()
        while len(strategy.clients) < wanted and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
            self.look(strategy)
        return len(strategy.clients) >= wanted

    def news(self) -> dict[str, list[int]]:
        """For a round's line: who joined, came back and left since the last one, and who is not there; where there are any."""
        told, self._news = self._news, {}
        return {**told, **({"absent": self._absent} if self._absent else {})}

    def _tell(self, what: str, clients: Collection[int]) -> None:
        for client in clients:
            examples, steps = self.found.agreed[client]
            event(f"client {what}", client=client, node=self._homes.get(client), examples=examples, steps=steps)
        if clients:
            self._news[what] = [*self._news.get(what, []), *clients]

    # -- nodes -----------------------------------------------------------------------------------------------

    def _listen(self, score: bool) -> None:
        """Who is connected now; asks nodes that were not heard, and takes the answers that have come."""
        there = set(self._grid.get_node_ids())
        self._forget(self._connected - there)
        self._connected = there
        with self._grid.aside():
            self._ask(self._unheard(), score)
            while self._asked and (replies := list(self._grid.pull_messages(list(self._asked)))):
                for reply in replies:
                    self._hear(Exchange(self._asked.pop(reply.metadata.reply_to_message_id), reply))
        nodes = {client: node for client, node in self._homes.items() if node in there}
        self.found = replace(self.found, nodes=nodes)

    def _forget(self, gone: Collection[int]) -> None:
        """Nodes that are gone have to answer anew when they are back: whoever mended one restarted it."""
        self._grid.wait_no_longer(message for message, node in self._asked.items() if node in gone)
        self._asked = {message: node for message, node in self._asked.items() if node not in gone}
        self._contested = {node: clients for node, clients in self._contested.items() if node not in gone}
        self._refused = {node: when for node, when in self._refused.items() if node not in gone}
        self.found.heard.difference_update(gone)

    def _unheard(self) -> list[int]:
        """Whom to ask: who was not heard yet, was refused a while ago, or was refused a client whose other node is gone."""
        free = {node for node, clients in self._contested.items() if any(not self._held(c, node) for c in clients)}
        free |= {node for node, when in self._refused.items() if time.monotonic() - when >= ASK_AGAIN_S}
        for node in free:
            self._contested.pop(node, None)
            self._refused.pop(node, None)
        self.found.heard.difference_update(free)
        return sorted(self._connected - self.found.heard - set(self._asked.values()))

    def _ask(self, nodes: Collection[int], score: bool) -> None:
        ask = records.encode_roll_call(RollCallAsk(run=self._run, score=score))
        ids = self._grid.push_messages([Message(ask, node, ROLL_CALL) for node in nodes])
        self._asked |= {message: node for message, node in zip(ids, nodes, strict=True) if message}

    def _hear(self, exchange: Exchange) -> None:
        """One node's answer: its clients live there from now on, and no others do."""
        node, replies = exchange.node, list[RollCallReply]()
        if exchange.reply.has_error() and exchange.reply.error.code in LOST:
            return  # it did not answer itself, and is asked again
        self.found.heard.add(node)
        try:
            replies = roll_call.read(exchange, self._settings)
        except RunError as error:
            self._refuse(str(error), node=node)
        here = {reply.client: reply for reply in replies if self._admitted(reply, node)}
        others = {client: home for client, home in self._homes.items() if home != node}
        for client in here.keys() & others.keys():
            event("client moved", client=client, node=node, before=others[client])
        self._homes = {**others, **dict.fromkeys(here, node)}
        self.found.replies.update(here)

    # -- clients ---------------------------------------------------------------------------------------------

    def _admitted(self, reply: RollCallReply, node: int) -> bool:
        """Whether a client may take part from this node; says why, if not."""
        if self._held(reply.client, node):
            self._contested.setdefault(node, set()).add(reply.client)
            why = f"it lives on node {self._homes[reply.client]}, which is there: give each node its own partition-id"
        else:
            why = self._objection(reply)
        if why:
            self._refuse(why, node=node, client=reply.client)
        return not why

    def _held(self, client: int, node: int) -> bool:
        """Whether another node has the client, and is there."""
        home = self._homes.get(client, node)
        return home != node and home in self._connected

    def _objection(self, reply: RollCallReply) -> str:
        """Why a client may not take part; "" if it may."""
        if reply.fault:
            return reply.fault
        if what := roll_call.differing(self._settings, reply):
            return f"it holds another version of the {'data set' if what == 'dataset' else what} than the server"
        labels = self.labels or self._settings.data.named_labels
        if labels and (strange := sorted(set(reply.labels) - set(labels))):
            return f"it has labels that the run does not know: {', '.join(map(plain, strange[:5]))}"
        found = (reply.examples, reply.steps)
        if (agreed := self.found.agreed.get(reply.client, found)) != found:
            began = f"{agreed[0]} examples and {agreed[1]} steps a round"
            return f"it began with {began}, and now has {found[0]} and {found[1]}"
        return ""

    def _refuse(self, why: str, **about: int) -> None:
        """Says so once for each reason: the node is asked again. about: the node, and the client if it is one's fault."""
        self._refused[about["node"]] = time.monotonic()
        who = f"client {about['client']} on node {about['node']}" if "client" in about else f"node {about['node']}"
        if f"{who}: {why}" in self._refusals:
            return
        self._refusals.append(f"{who}: {why}")
        event("may not take part", logging.WARNING, why=why, **about)
        warn(f"{who} may not take part: {why}")

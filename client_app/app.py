"""Flower's entry on a node: a message is answered by the node's warm worker where it has one, else in this process.

What answers loads torch and transformers, some seconds. So it is imported by who answers, and not to pass a message on.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.discretion import discreet
from federation.node_config import AUTO, parse_node_config

app = ClientApp()


@app.query("roll_call")
@app.query("curvature")
@app.train()
@app.evaluate()
@discreet
def answer(message: Message, context: Context) -> Message:
    """The reply to any message; what each kind is: client_app/answering.py."""
    node = parse_node_config(context.node_config)
    if node.worker == AUTO:
        from client_app.warm.asking import ask

        reply = ask(message, context, node)
        if reply is not None:
            return reply
    from client_app import answering

    return answering.answer(message, context)

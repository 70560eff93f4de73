"""What of an error may leave a node that trains on data of its own: no path and no row, both of which messages about files name.

The node's log has all of it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from flwr.app import Context, Message

from federation.messages import MessageError, NodeError
from federation.setting_groups import OWN
from fedpeptao.errors import InputError

logger = logging.getLogger("flwr")
Handler = Callable[[Message, Context], Message]


def reason(error: Exception, own_data: bool) -> str:
    """Why there is no answer, for the server."""
    if not own_data or isinstance(error, MessageError | NodeError):  # those name what arrived, and nothing of the node
        return f"{type(error).__name__}: {error}"
    at = f" in {error.key}" if isinstance(error, InputError) else ""
    return f"{type(error).__name__}{at}: the node's log says more, which stays there"


def discreet(handler: Handler) -> Handler:
    """A handler whose errors are fit to travel: Flower puts an error's text into the reply."""

    @functools.wraps(handler)
    def careful(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            if context.run_config.get("partition") != OWN or isinstance(error, MessageError | NodeError):
                raise
            logger.exception("this node cannot answer")
            raise NodeError(reason(error, own_data=True)) from None

    return careful

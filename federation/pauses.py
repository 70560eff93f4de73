"""How long Flower's processes of a deployment pause before they look again; there is no setting for it.

Flower 1.31 sleeps 3 s on a node where the server has no message, 1 s between two looks for work to start, 0.5 s between two looks
for a reply, whatever happens; and who sees a message before its last part has come waits 1 s for that part. So the modules that
do so get another `sleep`, whose pause is a share of the time since something last happened, and never longer than Flower's (an
idle node asks as rarely as ever); and a first wait for a part that is shorter, and doubles as ever.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import ModuleType

SHORTEST_S, SHARE = 0.1, 0.1
PULLS = ("pull_objects", "pull_and_inflate_object_from_tree")


class Pauses:
    """Stands in for the module time in one loop, which asks it for `sleep` alone.

    Something has happened when the loop sleeps for another time than before (it has left one wait and begun another), or when
    told so by `anew`.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep, self._asked, self._since = clock, sleep, 0.0, clock()

    def sleep(self, seconds: float) -> None:
        """At most so long."""
        if seconds != self._asked:
            self._asked = seconds
            self.anew()
        self._sleep(min(seconds, max(SHORTEST_S, SHARE * (self._clock() - self._since))))

    def anew(self) -> None:
        """Something has happened."""
        self._since = self._clock()


def put_into(module: ModuleType) -> Pauses:
    """The module's loop pauses so from now on, in this process.

    Raises:
        AttributeError: it is no module whose loop sleeps by `time.sleep`.
    """
    if getattr(module, "time", None) is not time:
        raise AttributeError(f"{module.__name__} does not sleep as Flower 1.31 does")
    pauses = Pauses()
    vars(module)["time"] = pauses
    return pauses


def look_again_soon(module: ModuleType) -> None:
    """Where this module's functions find a message's part missing, they wait SHORTEST_S for it first, in this process.

    Raises:
        AttributeError: it fetches no messages.
    """
    names = [name for name in PULLS if hasattr(module, name)]
    if not names:
        raise AttributeError(f"{module.__name__} fetches no messages as Flower 1.31 does")
    for name in names:
        setattr(module, name, functools.partial(getattr(module, name), initial_backoff=SHORTEST_S))

"""A session's folder, its signals, and what comes between them."""

import os
import signal
import sys
import time

import pytest

from fedpeptao.session import Session

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_signal_before_a_child_ends_the_child_at_its_start() -> None:
    with Session() as session:
        os.kill(os.getpid(), signal.SIGTERM)
        child = session.start(SLEEP)
        assert child.wait(timeout=5) == -signal.SIGKILL
    assert session.received == signal.SIGTERM


def test_the_first_signal_counts_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Session() as session:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert session.received == signal.SIGINT
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def fail_in(session: Session) -> None:
    """Raises while a child runs."""
    with session:
        session.environment = {**os.environ, "FLWR_HOME": str(session.home)}
        session.start(SLEEP)
        raise ZeroDivisionError


def test_an_exception_leaves_nothing_either() -> None:
    session = Session()
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        fail_in(session)
    assert time.monotonic() - start < 30  # it waits for the child's end, and the child would sleep on
    assert not session.home.exists()


def test_homes_are_short_and_private() -> None:
    with Session() as one, Session() as two:
        assert one.home != two.home
        assert len(str(one.home)) < 30
        assert one.home.stat().st_mode & 0o077 == 0

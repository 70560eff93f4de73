"""Lines of ours go out marked and are recognised again, whatever Flower puts around them."""

import logging

import pytest

from fedpeptao.console import MARKER, Said, fail, recognise, say


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("\x1b[92mINFO \x1b[0m:      fedpeptao| round 1\n", Said("round 1", error=False)),
        ("\x1b[91mERROR \x1b[0m:     fedpeptao| rounds = 0: too few.\n", Said("rounds = 0: too few.", error=True)),
        ("\x1b[93mWARNING \x1b[0m:   fedpeptao|   indented\n", Said("  indented", error=False)),
        ("\x1b[92mINFO \x1b[0m:      fedpeptao| \n", Said("", error=False)),
        ("ERROR 2026-01-02 03:04:05,678:     fedpeptao| with a time stamp\n", Said("with a time stamp", error=True)),
        ("half a line\x1b[92mINFO \x1b[0m:      fedpeptao| behind it\r\n", Said("behind it", error=False)),
        ("fedpeptao| bare", Said("bare", error=False)),
    ],
)
def test_lines_of_ours_lose_marker_and_prefix(line: str, said: Said) -> None:
    assert recognise(line) == said


@pytest.mark.parametrize("line", ["\x1b[92mINFO \x1b[0m:      Starting Flower Simulation\n", "fedpeptao 0.1.0\n", "\n"])
def test_other_lines_are_not_ours(line: str) -> None:
    assert recognise(line) is None


def test_every_line_of_a_text_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flwr"):
        say("one\n\nthree")
        say("")
        fail("50 % wrong")
    assert caplog.messages == [f"{MARKER}{line}" for line in ("one", "", "three", "", "50 % wrong")]
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 4 + [logging.ERROR]


def test_what_flowers_logger_prints_is_recognised() -> None:
    from flwr.common.logger import ConsoleHandler

    record = logging.LogRecord("flwr", logging.ERROR, "", 0, "%s%s", (MARKER, "lost"), None)
    assert recognise(ConsoleHandler().format(record)) == Said("lost", error=True)

"""Settings that are not taken, and runs that end before anybody is asked anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.grids import InProcessGrid
from federation.settings import Scalar, parse
from fedpeptao.errors import InputError
from server_app.run import run
from tests.small_runs import Flat, Watched


def refused(flat: dict[str, Scalar]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(flat)
    return caught.value


def refused_run(flat: Flat) -> InputError:
    """What the run ends with; no message was sent, and nothing was written."""
    watched = Watched()
    with pytest.raises(InputError) as caught:
        run(InProcessGrid(watched, flat, 2), parse(flat))
    assert watched.passed == []
    assert not Path(str(flat["runs-dir"])).exists()
    assert caught.value.mend
    return caught.value

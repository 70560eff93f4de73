"""Settings that are not taken."""

from __future__ import annotations

import pytest

from federation.settings import Scalar, parse
from fedpeptao.errors import InputError


def refused(flat: dict[str, Scalar]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(flat)
    return caught.value

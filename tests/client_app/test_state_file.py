"""A file is the state it says it is, or no state: any byte that changes is noticed before anything is parsed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from client_app import state_file
from client_app.state import ClientState
from client_app.state_file import NotAStateError, Owner, pack, unpack
from tests.client_app.states import OWNER, same, state

CONTENT = pack(state(3, epoch=2), OWNER)


def test_a_state_comes_back_with_its_owner() -> None:
    owner, found = unpack(CONTENT)
    assert owner == OWNER
    assert same(found, state(3, epoch=2))
    assert same(unpack(pack(ClientState(1, 0, {}), OWNER))[1], ClientState(1, 0, {}))


def test_the_file_is_plain_safetensors(tmp_path: object) -> None:
    """Another program can read it."""
    path = f"{tmp_path}/file"
    with open(path, "wb") as file:
        file.write(CONTENT)
    with safe_open(path, framework="pt") as opened:
        assert {"local.prompt.1", "local.prompt.4", "control", "moments", "residual"} == set(opened.keys())
        assert opened.metadata()["run"] == OWNER.run


@given(place=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_wherever_it_is(place: int, bit: int) -> None:
    """safetensors itself notices none in a tensor's values."""
    content = bytearray(CONTENT)
    content[place] ^= 1 << bit
    with pytest.raises(NotAStateError, match=r"checksum"):
        unpack(bytes(content))


@given(length=st.integers(0, len(CONTENT) - 1))
def test_a_file_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(NotAStateError, match=r"checksum"):
        unpack(CONTENT[:length])


@given(content=st.binary(max_size=200))
def test_what_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(NotAStateError):
        unpack(content)


@given(content=st.binary(max_size=200))
def test_even_under_a_checksum_that_fits(content: bytes) -> None:
    with pytest.raises(
        NotAStateError, match=r"is no (client's state|file of this application)|has tensors that cannot be read"
    ):
        unpack(sealed(content + b'"sha256":"' + b"0" * 64 + b'"'))


def test_bytes_behind_the_end_are_noticed() -> None:
    with pytest.raises(NotAStateError, match="checksum"):
        unpack(CONTENT + b"\0")


def sealed(content: bytes) -> bytes:
    """With a checksum that fits."""
    import hashlib

    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())


@pytest.mark.parametrize("form", [0, 1, 3, 99])
def test_another_form_is_refused_by_name(form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "FORM", form)
        content = pack(state(1), OWNER)
    with pytest.raises(NotAStateError, match=f"is of form {form}, and this version reads form 2"):
        unpack(content)


def test_the_form_before_this_one_is_refused() -> None:
    """It had neither owner nor checksum."""
    numbers = {"round": "1", "epoch": "0", "steps": "0", "warm_up": "0"}
    with pytest.raises(NotAStateError, match="of an older version"):
        unpack(save({"local.prompt.1": torch.zeros(2)}, numbers))


def test_a_fact_that_is_missing_is_noticed() -> None:
    content = save({"control": torch.zeros(1)}, {"form": "2", "run": "demo", "client": "7", "sha256": "0" * 64})
    with pytest.raises(NotAStateError, match=r"is no client's state .KeyError"):
        unpack(sealed(content))


@pytest.mark.parametrize("run", ['a", "sha256":"' + "0" * 64, "0" * 64, "übung 3", '"sha256":"' + "1" * 64 + '"'])
def test_no_name_of_a_run_confuses_the_checksum(run: str) -> None:
    owner = Owner(run, 1, "f")
    assert unpack(pack(state(1), owner))[0] == owner


OTHERS: dict[str, Callable[[], Owner]] = {
    "belongs to run 'else'": lambda: Owner("else", 7, "fingerprint"),
    "belongs to client 8": lambda: Owner("demo", 8, "fingerprint"),
    "was made with another model": lambda: Owner("demo", 7, "else"),
}


@pytest.mark.parametrize("why", OTHERS)
def test_what_tells_owners_apart_is_said(why: str) -> None:
    assert OWNER.differs(OTHERS[why]()).startswith(why)
    assert OWNER.differs(OWNER) == ""

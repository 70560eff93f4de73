"""Tensors and facts under one checksum, in a form that is looked at before anything of it is parsed.

The form is safetensors: reading executes nothing. The checksum (sha256) is over all bytes, with zeros in its own place. It keeps
out damage, not malice: who can write the file can seal it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLANK = "0" * 64
_LENGTH = 8  # bytes that say how long the header is


class NotSealedError(Exception):
    """What lies there is damaged, or was never sealed; the message is a clause that says why."""


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """A file's content; facts may have any keys but sha256."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(whole, {**facts, "sha256": _BLANK})
    digest = hashlib.sha256(content).hexdigest()
    return _SEAL.sub(f'"sha256":"{digest}"'.encode(), content, count=1)


def facts_of(content: bytes) -> dict[str, str]:
    """The facts alone, of content that is whole.

    Raises:
        NotSealedError: it is not.
    """
    _check(content)
    try:
        header = json.loads(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
        return {str(key): str(value) for key, value in header["__metadata__"].items() if key != "sha256"}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotSealedError(f"is no file of this application ({type(error).__name__}: {error})") from error


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors, of content whose facts were read.

    Raises:
        NotSealedError: they cannot be.
    """
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NotSealedError(f"has tensors that cannot be read ({type(error).__name__}: {error})") from error


def _check(content: bytes) -> None:
    seal = _SEAL.search(content)
    if seal is None:
        raise NotSealedError("has no checksum: it is cut short, of an older version, or something else")
    digest = hashlib.sha256(memoryview(content)[: seal.start(1)])
    digest.update(_BLANK.encode())
    digest.update(memoryview(content)[seal.end(1) :])
    if digest.hexdigest().encode() != seal[1]:
        raise NotSealedError("is damaged: its checksum does not fit its content")

"""Prompts that earlier runs trained, for a run that mixes them (`tuned = "mixed-prompts"`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from federation.setting_groups import ModelSettings
from fedpeptao.errors import InputError, within_reach
from models.export import load_named
from models.input_prompts import NAME

PARTS = _SETTINGS, _PARAMETERS = "settings.json", "parameters.safetensors"
"""What is read of a run's folder."""


def load(model: ModelSettings, width: int) -> tuple[Tensor, ...]:
    """P_j of each folder in `prompt-sources`, [N_p, width] float32, in their order.

    Raises:
        InputError: a folder that is not there, is no run's with input prompts, or is one of another model or N_p.
    """
    return tuple(_one(Path(folder), model, width) for folder in model.source_folders)


def fingerprint(prompts: Iterable[Tensor]) -> str:
    """Hex sha256 over their values, in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.numpy().tobytes())
    return digest.hexdigest()


def _one(folder: Path, model: ModelSettings, width: int) -> Tensor:
    with within_reach("prompt-sources", folder):
        if not (folder / _SETTINGS).is_file() or not (folder / _PARAMETERS).is_file():
            mend = "Each node needs the folder in the same place: copy it there"
            raise _refusal(folder, f"on this machine it is no run's folder with {_SETTINGS} and {_PARAMETERS}", mend)
        try:
            own = dict(json.loads((folder / _SETTINGS).read_text(encoding="utf8")))
            tensors = load_named(folder / _PARAMETERS)
        except (ValueError, TypeError) as error:  # damaged JSON or tensors
            raise _refusal(folder, f"it is damaged ({error})", "Give another copy of the run") from error
    if own.get("tuned") != "input-prompts" or NAME not in tensors:
        mend = 'Give runs with tuned = "input-prompts"'
        raise _refusal(folder, f"that run tuned {own.get('tuned', 'deep-prompts')}", mend)
    if own.get("model") != model.model:
        raise _refusal(folder, f"that run had the model {own.get('model')}", f"Give runs with {model.model}")
    if (shape := tuple(tensors[NAME].shape)) != (model.prompt_tokens, width):
        mend = f"Give runs with prompt-tokens = {model.prompt_tokens}, or change that"
        raise _refusal(folder, f"its prompt has shape {shape}, not {(model.prompt_tokens, width)}", mend)
    return tensors[NAME].float()


def _refusal(folder: Path, problem: str, mend: str) -> InputError:
    return InputError("prompt-sources", str(folder), problem, mend)

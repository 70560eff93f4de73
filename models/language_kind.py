"""Which of its heads decides a label: what is asked, what the task has, and what the checkpoint really holds.

The names of a checkpoint's weights are read without the weights, so that a model is loaded once, in the right form.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import cached_file

LANGUAGE = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}
_HEADERS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")


def kind_of(config: PreTrainedConfig) -> str | None:
    """The kind of language model that this architecture is, None if it is none."""
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return "masked-lm"
    return "causal-lm" if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None


def held_kind(config: PreTrainedConfig, location: str, *, local: bool) -> str | None:
    """`kind_of`, if the weights of that head are in the checkpoint, and it was not saved as a classifier."""
    kind = kind_of(config)
    if kind is None or any("ForSequenceClassification" in name for name in config.architectures or []):
        return None
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: PreTrainedModel = LANGUAGE[kind].from_config(config)
    outside = (name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}."))
    # by module: old checkpoints call a norm's weight gamma
    return kind if {_module(name) for name in outside} <= {_module(name) for name in _stored(location, local)} else None


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _stored(location: str, local: bool) -> list[str]:
    """Names of the weights in a checkpoint; [] where it has none of the usual files."""
    for name in _HEADERS:
        found = cached_file(
            location,
            name,
            local_files_only=local,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is not None:
            return _names(Path(found))
    return []


def _names(path: Path) -> list[str]:
    if path.name.endswith(".json"):
        return list(json.loads(path.read_text(encoding="utf8"))["weight_map"])
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    return list(torch.load(path, map_location="cpu", mmap=True, weights_only=True))

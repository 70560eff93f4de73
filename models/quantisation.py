"""Frozen weights of 8 or 4 bits, through bitsandbytes, where that is installed and there is a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from fedpeptao.errors import InputError

KINDS = ("none", "int8", "int4")


def quantised(kind: str, device: torch.device, auto: type, config: PreTrainedConfig) -> dict[str, Any]:
    """Options of `auto.from_pretrained` for weights of this kind on this device; what is outside the base model stays as it is.

    Raises:
        InputError: of `quantisation`, where the library or the GPU is missing.
    """
    if kind == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        mend = 'Run `pip install bitsandbytes`, or set quantisation to "none"'
        raise InputError("quantisation", kind, "the package bitsandbytes is not installed", mend)
    if device.type != "cuda":
        mend = 'Set device to "cuda", or quantisation to "none"'
        raise InputError("quantisation", kind, f"it needs a GPU, and the device is {device}", mend)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        outline = auto.from_config(config)  # type: ignore[attr-defined]
    kept = [name for name, _ in outline.named_children() if name != outline.base_model_prefix]
    compute = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if kind == "int8":
        bits: dict[str, Any] = {"load_in_8bit": True}
    else:  # as in QLoRA, arXiv 2305.14314
        bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
    asked = BitsAndBytesConfig(**bits, llm_int8_skip_modules=kept)  # type: ignore[no-untyped-call]
    return {"quantization_config": asked, "device_map": {"": device}}

"""Which of its heads decides a label: what is asked, what the task has, and what the checkpoint really holds.

A checkpoint's weights are matched by name on the meta device, which reads none of them, so that a model is loaded once, in the
right form.
"""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

LANGUAGE = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}


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
    _, found = LANGUAGE[kind].from_pretrained(
        location, device_map="meta", output_loading_info=True, local_files_only=local
    )
    return None if found["missing_keys"] else kind

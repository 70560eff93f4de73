"""Other routes to the same logits, written without the code under test: PEFT, a cache, attention by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import AttentionInterface, AutoModelForSequenceClassification, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from tests.models.conftest import LABELS, PROMPT_TOKENS


def plain_model(folder: Path, head: Mapping[str, Tensor], attention: str = "sdpa") -> PreTrainedModel:
    """The checkpoint as transformers alone loads it, with the given head weights."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=LABELS, attn_implementation=attention, ignore_mismatched_sizes=True
    )
    with torch.no_grad():
        for name, value in head.items():
            model.get_parameter(name).copy_(value)
    return model.requires_grad_(False).eval()


def peft_logits(
    folder: Path, head: Mapping[str, Tensor], prompts: list[Tensor], inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits of PEFT's PrefixTuning and the leaf [N_p, L * 2 * d_kv] that its gradient will be in."""
    _, kv_heads, tokens, size = prompts[0].shape
    config = PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=tokens, num_layers=len(prompts),
        num_attention_heads=kv_heads, token_dim=kv_heads * size, num_transformer_submodules=1, encoder_hidden_size=1,
    )  # fmt: skip
    model = get_peft_model(plain_model(folder, head), config).eval()
    weight = model.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        for part, slice_ in prompt_columns(prompts):
            weight[:, slice_] = part
    return model(**inputs).logits, weight


def prompt_columns(prompts: list[Tensor]) -> list[tuple[Tensor, slice]]:
    """Key and value of each layer and head [N_p, head_dim], with its columns in PEFT's matrix."""
    found, at = [], 0
    for prompt in prompts:
        for part in prompt:
            for values in part:
                found.append((values, slice(at, at + values.shape[1])))
                at += values.shape[1]
    return found


def cache_logits(
    folder: Path, head: Mapping[str, Tensor], prompts: list[Tensor], inputs: Mapping[str, Tensor], kind: str
) -> Tensor:
    """Logits with a cache filled by hand, as if the prompts were earlier tokens."""
    model = plain_model(folder, head)
    batch = len(inputs["input_ids"])
    filled = DynamicCache()
    for layer, prompt in enumerate(prompts):
        key, value = prompt[:, None].expand(-1, batch, -1, -1, -1)
        filled.update(key, value, layer)
    cache: Cache = EncoderDecoderCache(filled, DynamicCache()) if kind == "encoder-decoder" else filled
    mask = torch.cat([torch.ones(batch, PROMPT_TOKENS, dtype=torch.long), inputs["attention_mask"]], dim=1)
    given: dict[str, Any] = {"input_ids": inputs["input_ids"], "attention_mask": mask, "past_key_values": cache}
    if model.config.model_type in ("gpt2", "llama"):
        return model(**given).logits
    output = model.base_model(**given)
    return model.classifier(output.last_hidden_state if model.config.model_type == "roberta" else output.pooler_output)


def written_out_logits(
    folder: Path, head: Mapping[str, Tensor], prompts: Mapping[int, Tensor], inputs: Mapping[str, Tensor]
) -> Tensor:
    """Logits with softmax attention by hand, text by text, on any subset of layers; positions by hand too."""
    family = folder.name
    mask = inputs["attention_mask"].bool()
    attention = _written_out(prompts, mask, causal=family in ("gpt2", "llama"))
    AttentionInterface.register("written_out", attention)
    model = plain_model(folder, head, "written_out")
    positions = PROMPT_TOKENS + torch.arange(mask.shape[1]).expand(len(mask), -1)
    if family == "roberta":
        positions = torch.where(mask, positions + 2, 1)
    return model(**inputs, position_ids=positions).logits


def _written_out(prompts: Mapping[int, Tensor], mask: Tensor, *, causal: bool) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        batch, heads, length, size = query.shape
        group = heads // key.shape[1]
        out = torch.zeros(batch, length, heads, size)
        for row in range(batch):
            for one in range(heads):
                keys, values = key[row, one // group], value[row, one // group]
                before = 0
                if module.layer_idx in prompts:
                    prefix = prompts[module.layer_idx][:, one // group]
                    keys, values = torch.cat([prefix[0], keys]), torch.cat([prefix[1], values])
                    before = prefix.shape[1]
                for at in range(length):
                    seen = torch.cat([torch.ones(before, dtype=torch.bool), mask[row]])
                    if causal:
                        seen[before + at + 1 :] = False
                    if not seen.any():
                        continue  # a position of padding that sees nothing: its output is not used
                    weights = torch.softmax(keys[seen] @ query[row, one, at] * scaling, dim=0)
                    out[row, at, one] = weights @ values[seen]
        return out, None

    return attend

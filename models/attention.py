"""Deep prompts through transformers' attention interface.

One stateless function is registered under one name; what it adds lies in a slot on the attention module that
calls it. So it holds for every family that uses the interface, copies no modelling file, needs no cache class,
and models in one process share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from models.hooks import Hook
from models.unpadding import Unpadded

NAME = "fedpeptao_prompts"


@dataclass
class PromptSlot:
    """What one attention module puts before its keys and values.

    `prompt` is [C, 2, kv_heads, N_p, head_dim] float32 or None; `owner` [B] int64 gives the client of each row of
    the batch, None where C = 1. A list `seen` gets the keys and values of each pass, [2, B, kv_heads, T, head_dim].
    `hooks` are those that a technique has on modules of the layer, for one forward pass. `unpadded`: in that pass the layer's
    texts come as one row without padding.
    """

    prompt: Tensor | None = None
    owner: Tensor | None = None
    seen: list[Tensor] | None = None
    hooks: tuple[tuple[nn.Module, Hook], ...] = ()
    unpadded: Unpadded | None = None

    def rows(self, batch: int) -> Tensor | None:
        """Prompts [B, 2, kv_heads, N_p, head_dim] by row of the batch; None without a prompt."""
        if self.prompt is None:
            return None
        if self.owner is not None:
            return self.prompt.index_select(0, self.owner)
        if self.prompt.shape[0] != 1:
            raise ValueError(f"prompts of {self.prompt.shape[0]} clients need an owner for each row of the batch")
        return self.prompt.expand(batch, -1, -1, -1, -1)

    def for_owners(self, work: Callable[[Tensor], Tensor], states: Tensor, owner: Tensor | None) -> Tensor:
        """What a technique does to the layer's states: text by text where texts have owners, whether padded or not."""
        if owner is None or self.unpadded is None:
            return work(states)
        return self.unpadded.by_text(work, states)


@dataclass
class Recorder:
    """In the place of a slot while a model is probed: notes who called the attention function, with which keys."""

    calls: list[tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def prompt_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Transformers' sdpa attention, with the prompts of `module.prompt_slot` before keys and values.

    query [B, heads, T, head_dim], key and value [B, kv_heads, T, head_dim]; the mask (bool, or float that is added,
    [B or 1, heads or 1, T, T]) gets N_p columns in front that every text position sees.
    """
    slot = getattr(module, "prompt_slot", None)
    tokens = slot.unpadded if isinstance(slot, PromptSlot) else None
    if tokens is None:
        return _attention(module, slot, query, key, value, attention_mask, **kwargs), None
    query, key, value = (tokens.pad(part.transpose(1, 2)).transpose(1, 2) for part in (query, key, value))
    return tokens.pack(_attention(module, slot, query, key, value, attention_mask, **kwargs)), None


def _attention(
    module: nn.Module,
    slot: PromptSlot | Recorder | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Tensor:
    """[B, T, heads, head_dim] of a batch."""
    if isinstance(slot, Recorder):
        slot.calls.append((module, tuple(key.shape), tuple(value.shape)))
    elif slot is not None and slot.seen is not None:
        slot.seen.append(torch.stack([key, value]))
    elif slot is not None and (prompt := slot.rows(query.shape[0])) is not None:
        attention_mask = _see_prompts(attention_mask, query, prompt.shape[3], causal=_is_causal(module, kwargs))
        key = torch.cat([prompt[:, 0].to(key.dtype), key], dim=2)
        value = torch.cat([prompt[:, 1].to(value.dtype), value], dim=2)
    if kwargs.get("softcap") is not None:
        if attention_mask is None:
            attention_mask = _see_prompts(None, query, 0, causal=_is_causal(module, kwargs))
        return _soft_capped(query, key, value, attention_mask, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]


def _see_prompts(mask: Tensor | None, query: Tensor, prompt_tokens: int, *, causal: bool) -> Tensor | None:
    """The mask with visible columns in front; a causal one is written out, since sdpa's flag would cut the keys."""
    if mask is None:
        length = query.shape[2]
        if not causal or length == 1:  # one position sees everything: no mask, as on the cache route
            return None
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        mask = mask.expand(query.shape[0], 1, length, length)
    visible = mask.new_full((*mask.shape[:-1], prompt_tokens), mask.dtype == torch.bool)  # True, or 0.0 to add
    return torch.cat([visible, mask], dim=-1)


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    causal = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if causal is None else causal)


def _soft_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    softcap: float,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Attention [B, T, heads, head_dim] with scores within +-softcap (Gemma 2, arXiv 2408.00118), for which sdpa has no place."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        hidden = torch.finfo(scores.dtype).min  # not -inf: padding behind a window sees nothing, and would become NaN
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout)  # callers give 0 outside training
    return (weights @ value).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, prompt_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

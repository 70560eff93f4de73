"""Where a family's positions begin, and how many there are: tables that count from 0 or from a padding index, and rotary ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Positions:
    """Of one model.

    Attributes:
        padding_idx: index from which positions are counted in the RoBERTa family; None elsewhere.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.padding_idx = _padding_idx(model)
        self._config = model.config.get_text_config()

    def beside(self, prompt_tokens: int) -> int | None:
        """Positions for text beside so many prompt tokens; None without a limit. OPT's table has two more, which no text uses."""
        limit = getattr(self._config, "max_position_embeddings", None)
        if limit is None or limit <= 0:
            return None
        taken = 0 if self.padding_idx is None else self.padding_idx + 1
        return int(limit) - taken - prompt_tokens

    def of(self, input_ids: Tensor, prompt_tokens: int) -> Tensor:
        """Positions of the text tokens, int64 [B or 1, T], shifted by `prompt_tokens`; padding stays at a padding index."""
        if self.padding_idx is None:
            return torch.arange(prompt_tokens, prompt_tokens + input_ids.shape[1], device=input_ids.device)[None]
        real = input_ids.ne(self.padding_idx).long()
        return (real.cumsum(1) + prompt_tokens) * real + self.padding_idx


def _padding_idx(model: PreTrainedModel) -> int | None:
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return int(module.padding_idx)
    return None

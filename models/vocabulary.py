"""Real tokens to begin a prompt with (`prompt-init = "vocabulary"`), drawn by the run's seed."""

from __future__ import annotations

import torch
from torch import Tensor

from models.backbone import Backbone
from models.technique import random_generator


def drawn_tokens(backbone: Backbone, count: int, seed: int, name: str) -> Tensor:
    """Ids of `count` different tokens, int64 [count] on the backbone's device, from (seed, name); no special token is among them.

    From the whole vocabulary: which tokens are common (the 5,000 that arXiv 2104.08691 draws from) no tokenizer tells.
    """
    special = set(backbone.tokenizer.all_special_ids)
    rows = len(backbone.embedding_table)
    known = sorted(i for i in backbone.tokenizer.get_vocab().values() if i < rows and i not in special)
    lots = torch.randperm(len(known), generator=random_generator(seed, name))
    repeated = lots.repeat(-(-count // len(known)))[:count]  # a longer prompt than the vocabulary begins again
    return torch.tensor(known)[repeated].to(backbone.device)


@torch.no_grad()
def embedded_tokens(backbone: Backbone, count: int, seed: int, name: str) -> Tensor:
    """Their embeddings, [count, d] float32 on the CPU, as they enter the model."""
    ids = drawn_tokens(backbone, count, seed, name)
    embedded: Tensor = backbone.model.get_input_embeddings()(ids)
    return embedded.float().cpu()


def keys_and_values(backbone: Backbone, count: int, seed: int, name: str) -> list[Tensor]:
    """What each layer's attention makes of them as a text of their own: [2 (key, value), kv_heads, count, head_dim] a layer.

    arXiv 2101.00190, section 5. In a decoder a text behind such prompts has the states that it would have behind the tokens. The
    bits are those of the machine that computes them: CPU types may differ in the last ones.
    """
    ids = drawn_tokens(backbone, count, seed, name)[None]
    return [pair.float().cpu() for pair in backbone.keys_and_values({"input_ids": ids})]

"""Mixed prompts: a prompt of one's own, and those of other tasks as far as each text asks for them (ATTEMPT, arXiv 2205.11961).

    x = max over the text's tokens of X ;  p_j = max over its tokens of P_j                                (section 3.3 there)
    H = norm(W_up silu(W_down x)) ;  a = softmax_j(p_j' H / (e d)) ;  P(x) = P + sum_j a_j P_j

j goes over the sources, which are frozen, and P itself; norm is a layer norm. The paper shares W among several targets: here
there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from peft import PeftConfig
from torch import Tensor
from torch.nn import functional

from fedpeptao.errors import InputError
from models.backbone import Backbone
from models.deep_prompts import check_tokens
from models.inserted import inserted, text_mask
from models.layout import Entry
from models.per_client import linear, rows_of
from models.technique import Forward, normal, uniform
from models.vocabulary import embedded_tokens

TARGET, DOWN, UP, NORM = "prompt.target", "generator.down.weight", "generator.up.weight", "generator.norm"


class MixedPrompts:
    """Implements `models.technique.Technique`.

    Args:
        bottleneck: m, rows of W_down.
        sources: P_j, each [N_p, d] float32.

    Raises:
        InputError: of prompt-tokens as for input prompts; no sources.
    """

    def __init__(
        self, backbone: Backbone, prompt_tokens: int, init: str, bottleneck: int, sources: Sequence[Tensor]
    ) -> None:
        check_tokens(backbone, prompt_tokens)
        if not sources:
            mend = 'Name folders of runs with tuned = "input-prompts"'
            raise InputError("prompt-sources", "", "there is no prompt to mix", mend)
        self.backbone, self.init, width = backbone, init, backbone.embedding_size
        self._sources = torch.stack(list(sources)).to(backbone.device)  # [S, N_p, d]
        self.layers: tuple[int, ...] = ()
        self.entries = (
            Entry(TARGET, None, (prompt_tokens, width)),
            Entry(DOWN, None, (bottleneck, width)),
            Entry(UP, None, (width, bottleneck)),
            Entry(f"{NORM}.weight", None, (width,)),
            Entry(f"{NORM}.bias", None, (width,)),
        )
        self.begins_at, self.shift, self.inserted = 0, 0, prompt_tokens

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """The prompt as an input prompt's; W as torch draws linear layers, the norm 1 and 0."""
        if entry.name == TARGET:
            if self.init == "vocabulary":
                return embedded_tokens(self.backbone, self.inserted, seed, entry.name)
            return normal(seed, entry.name, entry.shape, std)
        if entry.name.startswith(NORM):
            return torch.full(entry.shape, float(entry.name.endswith("weight")))
        return uniform(seed, entry.name, entry.shape, 1 / math.sqrt(entry.shape[1]))

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> AbstractContextManager[Forward]:
        """Each text with its own mixture."""
        return inserted(self.backbone, inputs, self.mixture(values, inputs, owner))

    def mixture(self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None) -> Tensor:
        """P(x), [B, N_p, d] float32."""
        batch = len(inputs["input_ids"])
        own = rows_of(values[TARGET], owner, batch)
        prompts = torch.cat([self._sources.expand(batch, -1, -1, -1), own[:, None]], dim=1)  # [B, S + 1, N_p, d]
        asked = linear(
            functional.silu(linear(self._largest(inputs), values[DOWN], None, owner)), values[UP], None, owner
        )
        scale, shift = (rows_of(values[f"{NORM}.{part}"], owner, batch) for part in ("weight", "bias"))
        asked = functional.layer_norm(asked, asked.shape[-1:]) * scale + shift
        scores = (prompts.amax(2) * asked[:, None]).sum(-1) / (math.e * asked.shape[-1])
        return own + (scores.softmax(1)[..., None, None] * prompts).sum(1)

    @torch.no_grad()
    def _largest(self, inputs: dict[str, Tensor]) -> Tensor:
        """x [B, d]."""
        embedded: Tensor = self.backbone.model.get_input_embeddings()(inputs["input_ids"])
        return embedded.float().masked_fill(text_mask(inputs)[..., None] == 0, -math.inf).amax(1)

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """PEFT has nothing like it."""
        return "PEFT has no mixture of prompts that depends on the text"

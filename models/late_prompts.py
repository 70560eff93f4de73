"""Late prompts: prompts that enter at a middle layer k, made from the text's states there (LPT, arXiv 2210.11292).

    P = W_up relu(W_down h + b_down) + b_up        h: what enters layer k, at the text's first token (a decoder: its last one)
    [P; H^k] -> the layers from k on               H^k [T, d]: what enters layer k, of the frozen model without prompts

Its "naive" generator, as in the published code, which has dropout on P too; its pooling generators are not here. Below k nothing
is tuned, so that a text's states are computed once. Places are counted as in a pass over N_p more tokens, where a model counts
them in its layers (rotary positions); h has seen them without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import PeftConfig
from torch import Tensor

from fedpeptao.errors import InputError
from models.backbone import Backbone
from models.deep_prompts import check_tokens
from models.generator import Generator
from models.inserted import insert, place_of, text_mask, widened
from models.layout import Entry
from models.technique import Forward


class LatePrompts:
    """Implements `models.technique.Technique`.

    Args:
        layer: k, from 1 to L - 1; -1: the middle, floor(L / 2).

    Raises:
        InputError: of prompt-tokens as for input prompts; another layer.
    """

    def __init__(self, backbone: Backbone, prompt_tokens: int, layer: int, bottleneck: int) -> None:
        check_tokens(backbone, prompt_tokens)
        last = backbone.num_layers - 1
        begins_at = backbone.num_layers // 2 if layer == -1 else layer
        if not 0 < begins_at <= last:
            mend = f'Use a layer from 1 to {last}, -1 for the middle, or tuned = "generated-prompts" for the input'
            raise InputError("prompt-layer", layer, "late prompts enter above layer 0 of the model's layers", mend)
        self.backbone, self.begins_at = backbone, begins_at
        self._generator = Generator(backbone.hidden_size, bottleneck, prompt_tokens, backbone.hidden_size)
        self.layers: tuple[int, ...] = ()
        self.entries = self._generator.entries
        self.shift, self.inserted = 0, prompt_tokens

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """As the generator's."""
        return self._generator.initial(entry, seed, std)

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    @contextmanager
    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> Iterator[Forward]:
        """The layers below k do not run: their states, given or computed, go on with the prompt among them."""
        states = inputs.get("entering")
        if states is None:
            states = self.backbone.states_entering(self.begins_at, inputs, self.shift)
        prompts = self._generator.prompts(values, self._summary(states, text_mask(inputs)), owner)
        at = place_of(self.backbone)
        wide = widened(inputs, self.inserted, at)
        with self.backbone.entering(self.begins_at, insert(states, prompts, at)):
            yield Forward(self.backbone.shifted_arguments(wide, 0))

    def _summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """h [B, d]: the state of the token that has seen the whole text."""
        at = mask.sum(1) - 1 if self.backbone.is_causal else torch.zeros_like(mask[:, 0])
        return states[torch.arange(len(states), device=states.device), at]

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """PEFT has nothing like it."""
        return "PEFT has no prompts that enter at a middle layer"

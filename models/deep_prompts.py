"""Deep prompts: a key and a value prefix on each layer (P-tuning v2, arXiv 2110.07602), what FedPepTAO tunes.

A prompt is one tensor a layer, [2 (key, value), kv_heads, N_p, head_dim]. Text positions are shifted by N_p whichever layers have
one, so that outputs equal those of a cache (and of PEFT's prefix tuning) bit for bit. Gradients do too; with more than 16
texts in a batch PEFT adds those of the texts up in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft import PeftConfig
from torch import Tensor

from fedpeptao.errors import InputError
from models import prefix_tuning
from models.backbone import Backbone
from models.layout import Entry
from models.technique import Forward, known_layers, normal
from models.tuned_model import TunedModel
from models.vocabulary import keys_and_values


class DeepPrompts:
    """Prompts on some layers of a backbone; implements `models.technique.Technique`.

    Raises:
        InputError: no prompt token, more than leave a position for a text, or a layer that the model does not have.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[int], prompt_tokens: int, init: str = "normal") -> None:
        check_tokens(backbone, prompt_tokens)
        self.backbone, self.prompt_tokens, self.init = backbone, prompt_tokens, init
        self.layers = known_layers(layers, backbone.num_layers)
        shape = (2, backbone.kv_heads, prompt_tokens, backbone.head_dim)
        self.entries = tuple(Entry(f"prompt.{layer}", layer, shape, parts=2) for layer in self.layers)
        self.begins_at = self.layers[0] if self.layers else 0
        self.shift, self.inserted = prompt_tokens, 0
        self._tokens: tuple[int, list[Tensor]] | None = None

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """N(0, std), or what the frozen model makes of real tokens; a layer starts alike whatever other layers are prompted."""
        if self.init == "vocabulary":
            assert entry.layer is not None
            return self._of_tokens(seed)[entry.layer]
        return normal(seed, entry.name, entry.shape, std)

    def _of_tokens(self, seed: int) -> list[Tensor]:
        if self._tokens is None or self._tokens[0] != seed:  # one pass for all layers
            self._tokens = seed, keys_and_values(self.backbone, self.prompt_tokens, seed, "prompt")
        return self._tokens[1]

    def of_one_client(self) -> list[str]:
        """Nothing: a slot takes each row's prompt from its owner."""
        return []

    @contextmanager
    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> Iterator[Forward]:
        """Prompts in the slots of the attention modules; `entering` begins at the lowest prompted layer."""
        slots = [self.backbone.slots[layer] for layer in self.layers]
        begin = self.backbone.beginning(self.begins_at, inputs)
        try:
            for layer, slot in zip(self.layers, slots, strict=True):
                slot.prompt, slot.owner = values[f"prompt.{layer}"], owner
            with begin:
                yield Forward(self.backbone.shifted_arguments(inputs, self.shift))
        finally:
            for slot in slots:
                slot.prompt = slot.owner = None

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """Prefix tuning."""
        return prefix_tuning.to_peft(self, named)


def check_tokens(backbone: Backbone, prompt_tokens: int) -> None:
    """InputError where there is no prompt, or no position left for a text."""
    if prompt_tokens < 1:
        raise InputError("prompt-tokens", prompt_tokens, "there has to be a prompt", "Use 1 or more")
    positions = backbone.text_positions(prompt_tokens)
    if positions is not None and positions < 1:
        mend = f"Use fewer than {positions + prompt_tokens}"
        raise InputError("prompt-tokens", prompt_tokens, "they leave no position for a text", mend)


def prompted(
    backbone: Backbone, layers: Sequence[int], prompt_tokens: int, label_loss: str = "vocabulary"
) -> TunedModel:
    """A backbone (whose head is built) with prompts on these layers."""
    return TunedModel(backbone, DeepPrompts(backbone, layers, prompt_tokens), label_loss)

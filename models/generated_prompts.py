"""Generated prompts: prompts at the input that a small network makes of each text (IDPG, arXiv 2204.04497).

    P(x) = W_up relu(W_down M(x) + b_down) + b_up            [P(x); X] -> the frozen model           (section 3.2 there)

Its single-layer form with the plain two-layer generator (S-IDPG-DNN). M(x) is the mean of the frozen model's last states over the
text, without prompts: a second pass that needs no gradient. The paper's PHM layers (fewer numbers in the same two layers), its
prompts on every layer (M-IDPG), and its supplementary training are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from peft import PeftConfig
from torch import Tensor

from models.backbone import Backbone
from models.deep_prompts import check_tokens
from models.generator import Generator
from models.inserted import inserted, mean_over, text_mask
from models.layout import Entry
from models.technique import Forward


class GeneratedPrompts:
    """Implements `models.technique.Technique`; InputError as for input prompts."""

    def __init__(self, backbone: Backbone, prompt_tokens: int, bottleneck: int) -> None:
        check_tokens(backbone, prompt_tokens)
        self.backbone = backbone
        self._generator = Generator(backbone.hidden_size, bottleneck, prompt_tokens, backbone.embedding_size)
        self.layers: tuple[int, ...] = ()
        self.entries = self._generator.entries
        self.begins_at, self.shift, self.inserted = 0, 0, prompt_tokens

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """As the generator's."""
        return self._generator.initial(entry, seed, std)

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> AbstractContextManager[Forward]:
        """Each text with the prompt that its client's generator makes of it."""
        mask = text_mask(inputs)
        features = mean_over(self.backbone.last_states({**inputs, "attention_mask": mask}), mask)
        return inserted(self.backbone, inputs, self._generator.prompts(values, features, owner))

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """PEFT has nothing like it."""
        return "PEFT has no prompts that are made from the text"

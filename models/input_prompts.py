"""Input prompts: N_p vectors before the text, at the first layer alone (Prompt Tuning, arXiv 2104.08691).

    [P; X] -> the frozen model                 P [N_p, d] tuned, X [T, d] the text's embeddings            (section 2 there)

FedPrompt (arXiv 2208.12268) is this, averaged by FedAvg. In an encoder P stands behind the first token, not in front of it: the
heads read the first token's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from peft import PeftConfig, PromptTuningConfig
from torch import Tensor

from models import prefix_tuning
from models.backbone import Backbone
from models.deep_prompts import check_tokens
from models.inserted import inserted
from models.layout import Entry
from models.per_client import rows_of
from models.technique import Forward, normal
from models.vocabulary import embedded_tokens

NAME = "prompt.input"


class InputPrompts:
    """Implements `models.technique.Technique`.

    Raises:
        InputError: no prompt token, or more than leave a position for a text.
    """

    def __init__(self, backbone: Backbone, prompt_tokens: int, init: str = "normal") -> None:
        check_tokens(backbone, prompt_tokens)
        self.backbone, self.init = backbone, init
        self.layers: tuple[int, ...] = ()
        self.entries = (Entry(NAME, None, (prompt_tokens, backbone.embedding_size)),)
        self.begins_at, self.shift, self.inserted = 0, 0, prompt_tokens

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """N(0, std), or the embeddings of real tokens (section 3.2 of the paper)."""
        if self.init == "vocabulary":
            return embedded_tokens(self.backbone, self.inserted, seed, entry.name)
        return normal(seed, entry.name, entry.shape, std)

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> AbstractContextManager[Forward]:
        """Each text with its client's prompt."""
        return inserted(self.backbone, inputs, rows_of(values[NAME], owner, len(inputs["input_ids"])))

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """Prompt tuning, of a decoder. PEFT's classifiers take the last place of a batch: there texts go in one by one."""
        if not self.backbone.is_causal:
            return "PEFT's prompt tuning puts the prompt before the first token, whose place an encoder's head reads"
        tokens, width = self.entries[0].shape
        config = PromptTuningConfig(
            num_virtual_tokens=tokens,
            token_dim=width,
            num_layers=self.backbone.num_layers,
            num_attention_heads=self.backbone.kv_heads,
            num_transformer_submodules=1,
        )
        return config, {prefix_tuning.PROMPTS: named[NAME].contiguous()}

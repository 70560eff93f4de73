"""One frozen language model per process, and what the rest needs to know of it.

Loaded once, probed once, never trained: clients differ only in the row of tuned parameters that is bound to it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedpeptao.errors import InputError
from models import head as heads
from models import skipping
from models.attention import PromptSlot
from models.checkpoint import Checkpoint, fingerprint
from models.hooks import hooked
from models.label_words import word_tokens
from models.language_head import Gather, LanguageHead, place_gather
from models.language_kind import LANGUAGE
from models.positions import Positions
from models.probe import Probed
from models.unpadding import LEAST_PADDING, unpadded


class Backbone:
    """A frozen model with a slot for prompts on each layer; made by `load_backbone`.

    Attributes:
        head_kind: "linear", "model", "masked-lm" or "causal-lm".
        blocks, attention: the modules of each layer.
        head: what is tuned of the head; None until `build_head`.
        language: how a language model scores classes; None with another head.
        autocast: type of the forward pass, None for that of the weights.
        leaves_out_padding: whether forward passes of one client go without padding.
    """

    def __init__(
        self, name: str, checkpoint: Checkpoint, probed: Probed, dropout: float, words: tuple[str, ...] = ()
    ) -> None:
        self.name, self.source, self.head_kind = name, checkpoint.source, checkpoint.kind
        self.model: PreTrainedModel = checkpoint.model
        self.tokenizer: PreTrainedTokenizerBase = checkpoint.tokenizer
        self.slots: tuple[PromptSlot, ...] = probed.slots
        self.kv_heads, self.head_dim = probed.kv_heads, probed.head_dim
        self.fingerprint = fingerprint(checkpoint)
        self.head: heads.Head | None = None  # until the labels are known
        self.language: LanguageHead | None = None
        self.autocast: torch.dtype | None = None
        self.leaves_out_padding = False
        self._classes = 0
        self.blocks, self.attention = probed.blocks, probed.attention
        self._missing, self._dropout = checkpoint.missing, dropout
        self._as_tuple = False  # how blocks return; known once one has run
        self._held = heads.held_outside_base(self.model, checkpoint.missing)
        self._gather: Gather | None = None
        self._word_positions = 0  # behind a text, for the tokens of a word that the model reads
        if self.head_kind in LANGUAGE:
            self._gather = place_gather(self.model)
            self._word_positions = max(map(len, self._tokens(words))) - 1
        self._positions = Positions(self.model)
        self._arguments = frozenset(inspect.signature(self.model.forward).parameters)
        self.model.config.use_cache = False
        self.model.requires_grad_(False)
        _set_dropout(self.model, dropout)
        self.train(False)

    @property
    def num_layers(self) -> int:
        """L, layers that can be prompted."""
        return len(self.slots)

    @property
    def hidden_size(self) -> int:
        """d, size of a block's output."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def embedding_table(self) -> Tensor:
        """Of the tokens, [rows, embedding size]; a model may scale what it takes from there."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def embedding_size(self) -> int:
        """Of a token's embedding: d, but for families that project it."""
        return self.embedding_table.shape[1]

    @cached_property
    def is_causal(self) -> bool:
        """Whether no token sees those behind it. Measured: the first one's state, with another last token."""
        ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=self.device)
        one, other = (self.last_states({"input_ids": text[None]})[0, 0].float() for text in ids)
        return float((one - other).norm()) <= 1e-6 * float(one.norm())

    @property
    def device(self) -> torch.device:
        """Where the weights are; rows that are bound belong there too."""
        return next(self.model.parameters()).device

    @property
    def num_labels(self) -> int:
        """Classes of the head; 0 before `build_head`."""
        return self._classes

    def build_head(self, kind: str, num_labels: int, words: Sequence[str] = ()) -> None:
        """Make the head for `num_labels` classes; initial values of what is tuned in it come from `TunedModel.initial`.

        kind: "auto" for `head_kind`, the one the model was loaded with, or another that such a model can have.
        words: a language model's label words, in the order of the classes.

        TunedModels made before it are of no more use. InputError of head or words where the model cannot have it.
        """
        kind = self.head_kind if kind == "auto" else kind
        if (kind in LANGUAGE or self.head_kind in LANGUAGE) and kind != self.head_kind:
            problem = f"the model was loaded with the head {self.head_kind}"
            raise InputError("head", kind, problem, "Load it with the head that it is to have")
        if self._gather is not None:
            if len(words) != num_labels:
                problem = f"{num_labels} labels need as many label words"
                raise InputError("words", ", ".join(words), problem, "Give one word for each label")
            pad, tokens = int(self.tokenizer.pad_token_id), self._tokens(words)
            self.head = heads.Head((), replaced=False)
            self.language = LanguageHead(self._gather, tokens, pad, self.device)
        else:
            self._build_classifier(kind, num_labels)
        self._classes = num_labels

    def _tokens(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        return word_tokens(self.tokenizer, words, one_token=self.head_kind == "masked-lm")

    def _build_classifier(self, kind: str, num_labels: int) -> None:
        self.head = heads.build(self.model, kind, num_labels, self._held, self._missing)
        _set_dropout(self.model, self._dropout)
        self.train(False)
        ids = torch.full((1, 2), 5, device=self.device)
        with torch.no_grad():
            shape = tuple(self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape)
        if shape != (1, num_labels):
            raise InputError("head", kind, f"it gives scores of shape {shape} for one text", 'Use head = "model"')

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off; without a backbone dropout the model is always in evaluation mode."""
        self.model.train(mode and self._dropout > 0)

    def text_positions(self, prompt_tokens: int) -> int | None:
        """Tokens of the longest text, special tokens included, beside `prompt_tokens`; None where nothing limits it.

        A decoder's label words of several tokens take positions behind the text.
        """
        return self._positions.beside(prompt_tokens + self._word_positions)

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor, prompt_tokens: int) -> Tensor | None:
        """Positions of the text tokens, int64 [B or 1, T], shifted by `prompt_tokens` as behind a cache of that length.

        None for models that take no positions. Families that count from a padding index (RoBERTa) leave padding at
        it; `attention_mask` [B, T] is not read by either rule, since neither do the models.
        """
        return self._positions.of(input_ids, prompt_tokens) if "position_ids" in self._arguments else None

    def precision(self) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def forward_arguments(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of `inputs` the model takes, on its device; a missing attention mask is all ones."""
        taken = {key: value.to(self.device) for key, value in inputs.items() if key in self._arguments}
        taken.setdefault("attention_mask", torch.ones_like(taken["input_ids"]))
        return taken

    def shifted_arguments(self, inputs: dict[str, Tensor], shift: int) -> dict[str, Tensor]:
        """The same with the positions of the text tokens shifted by so many places, where the model takes positions."""
        arguments = self.forward_arguments(inputs)
        positions = self.position_ids(arguments["input_ids"], arguments["attention_mask"], shift)
        return arguments if positions is None else {**arguments, "position_ids": positions}

    @torch.no_grad()
    def states_entering(self, layer: int, inputs: dict[str, Tensor], shift: int) -> Tensor:
        """Hidden states [B, T, d] that enter `layer`, dropout off; what lies above is not computed.

        Positions are shifted by `shift`, as in a forward pass with as many prompts.
        """
        arguments = self.shifted_arguments(inputs, shift)
        stopped = skipping.stop_before(self.blocks, layer)
        with self._still(), self.precision(), stopped as caught, suppress(skipping.Reached):
            self.model.base_model(**arguments)
        if caught.states is None:
            raise RuntimeError(f"layer {layer} of {self.name} was never reached")
        self._as_tuple = caught.as_tuple
        return caught.states

    def entering(self, layer: int, states: Tensor) -> AbstractContextManager[None]:
        """While it is open, a forward pass runs no layer below `layer`, which `states` of `states_entering` enter."""
        return skipping.skip_to(self.blocks, layer, states, self._as_tuple)

    def beginning(self, layer: int, inputs: dict[str, Tensor]) -> AbstractContextManager[None]:
        """The same where `inputs` hold states `entering` that layer; a whole forward pass where they do not."""
        states = inputs.get("entering")
        return nullcontext() if states is None else self.entering(layer, states)

    def unpadded(self, mask: Tensor, layer: int = 0) -> AbstractContextManager[None]:
        """While it is open, a batch with this mask [B, T] goes from `layer` on without padding, where that pays."""
        if not self.leaves_out_padding or float(mask.float().mean()) > 1 - LEAST_PADDING:
            return nullcontext()
        return unpadded(self.blocks[layer:], self.slots[layer:], mask)

    @torch.no_grad()
    def block_outputs(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Output [B, T, d] of each block, in the backbone's type, for the score (section 2.1 of docs/ALGORITHMS.md).

        Without prompts, without shift of positions, dropout off.
        """
        outputs: list[Tensor] = []

        def keep(module: nn.Module, given: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs.append(output if isinstance(output, Tensor) else output[0])

        with self._still(), hooked([(block, keep) for block in self.blocks]):
            self.model.base_model(**self.forward_arguments(inputs))
        return outputs

    @torch.no_grad()
    def last_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states [B, T, d] that the model ends with, before its head: without prompts or shift, dropout off."""
        gather, at = self._gather, None if self._gather is None else self._gather.at
        try:
            if gather is not None:
                gather.at = None  # of all places, also while a head asks for its own
            with self._still(), self.precision():
                states: Tensor = self.model.base_model(**self.forward_arguments(inputs))[0]
        finally:
            if gather is not None:
                gather.at = at
        return states

    @torch.no_grad()
    def keys_and_values(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """What each layer's attention makes of one text of T tokens: [2, kv_heads, T, head_dim] a layer; dropout off."""
        seen: list[list[Tensor]] = [[] for _ in self.slots]
        try:
            for slot, kept in zip(self.slots, seen, strict=True):
                slot.seen = kept
            self.last_states(inputs)
        finally:
            for slot in self.slots:
                slot.seen = None
        return [kept[0][:, 0] for kept in seen]

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Dropout off."""
        training = self.model.training
        self.model.train(False)
        try:
            yield
        finally:
            self.model.train(training)


def _set_dropout(model: PreTrainedModel, dropout: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name, value in vars(module).items():  # Llama and OPT keep numbers, not modules
            if isinstance(value, float) and name.endswith("dropout"):
                setattr(module, name, dropout)

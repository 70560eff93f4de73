"""A frozen model with what is tuned in it: a technique's tensors, and its head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from models.backbone import Backbone
from models.head import HeadLinear
from models.hidden_states import LowerLayers, StateCache
from models.layout import Entry, Layout
from models.technique import Technique, normal

_HEAD_STD = 0.02


class TunedModel:
    """A technique on a backbone, and its head (build that first); implements `models.tuned.Tuned`.

    Nothing is left on the backbone between two calls, so several of these may share one.
    """

    def __init__(self, backbone: Backbone, technique: Technique, label_loss: str = "vocabulary") -> None:
        if backbone.head is None:
            raise ValueError("the backbone has no head yet: call build_head first")
        self.backbone, self.technique, self.label_loss = backbone, technique, label_loss
        shapes = {name: tuple(value.shape) for name, value in backbone.model.named_parameters()}
        head = [Entry(f"head.{name}", None, shapes[name]) for name in backbone.head.names]
        self.layout = Layout((*technique.entries, *head))
        self.lower: LowerLayers | None = None
        self._values: dict[str, Tensor] | None = None
        self._owner: Tensor | None = None
        self._log_prior: Tensor | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers on which something is tuned."""
        return self.technique.layers

    def initial(self, seed: int, std: float = 0.02) -> Tensor:
        """Initial row [R], float32 on the CPU: prompts N(0, std), head weights N(0, 0.02), biases 0, norm weights 1.

        Each tensor is drawn from (seed, its name) alone: a layer starts alike whatever other layers are tuned.
        """
        head = set(self._head_entries())
        return self.layout.flatten(
            {
                entry.name: _head_value(entry, seed) if entry in head else self.technique.initial(entry, seed, std)
                for entry in self.layout.entries
            }
        )

    def bind(
        self,
        rows: Tensor,
        layout: Layout | None = None,
        owner: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> None:
        """Use `rows` [C, R], float32, from now on; gradients flow into them.

        Args:
            rows: one row a client, on the backbone's device.
            layout: the order of a row, this model's own entries in any order; default `self.layout`.
            owner: int64 [B], for each text of the batches to come the client (row) whose parameters it meets; not
                needed for C = 1.
            log_prior: what is added to each client's class scores, [C, classes] float32 in nats.

        Raises:
            ValueError: entries that differ from this model's, C > 1 without owner, or C > 1 with a head of more
                than linear layers; a prior where the loss is not over the classes alone.
        """
        layout = layout or self.layout
        if set(layout.entries) != set(self.layout.entries):
            raise ValueError(f"the row holds {layout.names}, this model tunes {self.layout.names}")
        if rows.ndim != 2 or rows.shape[0] < 1:
            raise ValueError(f"rows have shape {tuple(rows.shape)}, expected [clients, {layout.size}]")
        if rows.shape[0] > 1:
            if owner is None:
                raise ValueError(f"rows of {rows.shape[0]} clients need an owner for each text of the batch")
            if other := self.of_one_client():
                raise ValueError(f"{', '.join(other)} cannot differ by row of a batch: bind one client at a time")
        if log_prior is not None and self.loss_is_over_vocabulary:
            raise ValueError("a prior of the classes needs a loss over the classes alone, not over a vocabulary")
        self._values = layout.unflatten(rows)
        self._log_prior = log_prior
        self._owner = owner if rows.shape[0] > 1 else None

    def unbind(self) -> None:
        """Let go of the rows, and of the graph behind them."""
        self._values = self._owner = self._log_prior = None

    @property
    def loss_is_over_vocabulary(self) -> bool:
        """Whether a label word is one of the whole vocabulary, and not of the label words alone."""
        return self.backbone.language is not None and self.label_loss == "vocabulary"

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Class scores [B, classes], float32; with a language model's head log p(label word | text), section 2.7.

        inputs: input_ids and attention_mask int64 [B, T], padded on the right; token_type_ids where the model has them;
        answer_at int64 [B] for a language model's head: the mask, or the last token before the label word; `entering`
        [B, T, d], hidden states of `lower`, to begin at the lowest prompted layer (not where words of several tokens
        follow the texts: such rows run whole). RuntimeError
        before `bind`.
        """
        head = self.backbone.language
        scores = self.outputs(inputs) if head is None else head.scores(self._decide, self._there(inputs))
        if self._log_prior is None:
            return scores
        return scores + (self._log_prior if self._owner is None else self._log_prior[self._owner])

    def loss(self, inputs: dict[str, Tensor], wanted: Tensor, reduction: str = "mean") -> Tensor:
        """Loss in nats, "mean", "sum" or each one's [B] ("none"), of the classes `wanted` [B]; inputs as for `logits`."""
        head = self.backbone.language
        if head is None or not self.loss_is_over_vocabulary:
            return self.loss_of(self.logits(inputs), wanted, reduction)
        each = -head.scores_of(self._decide, self._there(inputs), wanted.to(self.backbone.device))
        return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()

    def loss_of(self, scores: Tensor, wanted: Tensor, reduction: str = "mean") -> Tensor:
        """The same loss from the scores [B, classes] of all classes.

        A language model's scores are log probabilities already: among the whole vocabulary (label-loss = "vocabulary", as
        published), or made into shares of the label words alone ("label-words").
        """
        if self.loss_is_over_vocabulary:
            return functional.nll_loss(scores, wanted, reduction=reduction)
        return functional.cross_entropy(scores, wanted, reduction=reduction)

    def outputs(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the model gives by itself, float32: class scores, or a language model's [B, T, vocabulary]."""
        return self._forward(inputs, self._owner)

    def _there(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.to(self.backbone.device) for key, value in inputs.items()}

    def _decide(self, inputs: dict[str, Tensor], at: Tensor, texts: Tensor | None) -> Tensor:
        """Outputs [rows, m, vocabulary] at the positions `at` [rows, m]; texts [rows]: which text each row continues."""
        assert self.backbone.language is not None
        owner = self._owner if self._owner is None or texts is None else self._owner[texts]
        gather = self.backbone.language.gather
        gather.at = at + self.technique.inserted
        try:
            return self._forward(inputs, owner)
        finally:
            gather.at = None

    def _forward(self, inputs: dict[str, Tensor], owner: Tensor | None) -> Tensor:
        """The model's own output in float32; owner: whose each row is."""
        if self._values is None:
            raise RuntimeError("no parameters are bound: call bind first")
        values = {entry.name: self._values[entry.name] for entry in self.technique.entries}
        head = {name: self._values[f"head.{name}"] for name in self._head_names()}
        if next(iter(self._values.values())).shape[0] == 1:
            head = {name: value[0] for name, value in head.items()}
        running = self.technique.running(values, self._there(inputs), owner)
        with running as forward, self._owned_head(owner), self.backbone.precision():
            parameters = {**forward.parameters, **head}
            with self.backbone.unpadded(forward.arguments["attention_mask"], self.technique.begins_at):
                logits = functional_call(self.backbone.model, parameters, kwargs=forward.arguments).logits
        return logits.float()

    def keep_lower_states(self, cache: StateCache) -> None:
        """From now on `lower` knows what enters the lowest layer that is tuned; nothing changes where that is layer 0."""
        if self.technique.begins_at > 0:
            self.lower = LowerLayers(self.backbone, self.technique.begins_at, self.technique.shift, cache)

    def _head_entries(self) -> tuple[Entry, ...]:
        return self.layout.entries[len(self.technique.entries) :]

    def _head_names(self) -> tuple[str, ...]:
        return tuple(entry.name.removeprefix("head.") for entry in self._head_entries())

    def _head_linears(self) -> Iterator[tuple[str, HeadLinear | None]]:
        """Each head parameter with its linear layer; None where it belongs to another kind of module."""
        for name in self._head_names():
            module = self.backbone.model.get_submodule(name.rpartition(".")[0])
            yield name, module if isinstance(module, HeadLinear) else None

    def of_one_client(self) -> list[str]:
        """What cannot differ by row of a batch; where there is anything, one client is bound at a time."""
        head = [name for name, module in self._head_linears() if module is None]
        return [*self.technique.of_one_client(), *head]

    @contextmanager
    def _owned_head(self, owner: Tensor | None) -> Iterator[None]:
        """Whose each row is, on the head's modules for one forward pass."""
        linears = [module for _, module in self._head_linears() if module is not None]
        try:
            for linear in linears:
                linear.owner = owner
            yield
        finally:
            for linear in linears:
                linear.owner = None


def _head_value(entry: Entry, seed: int) -> Tensor:
    if len(entry.shape) < 2:
        return torch.ones(entry.shape) if entry.name.endswith("weight") else torch.zeros(entry.shape)
    return normal(seed, entry.name, entry.shape, _HEAD_STD)

"""A class by what a frozen language model would say: log p(label word | text), over the whole vocabulary.

Only the positions that decide go through the output layer: a hook behind the base model keeps them and drops the others, so
that the model's own head (transform, scale, soft-capping) runs as it is, on [B, m, d] in place of [B, T, d].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.label_words import Tokens

Inputs = dict[str, Tensor]
Forward = Callable[[Inputs, Tensor, Tensor | None], Tensor]
"""(inputs, positions [rows, m], texts [rows] or None) -> outputs [rows, m, vocabulary] in float32; texts: whose row each is."""


@dataclass
class Gather:
    """Keeps positions `at`, int64 [B, m], of the last hidden states [B, T, d]; all of them while it is None."""

    at: Tensor | None = None

    def __call__(self, module: nn.Module, given: object, output: Any) -> Any:
        """As a forward hook."""
        if self.at is not None:
            hidden = output["last_hidden_state"]
            output["last_hidden_state"] = hidden.gather(1, self.at[..., None].expand(-1, -1, hidden.shape[-1]))
        return output


def place_gather(model: PreTrainedModel) -> Gather:
    """A `Gather` behind what feeds the head: the outermost model within `model` that runs (OPT skips its base model)."""
    ran: set[nn.Module] = set()
    inner = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model]
    hooks = [part.register_forward_hook(lambda module, given, output: ran.add(module)) for part in inner]
    ids = torch.full((1, 2), 5, device=model.device)
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    gather = Gather()
    next(part for part in inner if part in ran).register_forward_hook(gather)
    return gather


class LanguageHead:
    """Scores of classes by their label words; nothing in it is tuned.

    Attributes:
        gather: of the model that runs.
        tokens: of each class's word, padded with 0: int64 [classes, longest].
        lengths: tokens of each word, int64 [classes].
    """

    def __init__(self, gather: Gather, tokens: Tokens, pad_token_id: int, device: torch.device) -> None:
        longest = max(map(len, tokens))
        self.gather, self._pad = gather, pad_token_id
        self.tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in tokens], device=device)
        self.lengths = torch.tensor([len(ids) for ids in tokens], device=device)

    def scores(self, forward: Forward, inputs: Inputs) -> Tensor:
        """log p of every class's word, [B, classes] float32; inputs hold answer_at [B], whose output decides."""
        answer_at = _answer_at(inputs)
        if self.tokens.shape[1] == 1:
            return _log_p(forward(inputs, answer_at[:, None], None)[:, 0], self.tokens[:, 0])
        long = torch.nonzero(self.lengths > 1)[
            :, 0
        ]  # one row a text for each word of several tokens, none for the others
        texts = torch.arange(len(answer_at), device=answer_at.device).repeat_interleave(len(long))
        found, output = self._continued(forward, inputs, texts, long.repeat(len(answer_at)))
        first = output[:: len(long), 0]  # the same for every word of a text
        return _log_p(first, self.tokens[:, 0]).index_copy(1, long, found.reshape(-1, len(long)))

    def scores_of(self, forward: Forward, inputs: Inputs, wanted: Tensor) -> Tensor:
        """log p of the word of class `wanted` [B] alone, [B] float32: one row a text whatever the number of classes."""
        if self.tokens.shape[1] == 1:
            return self.scores(forward, inputs).gather(1, wanted[:, None])[:, 0]
        return self._continued(forward, inputs, torch.arange(len(wanted), device=wanted.device), wanted)[0]

    def _continued(self, forward: Forward, inputs: Inputs, texts: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """log p [rows] of the words of `classes` behind `texts` (both [rows]), and the outputs [rows, m, vocabulary]."""
        lengths = self.lengths[classes][:, None]
        most = int(lengths.max())
        words, answer_at = self.tokens[classes][:, :most], _answer_at(inputs)[texts][:, None]
        given = inputs["input_ids"][texts]
        ids = torch.cat([given, given.new_full((len(given), most - 1), self._pad)], dim=1)
        places = torch.arange(most, device=ids.device)
        ids.scatter_(1, answer_at + 1 + places[:-1], words[:, :-1])  # the last token is predicted, and never read
        mask = torch.arange(ids.shape[1], device=ids.device) < answer_at + lengths
        ids = ids.where(mask, self._pad)
        at = (answer_at + places).clamp_max(ids.shape[1] - 1)
        own = (torch.arange(ids.shape[1], device=ids.device) <= answer_at).long()
        output = forward({"input_ids": ids, "attention_mask": mask.long(), "text_mask": own}, at, texts)
        each = output.gather(2, words[..., None])[..., 0] - output.logsumexp(2)
        return each.where(places < lengths, 0.0).sum(1), output


def _log_p(output: Tensor, tokens: Tensor) -> Tensor:
    """[B, vocabulary] to log p of some tokens, [B, tokens]."""
    return output.index_select(1, tokens) - output.logsumexp(1, keepdim=True)


def _answer_at(inputs: Inputs) -> Tensor:
    if "answer_at" not in inputs:
        raise ValueError("a language model's head needs answer_at [B], the position whose output decides")
    return inputs["answer_at"]

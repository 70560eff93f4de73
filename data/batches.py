"""Text as token ids, and which examples share a batch.

Texts are encoded once per process and padded batch by batch, to the longest of the batch and no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from data.tasks import Task
from data.templates import fill, template_of, tokenise
from fedpeptao.errors import InputError

POOL_BATCHES = 8


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts, special tokens included, not padded.

    token_type_ids has the shape of input_ids, or is None where the tokenizer makes none; cut counts the texts that
    were longer than max-length; answer_at is each text's token whose output decides, None without a template.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    labels: list[str]
    cut: int
    answer_at: list[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> Encoded:
        """These examples in this order; cut stays that of the whole."""
        types = self.token_type_ids
        return Encoded(
            [self.input_ids[i] for i in indices],
            None if types is None else [types[i] for i in indices],
            [self.labels[i] for i in indices],
            self.cut,
            None if self.answer_at is None else [self.answer_at[i] for i in indices],
        )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The examples of all parts, one part after the other; cut is the first one's, as every part of a whole has it."""
    first = parts[0]
    if len(parts) == 1:
        return first
    types = None if first.token_type_ids is None else [row for part in parts for row in part.token_type_ids or ()]
    answers = None if first.answer_at is None else [at for part in parts for at in part.answer_at or ()]
    ids, labels = [row for part in parts for row in part.input_ids], [label for part in parts for label in part.labels]
    return Encoded(ids, types, labels, first.cut, answers)


def encode(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    positions: int | None,
    key: str = "max-length",
    task: Task | None = None,
    style: str | None = None,
) -> Encoded:
    """Token ids of all rows (columns text, label, where there is one text_pair).

    Args:
        dataset: n rows.
        tokenizer: the model's own.
        max_length: tokens, special ones included, that a text is cut to (pairs: the longer of the two first); 0: never.
        positions: tokens the model has room for beside the prompt; None: no limit.
        key: the setting behind max_length, for messages.
        task: whose template the texts are filled into.
        style: "mask" or "causal", which of its templates; None: texts as they are.

    Raises:
        InputError: max_length is negative, more than positions, or has no room for text beside the special tokens; a
            text that may not be cut is longer than positions; a text has no tokens.
    """
    texts = list(dataset["text"])
    pairs = list(dataset["text_pair"]) if "text_pair" in dataset.column_names else None
    check_max_length(max_length, positions, tokenizer.num_special_tokens_to_add(pair=pairs is not None), key)
    if task is not None and style is not None:
        return _encode_filled(dataset, tokenizer, max_length, positions, key, task, style)
    encoding = tokenizer(texts, pairs, padding=False, truncation=False, verbose=False)
    input_ids: list[list[int]] = encoding["input_ids"]
    token_type_ids: list[list[int]] | None = encoding.get("token_type_ids")
    lengths = [len(ids) for ids in input_ids]
    if 0 in lengths:
        raise InputError("dataset", texts[lengths.index(0)], "this text has no tokens", "Remove it from the data")
    check_room(lengths, max_length, positions, key)
    too_long = [row for row, length in enumerate(lengths) if 0 < max_length < length]
    if too_long:
        cut: BatchEncoding = tokenizer(
            [texts[row] for row in too_long],
            None if pairs is None else [pairs[row] for row in too_long],
            padding=False,
            truncation="longest_first",
            max_length=max_length,
        )
        for place, row in enumerate(too_long):
            input_ids[row] = cut["input_ids"][place]
            if token_type_ids is not None:
                token_type_ids[row] = cut["token_type_ids"][place]
    return Encoded(input_ids, token_type_ids, list(dataset["label"]), len(too_long))


def _encode_filled(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    positions: int | None,
    key: str,
    task: Task,
    style: str,
) -> Encoded:
    template, mask = template_of(task, style, tokenizer)
    pairs = dataset["text_pair"] if "text_pair" in dataset.column_names else [None] * len(dataset)
    filled = [fill(template, a, b, mask) for a, b in zip(dataset["text"], pairs, strict=True)]
    pieces = tokenise(filled, tokenizer, max_length, key)
    check_room([len(one.ids) for one in pieces], max_length, positions, key)
    types = [one.types for one in pieces if one.types is not None]
    return Encoded(
        [one.ids for one in pieces],
        types or None,
        list(dataset["label"]),
        sum(one.cut for one in pieces),
        [one.answer for one in pieces],
    )


def check_room(lengths: Sequence[int], max_length: int, positions: int | None, key: str) -> None:
    """Refuse texts that may not be cut and are longer than the model has room for."""
    if max_length == 0 and positions is not None and max(lengths, default=0) > positions:
        row = int(np.argmax(np.array(lengths) > positions))
        problem = f"row {row} has {lengths[row]} tokens, and the model has room for {positions} beside the prompt"
        raise InputError(key, max_length, problem, f"Give {positions} or less to cut it, or fewer prompt-tokens")


def check_max_length(max_length: int, positions: int | None, special: int, key: str) -> None:
    """Refuse a length that the model or the special tokens have no room for."""
    if max_length < 0:
        raise InputError(key, max_length, "there are no texts of negative length", "Give 0 to cut none")
    if positions is not None and max_length > positions:
        problem = f"the model has room for {positions} tokens beside the prompt"
        raise InputError(key, max_length, problem, f"Give {positions} or less, or fewer prompt-tokens")
    if 0 < max_length <= special:
        problem = f"{special} special tokens leave no room for text"
        raise InputError(key, max_length, problem, f"Give {special + 1} or more, or 0 to cut none")


def pad(
    encoded: Encoded, indices: Sequence[int], *, pad_token_id: int, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """One batch, padded on the right to its longest text.

    Returns:
        input_ids, attention_mask (1 at tokens, 0 at padding) and, where the tokenizer makes them, token_type_ids:
        int64 [len(indices), longest]; with a template answer_at, int64 [len(indices)].
    """
    rows = [encoded.input_ids[i] for i in indices]
    width = max(len(row) for row in rows)

    def padded(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in values], dtype=torch.long, device=device)

    batch = {
        "input_ids": padded(rows, pad_token_id),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
    }
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = padded([encoded.token_type_ids[i] for i in indices], 0)
    if encoded.answer_at is not None:
        batch["answer_at"] = torch.tensor([encoded.answer_at[i] for i in indices], dtype=torch.long, device=device)
    return batch


def length_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch: ceil(n / batch_size) batches of similar length in random order, every example once.

    Examples are shuffled, sorted by length within pools of a few batches, cut, and the batches shuffled: little
    padding, and still other company in each epoch. At most one batch is smaller than the rest.
    """
    order = rng.permutation(len(lengths))
    sizes = np.asarray(lengths)[order]
    pool = np.arange(len(order)) // (POOL_BATCHES * batch_size)
    order = order[np.lexsort((sizes, pool))]
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def fixed_batches(count: int, batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """So many examples shuffled and cut once, into ceil(count / batch_size) batches; at most the last is smaller."""
    order = rng.permutation(count)
    return [order[start : start + batch_size].tolist() for start in range(0, count, batch_size)]


def score_batches(encoded: Encoded, batch_size: int, max_batches: int, rng: np.random.Generator) -> list[list[int]]:
    """Up to max_batches random batches for the layer score: full ones only, no two examples with equal token ids.

    Equal rows count once: each pair would add 1/eps to the score (section 2.1 of docs/ALGORITHMS.md). Empty where
    there are fewer than batch_size distinct examples.
    """
    first = {tuple(ids): place for place, ids in reversed(list(enumerate(encoded.input_ids)))}
    order = rng.permutation(np.array(sorted(first.values()), dtype=np.int64))
    full = min(max_batches, len(order) // batch_size)
    return [order[start * batch_size : (start + 1) * batch_size].tolist() for start in range(full)]

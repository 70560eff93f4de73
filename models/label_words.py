"""Label words as the tokens a language model would say them in: behind other text, with the space that stands there."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from fedpeptao.errors import InputError

Tokens = tuple[tuple[int, ...], ...]
_BEFORE = "It was"


def word_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], *, one_token: bool) -> Tokens:
    """Token ids of each word, as it follows a space (section 2.7 of docs/ALGORITHMS.md).

    one_token: each word has to be exactly one, as at the mask of a masked language model.

    Raises:
        InputError: of the task's `words`: fewer than two, equal ones, one that is split where it may not be, that the tokenizer
            does not know, or that another one begins with (it could never be the likelier of the two).
    """
    listed = ", ".join(words)
    if len(words) < 2:
        raise InputError("words", listed, "a label word for each of two or more labels is needed", "Give them")
    tokens = tuple(_behind_text(tokenizer, word) for word in words)
    became = {
        word: ", ".join(tokenizer.convert_ids_to_tokens(list(ids))) for word, ids in zip(words, tokens, strict=True)
    }
    if one_token and any(len(ids) != 1 for ids in tokens):
        split = "; ".join(
            f"{word} becomes {became[word]}" for word, ids in zip(words, tokens, strict=True) if len(ids) != 1
        )
        problem = f"the model fills one mask with one token, and {split}"
        raise InputError("words", listed, problem, 'Choose words of one token, or set head to "linear"')
    for word, ids in zip(words, tokens, strict=True):
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            raise InputError("words", listed, f"the tokenizer does not know {word}", "Choose another word")
    _check_different(words, tokens, became)
    return tokens


def _behind_text(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    before: list[int] = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    both: list[int] = tokenizer(f"{_BEFORE} {word.strip()}", add_special_tokens=False)["input_ids"]
    if not word.strip() or both[: len(before)] != before or len(both) == len(before):
        problem = "it has no tokens of its own behind a text"
        raise InputError("words", word, problem, "Choose another word")
    return tuple(both[len(before) :])


def _check_different(words: Sequence[str], tokens: Tokens, became: dict[str, str]) -> None:
    for i, ids in enumerate(tokens):
        for j, other in enumerate(tokens):
            if i == j or other[: len(ids)] != ids:
                continue
            problem = f"{words[i]} and {words[j]} are the same tokens ({became[words[i]]})"
            if len(other) > len(ids):
                problem = f"{words[j]} ({became[words[j]]}) begins with {words[i]}, and could never be the likelier one"
            raise InputError("words", ", ".join(words), problem, "Give each label a word of its own")

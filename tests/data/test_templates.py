from functools import lru_cache

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.batches import Encoded, encode, pad
from data.tasks import Task, load_task
from data.templates import shares
from fedpeptao.errors import InputError

TEXTS = ["a charming journey .", "Zwölf Boxkämpfer, 東京!", "bleak", "no wit and only labored gags " * 4]
PAIRS = ["it 's lovely", "unflinchingly bleak and desperate " * 6, "x", "y z"]
KINDS = ("bert", "roberta", "llama")


@lru_cache  # training breaks ties by chance
def made(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the family's make, trained on a few words, so that most words are several pieces."""
    corpus = " ".join([*TEXTS, *PAIRS, "It was . ? , They are : great terrible"]).split()
    if kind == "bert":
        inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        special, trainer = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], trainers.WordPieceTrainer
    elif kind == "roberta":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        special, trainer = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"], trainers.BpeTrainer
    else:
        inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        special, trainer = ["<pad>", "<s>", "</s>", "<unk>"], trainers.BpeTrainer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "roberta" else []
    inner.train_from_iterator(
        corpus, trainer(vocab_size=320 if kind == "roberta" else 90, special_tokens=special, initial_alphabet=alphabet)
    )
    number = {name: inner.token_to_id(name) for name in special}
    if kind == "bert":
        inner.post_processor = processors.BertProcessing(("[SEP]", number["[SEP]"]), ("[CLS]", number["[CLS]"]))
    elif kind == "roberta":
        inner.post_processor = processors.RobertaProcessing(("</s>", number["</s>"]), ("<s>", number["<s>"]))
    else:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number["<s>"])])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), special, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)  # type: ignore[no-untyped-call,no-any-return]


def task(name: str) -> Task:
    found = load_task(name)
    assert found is not None
    return found


def table(pairs: bool) -> Dataset:
    columns = {"text": TEXTS, "label": ["0"] * len(TEXTS)}
    return Dataset.from_dict({**columns, "text_pair": PAIRS} if pairs else columns)


def filled(tokenizer: PreTrainedTokenizerBase, template: str, a: str, b: str) -> list[int]:
    mask = tokenizer.mask_token or ""
    ids: list[int] = tokenizer(template.replace("{a}", a).replace("{b}", b).replace("[MASK]", mask))["input_ids"]
    return ids


CASES = [
    (kind, style, name)
    for kind in KINDS
    for style in ("mask", "causal")
    for name in ("sst2", "trec", "mrpc")
    if (kind, style) != ("llama", "mask")
]


def run(kind: str, style: str, name: str, max_length: int) -> tuple[PreTrainedTokenizerBase, str, Encoded]:
    tokenizer, one = made(kind), task(name)
    result = encode(table(one.pairs), tokenizer, max_length=max_length, positions=None, task=one, style=style)
    return tokenizer, one.template if style == "mask" else one.causal_template, result


@pytest.mark.parametrize(("kind", "style", "name"), CASES)
def test_pieces_are_those_of_the_filled_in_string(kind: str, style: str, name: str) -> None:
    tokenizer, template, result = run(kind, style, name, 0)
    expected = [filled(tokenizer, template, a, b) for a, b in zip(TEXTS, PAIRS, strict=True)]
    assert (result.input_ids, result.cut) == (expected, 0)
    assert result.answer_at is not None
    last_special = int(kind != "llama")
    for ids, at in zip(expected, result.answer_at, strict=True):
        assert ids[at] == tokenizer.mask_token_id if style == "mask" else at == len(ids) - 1 - last_special


@pytest.mark.parametrize(("kind", "style", "name"), CASES)
def test_what_is_cut_is_text_alone(kind: str, style: str, name: str) -> None:
    """What is left is the filled-in string with a beginning of each text, mask and template whole."""
    tokenizer, template, whole = run(kind, style, name, 0)
    longest = len(filled(tokenizer, template, "x", "y")) + 4
    _, _, cut = run(kind, style, name, longest)
    assert cut.cut == sum(len(ids) > longest for ids in whole.input_ids) > 0
    assert max(map(len, cut.input_ids)) == longest
    assert cut.answer_at is not None
    for row, (a, b) in enumerate(zip(TEXTS, PAIRS, strict=True)):
        ids, full, at = cut.input_ids[row], whole.input_ids[row], cut.answer_at[row]
        after_a = common_end(full, filled(tokenizer, template, "東", b))
        after_b = common_end(full, filled(tokenizer, template, a, "東")) if "{b}" in template else 0
        second, last = full[len(full) - after_a : len(full) - after_b], full[len(full) - after_b :]
        beginnings = [
            full[:i] + second[:j] + last
            for i in range(1, len(full) - after_a + 1)
            for j in range(len(second) if "{b}" not in template else 0, len(second) + 1)
        ]
        assert ids in beginnings
        assert ids[at] == tokenizer.mask_token_id if style == "mask" else at == len(ids) - 1 - (kind != "llama")


def common_end(one: list[int], other: list[int]) -> int:
    """How many tokens two lists end with alike."""
    same = (x == y for x, y in zip(reversed(one), reversed(other), strict=False))
    return next((n for n, alike in enumerate(same) if not alike), min(len(one), len(other)))


def test_the_longer_of_two_texts_is_cut_first() -> None:
    tokenizer, one = made("bert"), task("mrpc")
    long, short = "bleak " * 30, "no wit"
    for a, b in ((long, short), (short, long)):
        rows = Dataset.from_dict({"text": [a], "text_pair": [b], "label": ["0"]})
        ids = encode(rows, tokenizer, max_length=20, positions=None, task=one, style="mask").input_ids[0]
        words = tokenizer.decode(ids)
        assert "no w ##i ##t" in words
        assert ("? [MASK]" in words, ids[-1]) == (True, tokenizer.convert_tokens_to_ids("[SEP]"))
    assert [shares(pair, 10) for pair in ([30, 2], [2, 30], [7, 8], [30, 30])] == [[8, 2], [2, 8], [5, 5], [5, 5]]
    assert shares([9], 4) == [4]


def test_a_text_may_hold_what_looks_like_a_place() -> None:
    tokenizer = made("bert")
    rows = Dataset.from_dict({"text": ["no {b} [MASK] wit"], "text_pair": ["x"], "label": ["0"]})
    result = encode(rows, tokenizer, max_length=0, positions=None, task=task("mrpc"), style="mask")
    masks = [place for place, token in enumerate(result.input_ids[0]) if token == tokenizer.mask_token_id]
    assert result.answer_at == [masks[-1]]


def test_impossible_templates_are_refused() -> None:
    with pytest.raises(InputError, match="no mask, and the template of the task sst2"):
        run("llama", "mask", "sst2", 0)
    with pytest.raises(InputError, match=r"template and special tokens take [0-9]+ tokens") as caught:
        run("bert", "mask", "sst2", 6)
    assert caught.value.key == "max-length"


def test_a_batch_says_where_the_answers_are() -> None:
    _, _, result = run("bert", "mask", "sst2", 0)
    assert result.answer_at is not None
    batch = pad(result.select([2, 0]), [1, 0], pad_token_id=0)
    assert batch["answer_at"].tolist() == [result.answer_at[0], result.answer_at[2]]
    assert "answer_at" not in pad(Encoded([[1]], None, ["0"], 0), [0], pad_token_id=0)

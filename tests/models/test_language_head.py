from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedLM, BertModel, GPT2ForSequenceClassification, GPT2LMHeadModel

from experiments.families import FAMILIES, WORDS, bound, by_words, load, save, texts, whole_output
from fedpeptao.errors import InputError
from models import deep_prompts
from models.curvature import check_second_derivative
from models.loading import load_backbone
from models.random_models import random_tokenizer
from models.tuned_model import TunedModel

LONG = ("great", "bad", "fine")
"""One token, and two words that the byte tokenizer takes apart."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("language")

    def saved(name: str) -> Path:
        where: Path = root / name
        return where if where.exists() else save(FAMILIES[name], where)

    return saved


def prompted(folder: Path, words: tuple[str, ...], loss: str = "vocabulary") -> TunedModel:
    backbone = load(folder, head="auto", words=words)
    backbone.build_head("auto", len(words), words)
    return deep_prompts.prompted(backbone, (0, 1), 2, loss)


def log_p_by_hand(model: TunedModel, inputs: dict[str, Tensor], row: Tensor, text: int, tokens: list[int]) -> Tensor:
    """Sum of log p of the tokens, each behind the text and the tokens before it: one whole forward pass a token."""
    ids = inputs["input_ids"][text, : int(inputs["answer_at"][text]) + 1].tolist()
    total = torch.zeros(())
    for token in tokens:
        given = torch.tensor([ids])
        output = whole_output(model, {"input_ids": given, "attention_mask": torch.ones_like(given)}, row)
        total = total + output[0, -1].log_softmax(-1)[token]
        ids.append(token)
    return total


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "ModernBERT"])
def test_the_word_at_the_mask_decides(folder: Any, name: str) -> None:
    model = by_words(folder(name))
    inputs, row = texts(model), bound(model)
    assert model.backbone.head_kind == "masked-lm"
    vocabulary = whole_output(model, inputs, row).log_softmax(-1)[torch.arange(4), inputs["answer_at"]]
    ids = [model.backbone.tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in WORDS]
    scores = model.logits(inputs)
    torch.testing.assert_close(scores, vocabulary[:, ids], rtol=0, atol=1e-5)
    assert (scores.exp().sum(1) < 0.9).all()  # shares of the whole vocabulary, not of the words


@pytest.mark.parametrize("words", [LONG, ("bad", "fine"), ("fine", "great", "bad", "acceptable")])
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "OPT"])
def test_words_of_several_tokens_behind_a_decoders_text(folder: Any, name: str, words: tuple[str, ...]) -> None:
    model = prompted(folder(name), words)
    inputs, row = texts(model), bound(model)
    scores = model.logits(inputs)
    tokenizer = model.backbone.tokenizer
    for number, word in enumerate(words):
        tokens = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        assert len(tokens) == (1 if word in WORDS else len(word) + 1)
        for text in range(4):
            torch.testing.assert_close(scores[text, number], log_p_by_hand(model, inputs, row, text, tokens))


def test_what_stands_behind_the_answer_changes_nothing(folder: Any) -> None:
    model = prompted(folder("Llama"), LONG)
    inputs = texts(model, (6, 5))
    bound(model)
    expected = model.logits(inputs)
    longer = {
        key: torch.cat([value, torch.full((2, 3), 77 if key == "input_ids" else 1)], 1)
        for key, value in inputs.items()
        if value.ndim > 1
    }
    torch.testing.assert_close(model.logits({**longer, "answer_at": inputs["answer_at"]}), expected)


@pytest.mark.parametrize(("name", "words"), [("BERT", WORDS), ("Llama", WORDS), ("Llama", LONG)])
def test_the_loss_of_the_true_word_needs_no_other(folder: Any, name: str, words: tuple[str, ...]) -> None:
    wanted = torch.tensor([1, 0, 2, 1])
    for kind in ("vocabulary", "label-words"):
        model = prompted(folder(name), words, kind)
        inputs, row = texts(model), bound(model)
        scores = model.logits(inputs)
        expected = -scores[torch.arange(4), wanted]
        if kind == "label-words":
            expected = expected + scores.logsumexp(1)
        (gradient,) = torch.autograd.grad(expected.mean(), row)
        found = model.loss(inputs, wanted)
        torch.testing.assert_close(found, expected.mean())
        torch.testing.assert_close(torch.autograd.grad(found, row)[0], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(model.loss(inputs, wanted, "none"), expected)
        torch.testing.assert_close(model.loss_of(scores, wanted, "sum"), expected.sum())


def test_rows_of_the_output_layer_are_those_that_are_needed(folder: Any) -> None:
    counts: list[tuple[int, ...]] = []
    model = prompted(folder("Llama"), LONG)
    model.backbone.model.lm_head.register_forward_pre_hook(lambda module, given: counts.append(tuple(given[0].shape)))
    inputs = texts(model)
    bound(model)
    model.logits(inputs)
    model.loss(inputs, torch.tensor([0, 0, 0, 0]))
    model.loss(inputs, torch.tensor([0, 1, 2, 0]))
    assert counts == [(8, 5, 32), (4, 1, 32), (4, 5, 32)]  # " fine": 5 bytes; "great": 1 token
    assert model.backbone.model(input_ids=inputs["input_ids"]).logits.shape[1] == 20  # nothing is left behind


def test_a_linear_head_has_cross_entropy_whatever_label_loss_says(tmp_path: Path) -> None:
    backbone = load_backbone("random:bert")
    backbone.build_head("auto", 3)
    wanted = torch.tensor([1, 0])
    for kind in ("vocabulary", "label-words"):
        model = deep_prompts.prompted(backbone, (0,), 2, kind)
        bound(model)
        inputs = {"input_ids": torch.tensor([[5, 6], [7, 8]])}
        assert torch.equal(model.loss(inputs, wanted), functional.cross_entropy(model.logits(inputs), wanted))


def test_clients_in_one_batch_of_a_language_model(folder: Any) -> None:
    for name, words in (("BERT", WORDS), ("Llama", LONG)):
        model = prompted(folder(name), words)
        inputs = texts(model)
        rows = torch.stack([model.initial(seed, std=0.5) for seed in range(3)])
        owner = torch.tensor([2, 0, 2, 1])
        model.bind(rows, owner=owner)
        together, losses = model.logits(inputs), model.loss(inputs, torch.tensor([1, 2, 0, 1]), "none")
        for at, client in enumerate(owner.tolist()):
            model.bind(rows[client : client + 1])
            one = {key: value[at : at + 1] for key, value in inputs.items()}
            torch.testing.assert_close(together[at], model.logits(one)[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                losses[at], model.loss(one, torch.tensor([[1, 2, 0, 1][at]])), rtol=1e-4, atol=1e-5
            )


def test_nothing_of_a_language_models_head_is_tuned(folder: Any) -> None:
    for name in ("BERT", "Llama"):
        model = by_words(folder(name))
        assert model.layout.names == ("prompt.0", "prompt.1")
        assert model.backbone.num_labels == 3
        check_second_derivative(model, "ratio", "eigengap")


def test_auto_takes_what_the_checkpoint_really_holds(folder: Any, tmp_path: Path) -> None:
    assert load(folder("BERT"), head="auto").head_kind == "linear"  # no label words
    assert load(folder("BERT"), head="linear", words=WORDS).head_kind == "linear"
    bare = tmp_path / "bare"
    BertModel.from_pretrained(folder("BERT")).save_pretrained(bare)
    random_tokenizer("bert", WORDS).save_pretrained(bare)
    assert load(bare, head="auto", words=WORDS).head_kind == "linear"
    with pytest.raises(
        InputError, match=r"head = 'masked-lm': the checkpoint lacks weights of that head, such as cls\."
    ):
        load(bare, head="masked-lm", words=WORDS)
    AutoModelForMaskedLM.from_pretrained(folder("BERT")).save_pretrained(tmp_path / "old")
    random_tokenizer("bert", WORDS).save_pretrained(tmp_path / "old")
    assert load(tmp_path / "old", head="auto", words=WORDS).head_kind == "masked-lm"
    for name, head in (("BERT", "causal-lm"), ("GPT-2", "masked-lm")):
        with pytest.raises(InputError, match=rf"head = '{head}': .* is no such language model\. Set head to \"auto\""):
            load(folder(name), head=head, words=WORDS)
    for build, expected in ((GPT2LMHeadModel, "causal-lm"), (GPT2ForSequenceClassification, "linear")):
        saved = tmp_path / expected  # both hold the tied weights of an output layer
        build(FAMILIES["GPT-2"].config).save_pretrained(saved)
        random_tokenizer("gpt2", WORDS).save_pretrained(saved)
        assert load(saved, head="auto", words=WORDS).head_kind == expected


def test_a_model_is_loaded_once(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = AutoModelForMaskedLM.from_pretrained.__func__

    def counted(cls: type, *args: Any, **options: Any) -> Any:
        read.append(str(options.get("device_map", "cpu")))
        return original(cls, *args, **options)

    monkeypatch.setattr(AutoModelForMaskedLM, "from_pretrained", classmethod(counted))
    load(folder("BERT"), head="auto", words=WORDS)
    assert read == ["meta", "cpu"]  # on meta no weights are read


def test_random_models_get_the_head_that_is_asked_for() -> None:
    for family, kind in (
        ("bert", "masked-lm"),
        ("roberta", "masked-lm"),
        ("gpt2", "causal-lm"),
        ("llama", "causal-lm"),
    ):
        backbone = load_backbone(f"random:{family}", head="auto", words=("bad", "good"))
        assert backbone.head_kind == kind
        assert (backbone.tokenizer.mask_token is not None) == (kind == "masked-lm")
        other = "causal-lm" if kind == "masked-lm" else "masked-lm"
        with pytest.raises(InputError, match=f'Use head = "{kind}"'):
            load_backbone(f"random:{family}", head=other, words=("bad", "good"))
    with pytest.raises(InputError, match="the task has no label words"):
        load_backbone("random:bert", head="masked-lm")
    backbone = load_backbone("random:bert", head="auto", words=("bad", "good"))
    with pytest.raises(InputError, match="the model was loaded with the head masked-lm"):
        backbone.build_head("linear", 2)
    with pytest.raises(InputError, match="3 labels need as many label words"):
        backbone.build_head("auto", 3, ("bad", "good"))


def test_the_head_counts_in_the_fingerprint(folder: Any, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folder("BERT"))
    with torch.no_grad():
        model.cls.predictions.bias += 1
    model.save_pretrained(tmp_path)
    random_tokenizer("bert", WORDS).save_pretrained(tmp_path)
    one, other = (load(where, head="auto", words=WORDS) for where in (folder("BERT"), tmp_path))
    assert one.fingerprint != other.fingerprint
    assert load(folder("BERT")).fingerprint == load(tmp_path).fingerprint


def test_long_words_take_positions(folder: Any) -> None:
    short, long = prompted(folder("Llama"), WORDS), prompted(folder("Llama"), LONG)
    assert short.backbone.text_positions(2) == 62
    assert long.backbone.text_positions(2) == 62 - 4  # four of the five tokens of " fine" are read
    model = prompted(folder("GPT-2"), LONG)
    bound(model)
    with torch.no_grad():
        model.logits(texts(model, (58,)))
        with pytest.raises((IndexError, RuntimeError)):
            model.logits(texts(model, (59,)))

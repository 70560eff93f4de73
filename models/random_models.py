"""Small two-layer models of four families, drawn from a seed, with a byte-level tokenizer: no file is needed.

For tests, and for trying settings on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from fedpeptao.errors import InputError

FAMILIES = ("bert", "roberta", "gpt2", "llama")
_ENCODERS = ("bert", "roberta")
_FORMS = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}


def random_kind(family: str) -> str:
    """The kind of language model that a family is."""
    return "masked-lm" if family in _ENCODERS else "causal-lm"


def random_model(
    family: str, seed: int, attention: str, dtype: torch.dtype, head: str = "linear", vocabulary: int | None = None
) -> PreTrainedModel:
    """A model whose weights are a function of the arguments alone.

    head: "masked-lm" or "causal-lm" for such a language model; anything else: for sequence classification.
    vocabulary: tokens of its tokenizer, where that is not the plain one.
    """
    if family not in FAMILIES:
        raise _unknown(family)
    if head in _FORMS and head != random_kind(family):
        mend = f'Use head = "{random_kind(family)}"'
        raise InputError("head", head, f"random:{family} is no such language model", mend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = _FORMS.get(head, AutoModelForSequenceClassification).from_config
        config = _config(family, vocabulary or len(_vocabulary(family)))
        model: PreTrainedModel = build(config, attn_implementation=attention)  # type: ignore[no-untyped-call]
        return model.to(dtype)  # type: ignore[arg-type]


def random_tokenizer(family: str, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Bytes as tokens, with the special tokens and the template of the family.

    words: further tokens, behind a space; with them comes a mask token.
    """
    if family not in FAMILIES:
        raise _unknown(family)
    pad, first, last = _specials(family)
    mask = ("[MASK]" if family == "bert" else "<mask>") if words else None
    further = [mask, *(_as_bytes(f" {word}") for word in sorted(set(words)))] if mask else []
    vocabulary = {token: index for index, token in enumerate([*_vocabulary(family), *further])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=bool(words)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if family in ("bert", "roberta"):
        between = "" if family == "bert" else f" {last}:0"
        second = "1" if family == "bert" else "0"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last}{between} $B:{second} {last}:{second}",
            special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])],
        )
    elif family == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first}:0 $B:0", special_tokens=[(first, vocabulary[first])]
        )
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=first,
        eos_token=last,
        mask_token=mask,
        model_input_names=names,
        model_max_length=512,
    )


def _as_bytes(text: str) -> str:
    """A text in the signs that stand for bytes."""
    return "".join(piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text))


def _unknown(family: str) -> InputError:
    mend = f"Use one of {', '.join('random:' + known for known in FAMILIES)}"
    return InputError("model", f"random:{family}", "there is no such random family", mend)


def _specials(family: str) -> tuple[str, str, str]:
    """Padding, first and last token."""
    return ("[PAD]", "[CLS]", "[SEP]") if family == "bert" else ("<pad>", "<s>", "</s>")


def _vocabulary(family: str) -> list[str]:
    pad, first, last = _specials(family)
    # RoBERTa's positions count from its padding index, 1 in every released model
    specials = [first, pad, last] if family == "roberta" else [pad, first, last]
    return specials + sorted(pre_tokenizers.ByteLevel.alphabet())


def _config(family: str, vocabulary: int) -> PreTrainedConfig:
    specials = _vocabulary(family)[:3]
    pad, first, last = (specials.index(token) for token in _specials(family))
    ids: dict[str, Any] = {"pad_token_id": pad, "bos_token_id": first, "eos_token_id": last, "vocab_size": vocabulary}
    encoder: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    encoder["hidden_size"] = 64 if family == "llama" else 32
    if family == "bert":
        return BertConfig(max_position_embeddings=512, **encoder, **ids)
    if family == "roberta":
        return RobertaConfig(max_position_embeddings=514, type_vocab_size=1, **encoder, **ids)
    if family == "gpt2":
        return GPT2Config(n_positions=512, n_embd=32, n_layer=2, n_head=4, **ids)
    return LlamaConfig(max_position_embeddings=512, num_key_value_heads=2, **encoder, **ids)

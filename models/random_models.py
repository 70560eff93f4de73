"""Small two-layer models of four families, drawn from a seed, with a byte-level tokenizer: no file is needed.

For tests, and for trying settings on any machine.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
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


def random_model(family: str, seed: int, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """A sequence classification model whose weights are a function of (family, seed) alone."""
    if family not in FAMILIES:
        mend = f"Use one of {', '.join('random:' + known for known in FAMILIES)}"
        raise InputError("model", f"random:{family}", "there is no such random family", mend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = AutoModelForSequenceClassification.from_config
        model: PreTrainedModel = build(_config(family), attn_implementation=attention)  # type: ignore[no-untyped-call]
        return model.to(dtype)  # type: ignore[arg-type]


def random_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Bytes as tokens, with the special tokens and the template of the family."""
    pad, first, last = _specials(family)
    vocabulary = {token: index for index, token in enumerate(_vocabulary(family))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
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
        model_input_names=names,
        model_max_length=512,
    )


def _specials(family: str) -> tuple[str, str, str]:
    """Padding, first and last token."""
    return ("[PAD]", "[CLS]", "[SEP]") if family == "bert" else ("<pad>", "<s>", "</s>")


def _vocabulary(family: str) -> list[str]:
    pad, first, last = _specials(family)
    # RoBERTa's positions count from its padding index, 1 in every released model
    specials = [first, pad, last] if family == "roberta" else [pad, first, last]
    return specials + sorted(pre_tokenizers.ByteLevel.alphabet())


def _config(family: str) -> PreTrainedConfig:
    specials = _vocabulary(family)[:3]
    pad, first, last = (specials.index(token) for token in _specials(family))
    vocabulary = len(_vocabulary(family))
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

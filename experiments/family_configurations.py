"""Two-layer random configurations of the model families that docs/MODELS.md lists, 64 positions each, small enough for any test.

Families with sliding windows get one of 8 positions, so that texts are longer than it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers as t
from transformers import PreTrainedConfig

POSITIONS, WINDOW, VOCABULARY = 64, 8, 300
_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"intermediate_size": 64, "max_position_embeddings": POSITIONS}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {**_SIZES, "pad_token_id": 0}
_ROBERTA = {**_SIZES, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DECODER = {**_SIZES, **_IDS}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_OTHER_NAMES = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4, **_IDS}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}


@dataclass(frozen=True)
class Family:
    """A configuration; whether it is a masked language model; which random tokenizer makes its texts."""

    config: PreTrainedConfig
    masked: bool
    tokenizer: str
    windowed: bool = False


def _bert(config: PreTrainedConfig, *, windowed: bool = False) -> Family:
    return Family(config, True, "bert", windowed)


def _roberta(config: PreTrainedConfig) -> Family:
    return Family(config, True, "roberta")


def _decoder(config: PreTrainedConfig, *, windowed: bool = False) -> Family:
    return Family(config, False, "gpt2", windowed)


FAMILIES: dict[str, Family] = {
    "BERT": _bert(t.BertConfig(**_ENCODER)),
    "RoBERTa": _roberta(t.RobertaConfig(**_ROBERTA)),
    "XLM-RoBERTa": _roberta(t.XLMRobertaConfig(**_ROBERTA)),
    "CamemBERT": _roberta(t.CamembertConfig(**_ROBERTA)),
    "ELECTRA": _bert(t.ElectraConfig(**_ENCODER, embedding_size=16)),
    "ERNIE": _bert(t.ErnieConfig(**_ENCODER)),
    "ModernBERT": _bert(
        t.ModernBertConfig(
            **_DECODER, local_attention=WINDOW, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2
        ),
        windowed=True,
    ),
    "ALBERT": _bert(t.AlbertConfig(**_ENCODER, embedding_size=16)),
    "DistilBERT": _bert(
        t.DistilBertConfig(
            vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=POSITIONS
        )
    ),
    "DeBERTa-v2": _bert(t.DebertaV2Config(**_ENCODER, relative_attention=True)),
    "MPNet": _bert(t.MPNetConfig(**_ENCODER)),
    "GPT-2": _decoder(t.GPT2Config(**_OTHER_NAMES)),
    "GPT-NeoX": _decoder(t.GPTNeoXConfig(**_DECODER)),
    "GPT-Neo": _decoder(
        t.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=POSITIONS,
            **_IDS,
        )
    ),
    "GPT-J": _decoder(t.GPTJConfig(**_OTHER_NAMES, rotary_dim=4)),
    "OPT": _decoder(
        t.OPTConfig(**{**_DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    ),
    "BLOOM": _decoder(t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **_IDS)),
    "Falcon": _decoder(
        t.FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **_IDS)
    ),
    "Llama": _decoder(t.LlamaConfig(**_GROUPED)),
    "Mistral": _decoder(t.MistralConfig(**_GROUPED, sliding_window=WINDOW), windowed=True),
    "Mixtral": _decoder(t.MixtralConfig(**_GROUPED, **_EXPERTS)),
    "Qwen2": _decoder(t.Qwen2Config(**_GROUPED)),
    "Qwen3": _decoder(t.Qwen3Config(**_GROUPED, head_dim=8)),
    "Gemma": _decoder(t.GemmaConfig(**_GROUPED, head_dim=8)),
    "Gemma 2": _decoder(
        t.Gemma2Config(
            **_GROUPED,
            head_dim=8,
            sliding_window=WINDOW,
            attn_logit_softcapping=0.5,  # 50 and 30 in released models, whose scores are larger
            final_logit_softcapping=1.0,
        ),
        windowed=True,
    ),
    "Gemma 3": _decoder(
        t.Gemma3TextConfig(
            **_GROUPED, head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
        ),
        windowed=True,
    ),
    "Phi": _decoder(t.PhiConfig(**_DECODER)),
    "Phi-3": _decoder(t.Phi3Config(**_GROUPED, sliding_window=WINDOW), windowed=True),
    "StableLM": _decoder(t.StableLmConfig(**_GROUPED)),
    "StarCoder2": _decoder(t.Starcoder2Config(**_GROUPED)),
    "OLMo 2": _decoder(t.Olmo2Config(**_GROUPED)),
    "SmolLM3": _decoder(t.SmolLM3Config(**_GROUPED)),
    "Granite": _decoder(t.GraniteConfig(**_GROUPED)),
    "Cohere": _decoder(t.CohereConfig(**_GROUPED)),
    "GPT-OSS": _decoder(t.GptOssConfig(**_GROUPED, **_EXPERTS, head_dim=8, sliding_window=WINDOW), windowed=True),
}

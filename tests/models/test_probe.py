from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    DebertaV2Config,
    DistilBertConfig,
    FalconConfig,
    GptOssConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
)

from fedpeptao.errors import InputError
from models.attention import NAME
from models.loading import load_backbone
from models.probe import probe
from models.random_models import random_model, random_tokenizer

SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
SIZES |= {"num_attention_heads": 4, "pad_token_id": 0}
EDGES = {"decoder_start_token_id": 0, "pad_token_id": 0}
HALVES = {f"{half}_{part}": 2 for half in ("encoder", "decoder") for part in ("layers", "attention_heads")}
REFUSED = {
    "albert": (AlbertConfig(**SIZES, embedding_size=32), r"layers share one attention module \(AlbertAttention\)"),
    "mpnet": (MPNetConfig(**SIZES), "never called"),
    "deberta-v2": (DebertaV2Config(**SIZES, relative_attention=True), "never called"),
    "gpt_oss": (
        GptOssConfig(**SIZES, num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
        "its own attention has terms that are lost here",
    ),
}
REFUSED |= {
    "t5": (
        T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **EDGES),
        "it is an encoder-decoder",
    ),
    "bart": (BartConfig(**HALVES, vocab_size=300, d_model=32, **EDGES), "it is an encoder-decoder"),
}


def with_interface(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=NAME).eval()


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_carry_prompts_are_refused(family: str) -> None:
    config, reason = REFUSED[family]
    with pytest.raises(InputError, match=reason) as caught:
        probe(with_interface(config), family)
    assert (caught.value.key, caught.value.value) == ("model", family)
    assert "such as BERT" in caught.value.mend


def test_loading_a_folder_probes_it(tmp_path: Path) -> None:
    with_interface(REFUSED["albert"][0]).save_pretrained(tmp_path)
    random_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="layers share one"):
        load_backbone(str(tmp_path))


def test_a_family_that_refuses_when_it_is_built(tmp_path: Path) -> None:
    config = FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    random_tokenizer("gpt2").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"refuses a registered attention function.*such as BERT"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "kv_heads", "head_dim"), [("bert", 4, 8), ("roberta", 4, 8), ("gpt2", 4, 8), ("llama", 2, 16)]
)
def test_it_measures_keys_and_leaves_only_slots(family: str, kv_heads: int, head_dim: int) -> None:
    model = random_model(family, 0, NAME, torch.float32).eval()
    probed = probe(model, family)
    assert (probed.kv_heads, probed.head_dim, len(probed.slots)) == (kv_heads, head_dim, 2)
    marked = [module for module in model.modules() if hasattr(module, "prompt_slot")]
    assert [module.layer_idx for module in marked] == [0, 1]
    assert [module.prompt_slot for module in marked] == list(probed.slots)
    assert len({id(module) for module in probed.blocks}) == 2


def test_a_layer_called_twice_and_a_layer_left_out_are_refused() -> None:
    model = random_model("bert", 0, NAME, torch.float32).eval()
    second = model.bert.encoder.layer[1].attention.self
    second.layer_idx = 0
    with pytest.raises(InputError, match="layer 0 called the attention function more than once"):
        probe(model, "twice")
    second.layer_idx = 2
    with pytest.raises(InputError, match=r"layers \[0, 2\] called the attention function, expected 0 to 1"):
        probe(model, "gap")


def test_layers_without_an_index_are_in_the_order_of_their_calls() -> None:
    config = DistilBertConfig(vocab_size=300, dim=32, n_layers=3, n_heads=4, hidden_dim=64)
    model = with_interface(config)
    probed = probe(model, "distilbert")
    assert [block.attention.prompt_slot for block in model.distilbert.transformer.layer] == list(probed.slots)
    assert probed.blocks == tuple(model.distilbert.transformer.layer)
    model.distilbert.transformer.layer[1].attention.layer_idx = 1
    with pytest.raises(InputError, match=r"its attention \(DistilBertSelfAttention\) has no layer index"):
        probe(model, "some with an index")

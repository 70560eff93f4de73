from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from experiments.families import FAMILIES, save
from fedpeptao.errors import InputError
from models.export import to_peft
from models.loading import load_backbone
from tests.models.conftest import padded_for
from tests.models.reference import plain_model
from tests.models.techniques import Folders, answers, filled, head_of, loaded, named, scores, tuned, weighted

NAMES = ["a", "b", "c"]
TARGETS = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "gpt2": ("c_attn",),
    "llama": ("q_proj", "v_proj"),
}


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_equal_to_pefts_lora(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], layers: tuple[int, ...]
) -> None:
    """Scores, and gradients of every tensor."""
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "lora", layers, lora_alpha=7.0)
    row = filled(model).requires_grad_()
    config = LoraConfig(
        r=3, lora_alpha=7, target_modules=list(TARGETS[family]), layers_to_transform=list(layers), task_type="SEQ_CLS",
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    other = get_peft_model(plain_model(checkpoint(family), head_of(model, row)), config).eval()
    leaves = {}
    for name, value in named(model, row.detach()).items():
        if name.startswith("lora."):
            _, layer, module, part = name.split(".")
            (found,) = (
                weight
                for path, weight in other.named_parameters()
                if f".{layer}." in path and f".{module}.lora_{part}." in path
            )
            found.data.copy_(value)
            leaves[name] = found
    assert len(leaves) == 2 * len(layers) * len(TARGETS[family])
    scored, expected = scores(model, row, inputs), other(**inputs).logits
    torch.testing.assert_close(scored, expected, rtol=1e-5, atol=1e-5)
    weighted(scored).backward()
    weighted(expected).backward()
    assert row.grad is not None
    for name, leaf in leaves.items():
        torch.testing.assert_close(named(model, row.grad)[name], leaf.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_a_classifier_comes_back_from_peft(
    checkpoint: Folders, tmp_path: Path, family: str, layers: tuple[int, ...]
) -> None:
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model = tuned(loaded(checkpoint(family)), "lora", layers)
    row = filled(model)
    assert to_peft(model, row, tmp_path, NAMES) is None
    read = PeftModel.from_pretrained(plain_model(checkpoint(family), {}), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(**inputs).logits, scores(model, row, inputs), rtol=1e-5, atol=1e-5)
    places = {name.split(".lora_A")[0] for name, _ in read.named_parameters() if ".lora_A" in name}
    assert len(places) == len(layers) * len(TARGETS[family])


def test_a_linear_head_lies_beside_the_adapter(checkpoint: Folders, tmp_path: Path) -> None:
    model = tuned(loaded(checkpoint("roberta"), "linear"), "lora")
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    row = filled(model)
    told = to_peft(model, row, tmp_path, NAMES)
    assert told is not None
    assert "head.safetensors has it" in told
    read = PeftModel.from_pretrained(AutoModel.from_pretrained(checkpoint("roberta")), tmp_path).eval()
    head = head_of(model, row)
    with torch.no_grad():
        features = read(**inputs).last_hidden_state[:, 0]
    expected = features @ head["classifier.weight"].T + head["classifier.bias"]
    torch.testing.assert_close(scores(model, row, inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "GPT-NeoX", "Phi-3"])
def test_a_language_model_comes_back_from_peft(name: str, tmp_path: Path) -> None:
    """Also where query, key and value are one layer."""
    backbone = load_backbone(str(save(FAMILIES[name], tmp_path / "base")), words=("good", "bad"), head="auto")
    backbone.build_head("auto", 2, ("good", "bad"))
    model = tuned(backbone, "lora", (1,))
    row, ids = filled(model), torch.arange(20, 32).reshape(2, 6)
    assert to_peft(model, row, tmp_path / "adapter", NAMES) is None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    read = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    model.bind(row[None])
    with torch.no_grad():
        torch.testing.assert_close(read(input_ids=ids).logits, model.outputs({"input_ids": ids}), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.masked])
def test_query_and_value_are_found_in_every_family(name: str, tmp_path: Path) -> None:
    try:
        backbone = load_backbone(str(save(FAMILIES[name], tmp_path / "base")))
    except InputError:
        pytest.skip(f"{name} is refused")
    backbone.build_head("model", 2)
    model = tuned(backbone, "lora")
    modules = {name.split(".")[2] for name in model.layout.names if name.startswith("lora.")}
    assert modules in ({"query", "value"}, {"q_lin", "v_lin"}, {"Wqkv"})


def test_targets_by_name(checkpoint: Folders) -> None:
    backbone = loaded(checkpoint("llama"))
    names = tuned(backbone, "lora", (1,), lora_targets=("k_proj", "o_proj")).layout.names
    assert names[:4] == ("lora.1.k_proj.A", "lora.1.k_proj.B", "lora.1.o_proj.A", "lora.1.o_proj.B")
    with pytest.raises(InputError, match=r"lora-targets = 'q_proj,qkv'.*no linear layer qkv.*q_proj, k_proj, v_proj"):
        tuned(backbone, "lora", lora_targets=("q_proj", "qkv"))


def test_shapes_and_a_rank_that_does_not_fit(checkpoint: Folders) -> None:
    backbone = loaded(checkpoint("llama"))  # 64 hidden, 4 heads of 16, 2 of keys and values
    shapes = {entry.name: entry.shape for entry in tuned(backbone, "lora", (0,), lora_rank=4).technique.entries}
    assert shapes == {
        "lora.0.q_proj.A": (4, 64),
        "lora.0.q_proj.B": (64, 4),
        "lora.0.v_proj.A": (4, 64),
        "lora.0.v_proj.B": (32, 4),
    }
    assert tuned(backbone, "lora", lora_rank=32).technique.entries
    with pytest.raises(InputError, match=r"lora-rank = 33: v_proj of .* no more than 32.*Use 32 or less"):
        tuned(backbone, "lora", lora_rank=33)
    with pytest.raises(InputError, match="no layer 2"):
        tuned(backbone, "lora", (0, 2))


def test_it_begins_as_the_frozen_model_with_a_as_peft_draws_it(checkpoint: Folders) -> None:
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model = tuned(loaded(checkpoint("bert")), "lora")
    row = model.initial(4)
    own = plain_model(checkpoint("bert"), head_of(model, row))(**inputs).logits
    torch.testing.assert_close(scores(model, row, inputs), own, rtol=1e-5, atol=1e-6)
    other = get_peft_model(plain_model(checkpoint("bert"), {}), LoraConfig(r=3, target_modules=["query"]))
    (theirs, *_) = (value for name, value in other.named_parameters() if "lora_A" in name)
    ours = named(model, row)["lora.0.query.A"]
    bound = 32**-0.5
    for drawn in (ours, theirs):
        assert 0.9 * bound < float(drawn.abs().max()) <= bound
    assert float(ours.mean().abs()) < 0.3 * bound


def test_label_words_with_lora_on_a_part_of_the_layers() -> None:
    from tests.models.techniques import by_words

    model = tuned(by_words("llama"), "lora", (1,))
    inputs = answers({"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6).long()})
    assert model.technique.begins_at == 1
    assert scores(model, filled(model), inputs).isfinite().all()

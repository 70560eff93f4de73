from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedpeptao.errors import InputError
from models import deep_prompts
from models.backbone import Backbone
from models.loading import load_backbone
from models.tuned_model import TunedModel
from tests.models.conftest import LABELS, PROMPT_TOKENS, padded_for
from tests.models.reference import cache_logits, peft_logits, prompt_columns, written_out_logits

Folders = Callable[[str], Path]
LAYERS = (0, 1)


def prompted(
    folder: Path | str, layers: tuple[int, ...] = LAYERS, head: str = "model", dtype: str = "float32"
) -> TunedModel:
    backbone = load_backbone(str(folder), dtype=dtype)
    backbone.build_head(head, LABELS)
    return deep_prompts.prompted(backbone, layers, PROMPT_TOKENS)


def parts(model: TunedModel, row: Tensor) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Head weights by the model's own names, prompts by layer."""
    named = model.layout.unflatten(row.detach())
    head = {name.removeprefix("head."): value for name, value in named.items() if name.startswith("head.")}
    return head, {layer: named[f"prompt.{layer}"] for layer in model.layers}


def row_and_logits(model: TunedModel, inputs: dict[str, Tensor], seed: int = 1) -> tuple[Tensor, Tensor]:
    row = model.initial(seed, std=1.0).requires_grad_()
    model.bind(row[None])
    return row, model.logits(inputs)


def weighted(logits: Tensor) -> Tensor:
    """A scalar whose gradient differs in every entry."""
    return (logits * torch.linspace(-1.0, 2.0, logits.numel()).reshape(logits.shape)).sum()


def test_bit_equal_to_peft(checkpoint: Folders, family: str, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for(family, inputs)
    model = prompted(checkpoint(family))
    row, logits = row_and_logits(model, inputs)
    head, prompts = parts(model, row)
    expected, weight = peft_logits(checkpoint(family), head, list(prompts.values()), inputs)
    assert torch.equal(logits, expected)
    weighted(logits).backward()
    weighted(expected).backward()
    assert row.grad is not None
    assert weight.grad is not None
    gradients = list(parts(model, row.grad)[1].values())
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert all(torch.equal(gradient, weight.grad[:, where]) for gradient, where in prompt_columns(gradients))


@pytest.mark.parametrize("kind", ["dynamic", "encoder-decoder"])
def test_bit_equal_to_a_cache_filled_by_hand(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], kind: str
) -> None:
    inputs = padded_for(family, inputs)
    if kind == "encoder-decoder" and family == "llama":
        pytest.skip("Llama takes no such cache")
    model = prompted(checkpoint(family))
    row, logits = row_and_logits(model, inputs)
    head, prompts = parts(model, row)
    leaves = [prompt.clone().requires_grad_() for prompt in prompts.values()]
    expected = cache_logits(checkpoint(family), head, leaves, inputs, kind)
    assert torch.equal(logits, expected)
    weighted(logits).backward()
    weighted(expected).backward()
    assert row.grad is not None
    assert all(
        torch.equal(own, leaf.grad) for own, leaf in zip(parts(model, row.grad)[1].values(), leaves, strict=True)
    )


@pytest.mark.parametrize("layers", [chosen for count in range(3) for chosen in combinations(LAYERS, count)])
def test_every_subset_of_layers_equals_attention_written_out(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], layers: tuple[int, ...]
) -> None:
    inputs = padded_for(family, inputs)
    model = prompted(checkpoint(family), layers)
    row, logits = row_and_logits(model, inputs)
    head, prompts = parts(model, row)
    leaves = {layer: prompt.clone().requires_grad_() for layer, prompt in prompts.items()}
    expected = written_out_logits(checkpoint(family), head, leaves, inputs)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    if layers:
        weighted(logits).backward()
        weighted(expected).backward()
        assert row.grad is not None
        for layer, gradient in parts(model, row.grad)[1].items():
            torch.testing.assert_close(gradient, leaves[layer].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "model"])
def test_rows_of_several_clients_equal_the_clients_one_by_one(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], head: str
) -> None:
    inputs = padded_for(family, inputs)
    model = prompted(checkpoint(family), head=head)
    owner = torch.tensor([2, 0, 2, 1])[: len(inputs["input_ids"])]
    rows = torch.stack([model.initial(seed, std=1.0) for seed in range(3)])
    together = rows.clone().requires_grad_()
    model.bind(together, owner=owner)
    logits = model.logits(inputs)
    weighted(logits).backward()
    alone = rows.clone().requires_grad_()
    singles = []
    for at, client in enumerate(owner.tolist()):
        model.bind(alone[client : client + 1])
        singles.append(model.logits({key: value[at : at + 1] for key, value in inputs.items()}))
    expected = torch.cat(singles)
    weighted(expected).backward()
    assert not torch.allclose(expected[0], expected[1])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert all(getattr(module, "owner", None) is None for module in model.backbone.model.modules())
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-3, atol=1e-5)
    unused = sorted(set(range(3)) - set(owner.tolist()))
    assert together.grad is not None
    assert (together.grad[unused] == 0).all()


def test_a_row_in_another_order_gives_the_same_logits(checkpoint: Folders, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for("bert", inputs)
    model = prompted(checkpoint("bert"))
    row, expected = row_and_logits(model, inputs)
    other = model.layout.first([name for name in model.layout.names if name != "prompt.0"])
    assert other.names[-1] == "prompt.0"
    model.bind(other.flatten(model.layout.unflatten(row))[None], other)
    assert torch.equal(model.logits(inputs), expected)
    with pytest.raises(ValueError, match="this model tunes"):
        model.bind(row[None, :-1], model.layout.select(model.layout.names[:-1]))


def test_models_in_one_process_leave_each_other_alone(checkpoint: Folders) -> None:
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    shared = load_backbone(str(checkpoint("bert")))
    shared.build_head("model", LABELS)
    models = [
        deep_prompts.prompted(shared, (0,), PROMPT_TOKENS),
        deep_prompts.prompted(shared, (1,), PROMPT_TOKENS),
        prompted(checkpoint("bert")),
        prompted(checkpoint("gpt2")),
    ]
    alone = []
    for seed, model in enumerate(models):
        alone.append(row_and_logits(model, inputs, seed)[1])
        model.unbind()
    for seed, model in enumerate(models):
        model.bind(model.initial(seed, std=1.0)[None])
    for model, expected in reversed(list(zip(models, alone, strict=True))):
        assert torch.equal(model.logits(inputs), expected)
    assert all(slot.prompt is None and slot.owner is None for slot in shared.slots)


def test_prompts_stay_float32_on_a_bfloat16_backbone(checkpoint: Folders, family: str) -> None:
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    for head in ("linear", "model"):
        model = prompted(checkpoint(family), head=head, dtype="bfloat16")
        assert model.backbone.model.get_input_embeddings().weight.dtype == torch.bfloat16
        row, logits = row_and_logits(model, inputs)
        weighted(logits).backward()
        assert row.grad is not None
        assert (row.dtype, logits.dtype, row.grad.dtype) == (torch.float32,) * 3
        assert (row.grad != 0).float().mean() > 0.9
        _, full = row_and_logits(prompted(checkpoint(family), head=head), inputs)
        torch.testing.assert_close(logits, full, rtol=0.1, atol=0.1)


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    whole, part = prompted("random:bert"), prompted("random:bert", (1,))
    values = whole.layout.unflatten(whole.initial(5))
    torch.manual_seed(2)
    for name, value in part.layout.unflatten(part.initial(5)).items():
        assert torch.equal(value, values[name])
    assert not torch.equal(values["prompt.0"], values["prompt.1"])
    assert not torch.equal(whole.initial(5), whole.initial(6))
    assert values["head.classifier.bias"].abs().max() == 0
    wide = whole.layout.unflatten(whole.initial(5, std=0.5))
    torch.testing.assert_close(wide["prompt.0"], values["prompt.0"] * 25)
    assert torch.equal(wide["head.classifier.weight"], values["head.classifier.weight"])
    assert 0.015 < values["prompt.0"].std() < 0.025


def test_layout_names_prompts_by_layer_then_the_head() -> None:
    model = prompted("random:llama", (1, 0, 1))
    assert model.layout.names == ("prompt.0", "prompt.1", "head.score.weight")
    assert model.layout.entries[0].shape == (2, 2, PROMPT_TOKENS, 16)
    assert [entry.layer for entry in model.layout.entries] == [0, 1, None]


def test_dropout_only_while_training_and_only_if_asked(checkpoint: Folders) -> None:
    inputs = {"input_ids": torch.arange(20, 26)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    for dropout in (0.0, 0.5):
        for family in ("bert", "llama"):
            backbone = load_backbone(str(checkpoint(family)), dropout=dropout)
            backbone.build_head("linear", LABELS)
            model = deep_prompts.prompted(backbone, LAYERS, PROMPT_TOKENS)
            _, still = row_and_logits(model, inputs)
            backbone.train()
            assert backbone.model.training == (dropout > 0)
            outputs = [model.logits(inputs) for _ in range(2)]
            assert torch.equal(*outputs) == (dropout == 0)
            blocks = [backbone.block_outputs(inputs)[-1] for _ in range(2)]
            assert torch.equal(*blocks)
            backbone.train(False)
            assert torch.equal(model.logits(inputs), still)


def test_wrong_use_is_refused(checkpoint: Folders) -> None:
    bare = load_backbone("random:bert")
    with pytest.raises(ValueError, match="build_head"):
        deep_prompts.prompted(bare, LAYERS, 4)
    model = prompted("random:bert")
    with pytest.raises(RuntimeError, match="bind"):
        model.logits({"input_ids": torch.ones(1, 2, dtype=torch.long)})
    with pytest.raises(ValueError, match="owner"):
        model.bind(torch.zeros(2, model.layout.size))
    with pytest.raises(ValueError, match="expected"):
        model.bind(torch.zeros(model.layout.size))
    with pytest.raises(InputError, match="no layer 2"):
        deep_prompts.prompted(model.backbone, (0, 2), 4)
    with pytest.raises(InputError, match=r"prompt-tokens = 512.*Use fewer than 512"):
        deep_prompts.prompted(model.backbone, (0,), 512)
    with pytest.raises(InputError, match="prompt-tokens = 0"):
        deep_prompts.prompted(model.backbone, (0,), 0)


def test_a_head_of_other_modules_takes_one_client_at_a_time() -> None:
    model = prompted("random:bert")
    norm = torch.nn.LayerNorm(32)
    model.backbone.model.classifier = torch.nn.Sequential(norm, model.backbone.model.classifier)
    head = type(model.backbone.head)(("classifier.0.weight", "classifier.1.weight"), replaced=False)
    model.backbone.head = head
    several = deep_prompts.prompted(model.backbone, LAYERS, PROMPT_TOKENS)
    with pytest.raises(ValueError, match=r"classifier\.0\.weight cannot differ"):
        several.bind(torch.zeros(2, several.layout.size), owner=torch.zeros(2, dtype=torch.long))
    values = several.layout.unflatten(several.initial(0))
    assert torch.equal(values["head.classifier.0.weight"], torch.ones(32))


def test_the_longest_text_runs_and_a_longer_one_does_not(checkpoint: Folders, family: str) -> None:
    model = prompted(checkpoint(family))
    limit = model.backbone.text_positions(PROMPT_TOKENS)
    assert limit == 512 - PROMPT_TOKENS
    model.bind(model.initial(0)[None])
    with torch.no_grad():
        assert model.logits({"input_ids": torch.full((1, limit), 20)}).isfinite().all()
        if family != "llama":  # rotary positions have no table to run out of
            with pytest.raises((IndexError, RuntimeError)):
                model.logits({"input_ids": torch.full((1, limit + 1), 20)})


def test_backbone_stays_frozen(checkpoint: Folders) -> None:
    model = prompted(checkpoint("bert"))
    _, logits = row_and_logits(model, {"input_ids": torch.full((1, 3), 20)})
    logits.sum().backward()
    assert isinstance(model.backbone, Backbone)
    assert all(not weight.requires_grad and weight.grad is None for weight in model.backbone.model.parameters())

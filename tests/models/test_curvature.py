"""Hessian-vector products on the prompts against torch's own Hessian, on four families."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import LlamaConfig, LlamaForSequenceClassification

from fedpeptao.errors import InputError
from models import attention, curvature, deep_prompts
from models.curvature import Hessian, check_second_derivative, prompt_loss, prompts, second_order
from models.loading import load_backbone
from models.random_models import random_tokenizer
from models.tuned_model import TunedModel

FAMILIES = ["random:bert", "random:roberta", "random:gpt2", "random:llama"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> TunedModel:
    backbone = load_backbone(request.param)
    backbone.build_head("linear", 3)
    return deep_prompts.prompted(backbone, range(backbone.num_layers), 2)


def loss_of(model: TunedModel, lengths: tuple[int, ...] = (5, 3)) -> tuple[Tensor, object]:
    """The row, and a mean loss of rows [1, R] on texts of these lengths, padded on the right."""
    width = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    inputs = {"input_ids": ids * mask + model.backbone.tokenizer.pad_token_id * (1 - mask), "attention_mask": mask}
    wanted = torch.arange(len(lengths)) % 3

    def losses(rows: Tensor) -> Tensor:
        model.bind(rows)
        return torch.nn.functional.cross_entropy(model.logits(inputs), wanted)[None]

    return model.initial(0, std=0.5), losses


def test_products_are_those_of_torchs_hessian(model: TunedModel) -> None:
    row, losses = loss_of(model)
    with second_order():
        loss, x = prompt_loss(losses, model.layout, row)
        hessian = Hessian(loss, x)
        whole = torch.autograd.functional.hessian(loss, x)
        v = torch.randn(len(x), generator=torch.Generator().manual_seed(2))
        product = hessian.times(v)
    scale = float(whole.abs().max())
    assert scale > 1e-6
    torch.testing.assert_close(product, whole @ v, rtol=1e-4, atol=1e-4 * scale)
    assert not product.requires_grad


def test_products_are_differences_of_gradients(model: TunedModel) -> None:
    """Which shares nothing with second derivatives: (g(x + h v) - g(x - h v)) / 2h, by the usual kernel."""
    row, losses = loss_of(model)
    loss, x = prompt_loss(losses, model.layout, row)
    v, h = torch.randn(len(x), generator=torch.Generator().manual_seed(3)), 1e-2
    with second_order():
        product = Hessian(loss, x).times(v)

    def gradient(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    difference = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    assert float((product - difference).norm()) < 0.02 * float(difference.norm())


def test_the_hessian_is_symmetric_and_linear(model: TunedModel) -> None:
    row, losses = loss_of(model)
    a, b = torch.randn(2, model.layout.select(prompts(model.layout)).size, generator=torch.Generator().manual_seed(4))
    with second_order():
        hessian = Hessian(*prompt_loss(losses, model.layout, row))
        ha, hb, both = hessian.times(a), hessian.times(b), hessian.times(2 * a - b)
    size = float(ha.norm() * b.norm())
    assert abs(float(ha @ b - hb @ a)) < 1e-5 * size
    torch.testing.assert_close(both, 2 * ha - hb, rtol=1e-4, atol=1e-5 * float(both.abs().max()))


def test_the_gradient_is_the_usual_one(model: TunedModel) -> None:
    row, losses = loss_of(model)
    loss, x = prompt_loss(losses, model.layout, row)
    leaf = x.clone().requires_grad_()
    (usual,) = torch.autograd.grad(loss(leaf), leaf)
    with second_order():
        found = Hessian(loss, x).gradient
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-6)


def test_the_usual_kernel_has_no_second_derivative() -> None:
    """So `second_order` earns its place."""
    backbone = load_backbone("random:bert")
    backbone.build_head("linear", 3)
    model = deep_prompts.prompted(backbone, (0, 1), 2)
    row, losses = loss_of(model, (4, 4))
    loss, x = prompt_loss(losses, model.layout, row)
    with pytest.raises(RuntimeError, match="not implemented"):
        Hessian(loss, x).times(torch.ones_like(x))


def test_the_head_is_held_fixed(model: TunedModel) -> None:
    row, losses = loss_of(model)
    loss, x = prompt_loss(losses, model.layout, row)
    assert len(x) == model.layout.select(prompts(model.layout)).size < len(row)
    other = row.clone()
    other[len(x) :] += 1.0
    there, _ = prompt_loss(losses, model.layout, other)
    assert float(loss(x)) == float(losses(row[None]))
    assert float(there(x)) == float(losses(other[None])) != float(loss(x))


def test_a_linear_loss_has_a_hessian_of_zero() -> None:
    hessian = Hessian(lambda x: (3.0 * x).sum(), torch.ones(4))
    assert hessian.gradient.tolist() == [3.0] * 4
    assert hessian.times(torch.ones(4)).tolist() == [0.0] * 4


def test_prompts_have_to_come_first(model: TunedModel) -> None:
    row, losses = loss_of(model)
    headed = model.layout.first([name for name in model.layout.names if name.startswith("head")])
    with pytest.raises(ValueError, match="do not come first"):
        prompt_loss(losses, headed, row)


# -- models that cannot ------------------------------------------------------------------------------------


def test_the_check_passes_and_leaves_nothing_behind(model: TunedModel) -> None:
    check_second_derivative(model, "ratio", "eigengap")
    with pytest.raises(RuntimeError, match="no parameters are bound"):
        model.logits({})
    assert all(slot.prompt is None for slot in model.backbone.slots)


def test_a_deep_model_passes(tmp_path: Path) -> None:
    """Twelve layers curve so much that a difference over .01 is another vector than the product: shorter steps decide."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        num_hidden_layers=12,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=4,
        vocab_size=300,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(shape).save_pretrained(tmp_path)
    random_tokenizer("llama").save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    backbone.build_head("linear", 3)
    check_second_derivative(deep_prompts.prompted(backbone, range(12), 8), "ratio", "eigengap")


class Once(torch.autograd.Function):
    """As a fused kernel: a first derivative, and no second."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 1.0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("once", "away from a difference of gradients"), ("not finite", "not finite"), ("fused", "not implemented")],
)
def test_attention_without_a_second_derivative_is_refused(
    fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("random:bert")
    backbone.build_head("linear", 3)
    real = attention.sdpa_attention_forward

    def fused(*args: object, **kwargs: object) -> tuple[Tensor, None]:
        output, weights = real(*args, **kwargs)
        if fault == "not finite":
            return output + 0 * (output - output.detach()).abs().sqrt(), weights
        return (Once.apply(output) if fault == "once" else output), weights

    if fault == "fused":
        monkeypatch.setattr(curvature, "second_order", nullcontext)
    monkeypatch.setattr(attention, "sdpa_attention_forward", fused)
    with pytest.raises(InputError, match=rf"no second derivative \(.*{reason}.*Give ratio a number") as caught:
        check_second_derivative(deep_prompts.prompted(backbone, (0, 1), 2), "ratio", "plateau")
    assert (caught.value.key, caught.value.value) == ("ratio", "plateau")

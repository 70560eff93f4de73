"""What holds for every technique: frozen backbone, initial values, several clients in a pass, label words, dropout of nothing."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models import techniques
from models.hooks import hooked, on_states
from models.layout import Entry
from models.loading import load_backbone
from models.per_client import rows_of
from models.technique import Forward, known_layers
from models.technique_names import BY_LAYER, TECHNIQUES
from models.tuned_model import TunedModel
from tests.models.conftest import padded_for
from tests.models.techniques import (
    DECODERS,
    Folders,
    Inputs,
    answers,
    by_words,
    filled,
    loaded,
    named,
    scores,
    tuned,
    weighted,
)

FAMILIES = ("bert", "gpt2")


@pytest.fixture(params=TECHNIQUES)
def technique(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def texts(family: str) -> Inputs:
    ids = torch.randint(10, 250, (4, 7), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(7)[None] < torch.tensor([7, 3, 5, 1])[:, None]).long()
    return padded_for(family, {"input_ids": ids, "attention_mask": mask})


def whole(model: TunedModel, inputs: Inputs) -> torch.Tensor:
    return scores(model, filled(model), inputs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "model"])
def test_clients_in_one_pass_equal_the_clients_one_by_one(
    checkpoint: Folders, technique: str, family: str, head: str
) -> None:
    model, inputs = tuned(loaded(checkpoint(family), head), technique), texts(family)
    assert model.of_one_client() == []
    owner = torch.tensor([2, 0, 2, 1])
    together = torch.stack([filled(model, seed) for seed in range(3)]).requires_grad_()
    model.bind(together, owner=owner)
    found = model.logits(inputs)
    weighted(found).backward()
    alone = together.detach().clone().requires_grad_()
    each = []
    for at, client in enumerate(owner.tolist()):
        model.bind(alone[client : client + 1])
        each.append(model.logits({key: value[at : at + 1] for key, value in inputs.items()}))
    expected = torch.cat(each)
    weighted(expected).backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    rounding = 2e-5 * max(1.0, float(alone.grad.abs().max()))  # small sums of large terms keep the large ones' rounding
    torch.testing.assert_close(together.grad, alone.grad, rtol=2e-3, atol=rounding)
    assert not torch.allclose(expected[0], expected[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gradient_reaches_all_of_it_and_nothing_of_the_model(
    checkpoint: Folders, technique: str, family: str
) -> None:
    model = tuned(loaded(checkpoint(family)), technique)
    row = filled(model).requires_grad_()
    weighted(scores(model, row, texts(family))).backward()
    assert row.grad is not None
    for entry in model.technique.entries:
        assert (named(model, row.grad)[entry.name] != 0).float().mean() > 0.3, entry.name  # relu is 0 below 0
    assert all(weight.grad is None for weight in model.backbone.model.parameters())


def test_its_initial_values_are_those_of_seed_and_name(technique: str) -> None:
    torch.manual_seed(1)
    model = tuned(loaded("random:bert"), technique)
    row = model.initial(5)
    torch.manual_seed(2)
    again = tuned(loaded("random:bert"), technique)
    assert torch.equal(again.initial(5), row)
    assert not torch.equal(model.initial(6), row)
    assert row.dtype == torch.float32
    if model.layers:
        part = tuned(model.backbone, technique, (1,))
        assert set(part.layout.names) < set(model.layout.names)
        for name, value in named(part, part.initial(5)).items():
            assert torch.equal(value, named(model, row)[name])


def test_nothing_is_left_on_the_backbone(checkpoint: Folders, technique: str) -> None:
    backbone, inputs = loaded(checkpoint("bert")), texts("bert")
    plain = tuned(backbone, "deep-prompts")
    before = whole(plain, inputs)
    weights = [weight.clone() for weight in backbone.model.base_model.parameters()]
    model = tuned(backbone, technique)
    own = whole(model, inputs)
    assert torch.equal(whole(plain, inputs), before)
    assert torch.equal(whole(model, inputs), own)
    hooks = [hook for module in backbone.model.modules() for hook in module._forward_hooks.values()]
    assert hooks == []
    assert all(torch.equal(*pair) for pair in zip(weights, backbone.model.base_model.parameters(), strict=True))


@pytest.mark.parametrize("family", ["roberta", "llama", "gpt2"])
def test_label_words_decide_at_their_own_place(technique: str, family: str) -> None:
    """Padded or not, alone or in company: the same scores, from the place that the text's answer has moved to."""
    model = tuned(by_words(family), technique)
    inputs = answers(texts(family))
    together = whole(model, inputs)
    for at, size in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = {
            key: value[at : at + 1, :size] if value.ndim > 1 else value[at : at + 1] for key, value in inputs.items()
        }
        torch.testing.assert_close(whole(model, alone)[0], together[at], rtol=1e-4, atol=1e-4)
    assert all(entry.name.split(".")[0] != "head" for entry in model.layout.entries)
    model.bind(filled(model)[None])
    wanted = torch.tensor([0, 1, 2, 1])
    losses = model.loss(inputs, wanted, "none")
    torch.testing.assert_close(losses, -together.gather(1, wanted[:, None])[:, 0], rtol=1e-4, atol=1e-4)
    if family in DECODERS:
        assert int(model.backbone.language.lengths.max()) > 1  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_gradient_where_activations_are_computed_again(
    checkpoint: Folders, technique: str, family: str
) -> None:
    gradients = []
    for again in (False, True):
        backbone = load_backbone(str(checkpoint(family)), gradient_checkpointing=again)
        backbone.build_head("model", 3)
        model = tuned(backbone, technique)
        row = filled(model).requires_grad_()
        weighted(scores(model, row, texts(family))).backward()
        gradients.append(row.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_scores_and_gradient_without_padding(checkpoint: Folders, technique: str, family: str) -> None:
    found, gradients = [], []
    for unpadding in (False, True):
        backbone = load_backbone(str(checkpoint(family)), unpadding=unpadding)
        assert backbone.leaves_out_padding == unpadding
        backbone.build_head("model", 3)
        model = tuned(backbone, technique)
        row = filled(model).requires_grad_()
        found.append(scores(model, row, texts(family)))
        weighted(found[-1]).backward()
        gradients.append(row.grad)
        assert all(slot.unpadded is None for slot in backbone.slots)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_works_on_a_backbone_in_half_precision(checkpoint: Folders, technique: str, family: str) -> None:
    backbone = load_backbone(str(checkpoint(family)), dtype="bfloat16")
    backbone.build_head("model", 3)
    model = tuned(backbone, technique)
    row = filled(model, std=0.1).requires_grad_()
    found = scores(model, row, texts(family))
    weighted(found).backward()
    assert row.grad is not None
    assert (found.dtype, row.grad.dtype) == (torch.float32, torch.float32)
    exact = scores(tuned(loaded(checkpoint(family)), technique), row.detach(), texts(family))
    torch.testing.assert_close(found, exact, rtol=0.15, atol=0.15)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "METHODS.md"


def test_the_page_tells_of_each() -> None:
    """Names, whether they belong to layers, whether PEFT has them, and under what their bytes are counted."""
    text = PAGE.read_text(encoding="utf8").split("<!-- techniques -->")[1].split("<!-- /techniques -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.strip().splitlines()[2:]]
    assert {row[0].strip('`"') for row in rows} == set(TECHNIQUES)
    for name, _, _, by_layer, peft, kinds, _ in rows:
        model = tuned(loaded("random:gpt2"), name.strip('`"'))
        assert (by_layer == "yes") is (name.strip('`"') in BY_LAYER) is bool(model.layers)
        assert isinstance(model.technique.to_peft(named(model, model.initial(0))), str) is (peft == "no")
        counted = {entry.name.split(".")[0] for entry in model.technique.entries}
        assert {"prompts" if kind == "prompt" else kind for kind in counted} == set(kinds.replace("`", "").split(", "))


def test_the_pages_example_of_a_new_one_works(checkpoint: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is printed: it begins as the frozen model, and clients share a pass."""
    code = PAGE.read_text(encoding="utf8").split("```python")[1].split("```")[0]
    assert len(code.strip().splitlines()) < 30
    parts = {"Entry": Entry, "Forward": Forward, "contextmanager": contextmanager, "torch": torch}
    parts |= {"hooked": hooked, "known_layers": known_layers, "on_states": on_states, "rows_of": rows_of}
    exec(compile(code, str(PAGE), "exec"), parts)
    builder = parts["Scaling"]
    monkeypatch.setitem(techniques._BUILDERS, "scaling", lambda backbone, layers, options: builder(backbone, layers))
    model = tuned(loaded(checkpoint("gpt2")), "scaling")
    one, none = model.initial(0), tuned(model.backbone, "adapter")
    row = none.initial(0)
    row[-96:] = one[-96:]  # the same head
    torch.testing.assert_close(scores(model, one, texts("gpt2")), scores(none, row, texts("gpt2")))
    rows = torch.stack([filled(model, seed) for seed in range(4)])
    model.bind(rows, owner=torch.arange(4))
    together = model.logits(texts("gpt2"))
    for at in range(4):
        alone = scores(model, rows[at], {key: value[at : at + 1] for key, value in texts("gpt2").items()})
        torch.testing.assert_close(together[at], alone[0], rtol=1e-4, atol=1e-4)

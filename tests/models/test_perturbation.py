"""How far layers' outputs move with the embeddings, against a naive second implementation: text by text, from embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from models.backbone import Backbone
from models.loading import load_backbone
from models.perturbation import layer_changes
from models.probe import can_do_without_padding
from tests.models.conftest import padded_for
from tests.models.reference import plain_model
from tests.models.techniques import DECODERS, Folders, by_words, head_of, loaded, tuned

RHO = 0.05


def naive(model: torch.nn.Module, blocks: list[torch.nn.Module], ids: Tensor, wanted: int, rho: float) -> list[float]:
    """Of one text without padding."""
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, given: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0]).detach())

    handles = [block.register_forward_hook(keep) for block in blocks]
    e = model.get_input_embeddings()(ids[None]).detach().requires_grad_()  # type: ignore[operator]
    ones = torch.ones(1, len(ids), dtype=torch.long)
    loss = cross_entropy(model(inputs_embeds=e, attention_mask=ones).logits, torch.tensor([wanted]))
    (g,) = torch.autograd.grad(loss, e)
    with torch.no_grad():
        model(inputs_embeds=e + rho * e.norm() * g / g.norm(), attention_mask=ones)
    for handle in handles:
        handle.remove()
    before, after = seen[: len(blocks)], seen[len(blocks) :]
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def test_equal_to_a_naive_implementation(checkpoint: Folders, family: str, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "lora")
    row = model.initial(0)
    model.bind(row[None])
    wanted = torch.arange(len(inputs["input_ids"])) % 3
    found = layer_changes(model, inputs, wanted, RHO)
    plain = plain_model(checkpoint(family), head_of(model, row))
    paths = {module: path for path, module in model.backbone.model.named_modules()}
    blocks = [plain.get_submodule(paths[block]) for block in model.backbone.blocks]
    for place, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        by_hand = naive(plain, blocks, ids[mask.bool()], int(wanted[place]), RHO)
        assert found[place].tolist() == pytest.approx(by_hand, rel=2e-3)
    assert (found > 1e-4).all()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_same_where_padding_is_left_out(checkpoint: Folders, family: str) -> None:
    """Five tokens and two: blocks give states of seven then."""
    model = tuned(loaded(checkpoint(family)), "lora")
    model.bind(model.initial(0)[None])
    ids = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 0, 0, 0]])
    batch, wanted = {"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.tensor([0, 2])
    padded = layer_changes(model, batch, wanted, RHO)
    assert can_do_without_padding(model.backbone)
    model.backbone.leaves_out_padding = True
    torch.testing.assert_close(layer_changes(model, batch, wanted, RHO), padded, rtol=1e-4, atol=1e-6)


def test_a_step_of_no_length_moves_nothing_and_a_longer_one_more(
    checkpoint: Folders, inputs: dict[str, Tensor]
) -> None:
    model = tuned(loaded(checkpoint("bert")), "lora")
    model.bind(model.initial(0)[None])
    wanted = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
    none, small, large = (layer_changes(model, inputs, wanted, rho) for rho in (0.0, 0.01, 0.05))
    assert not none.any()
    assert (small < large).all()


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_label_words_of_several_tokens_too(family: str) -> None:
    """The texts of a pass are longer then than those that were given; alone, with others, or padded a text moves alike."""
    model = tuned(by_words(family), "lora")
    model.bind(model.initial(0)[None])
    ids = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "answer_at": torch.tensor([3, 2])}
    both = layer_changes(model, batch, torch.tensor([0, 2]), RHO)
    alone = {"input_ids": ids[1:, :3], "attention_mask": mask[1:, :3], "answer_at": torch.tensor([2])}
    torch.testing.assert_close(layer_changes(model, alone, torch.tensor([2]), RHO)[0], both[1], rtol=1e-3, atol=1e-6)
    assert both.shape == (2, 2)
    assert (both > 0).all()


def naive_by_words(backbone: Backbone, ids: Tensor, wanted: int, rho: float) -> list[float]:
    """Of one text: one e for all words, the loss over their shares of probability, and the text's own states."""
    model, head = backbone.model, backbone.language
    assert head is not None
    words = [ids[:count] for ids, count in zip(head.tokens, head.lengths.tolist(), strict=True)]
    embed = model.get_input_embeddings()
    e = embed(ids).detach().requires_grad_()

    def forward(values: Tensor) -> Tensor:
        return model(inputs_embeds=values[None], attention_mask=torch.ones(1, len(values), dtype=torch.long)).logits[0]

    log_p = []
    for word in words:
        places = torch.arange(len(word)) + len(ids) - 1
        log_p.append(log_softmax(forward(torch.cat([e, embed(word[:-1])])), dim=1)[places, word].sum())
    (g,) = torch.autograd.grad(cross_entropy(torch.stack(log_p)[None], torch.tensor([wanted])), e)
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, given, out: seen.append(out if isinstance(out, Tensor) else out[0]))
        for block in backbone.blocks
    ]
    with torch.no_grad():
        forward(e)
        forward(e + rho * e.norm() * g / g.norm())
    for handle in handles:
        handle.remove()
    before, after = seen[: len(handles)], seen[len(handles) :]
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


@pytest.mark.parametrize("family", DECODERS)
def test_a_loss_over_label_words_of_several_tokens_has_one_gradient_and_one_step_a_text(family: str) -> None:
    """Its pass has a row for each such word."""
    model = tuned(by_words(family), "lora")
    model.label_loss = "label-words"
    model.bind(model.initial(0)[None])
    assert model.backbone.language is not None
    assert (model.backbone.language.lengths > 1).sum() > 1
    texts = [torch.tensor([10, 11, 12, 13]), torch.tensor([20, 21, 22])]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "answer_at": torch.tensor([3, 2])}
    found = layer_changes(model, batch, torch.tensor([0, 2]), RHO)
    model.unbind()
    by_hand = [naive_by_words(model.backbone, text, label, RHO) for text, label in zip(texts, (0, 2), strict=True)]
    torch.testing.assert_close(found, torch.tensor(by_hand), rtol=2e-3, atol=1e-6)


def test_one_class_leaves_every_layer_where_it_was(checkpoint: Folders, inputs: dict[str, Tensor]) -> None:
    backbone = load_backbone(str(checkpoint("bert")))
    backbone.build_head("model", 1)
    model = tuned(backbone, "lora")
    model.bind(model.initial(0)[None])
    assert not layer_changes(model, inputs, torch.zeros(len(inputs["input_ids"]), dtype=torch.long), RHO).any()

"""How far each layer's output moves when a text's embeddings take a step up its loss (section 3 of docs/ALGORITHMS.md).

g = gradient of the text's loss at its word embeddings e, 0 at padding
delta = rho ||e||_F g / ||g||_F                   importance of l = ||h^l(e + delta) - h^l(e)||_F / ||h^l(e)||_F

Where a loss over label words of several tokens reads a text in a row for each of them, e and h^l are of the text alone, which is
the same in all of them: one gradient, the sum over the rows, and one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import PromptSlot
from models.hooks import Hook, hooked
from models.tuned_model import TunedModel

Change = Tensor | None
_TINY = 1e-30  # in the place of a norm of 0


class _Pass:
    """What one forward pass shows: embeddings [B, T, d_e], outputs of the blocks, and the mask [B, T] of real tokens."""

    def __init__(self, delta: Change) -> None:
        self.delta = delta
        self.outputs: list[Tensor] = []
        self.embeddings = self.mask = torch.empty(0)

    def embed(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        """Hook on the embeddings: a leaf without `delta`, or moved by it."""
        self.embeddings = output.detach().clone().requires_grad_() if self.delta is None else output + self.delta
        return self.embeddings

    def keep(self, slot: PromptSlot) -> Hook:
        """Hook on the block of a slot."""

        def hook(module: nn.Module, given: Any, output: Any) -> None:
            states = (output if isinstance(output, Tensor) else output[0]).detach()
            self.outputs.append(states if slot.unpadded is None else slot.unpadded.pad(states))

        return hook

    def see(self, module: nn.Module, given: Any, named: dict[str, Any]) -> None:
        """Hook before the model."""
        self.mask = named["attention_mask"].to(torch.bool)[..., None]


def layer_changes(model: TunedModel, inputs: dict[str, Tensor], wanted: Tensor, rho: float) -> Tensor:
    """Relative change of each block's output on each text, [B, L] float32 on the CPU, at the one row that is bound.

    Args:
        model: dropout off; with nothing among a text's tokens.
        inputs: as for `model.loss`; whole passes, without `entering`.
        wanted: the texts' own classes, [B].
        rho: length of the step, relative to the embeddings'.
    """
    wanted = wanted.to(model.backbone.device)
    with torch.enable_grad(), _watched(model, None) as before:
        loss = model.loss(inputs, wanted, "sum")
        (g,) = torch.autograd.grad(loss, before.embeddings)
    rows, mask = len(before.mask) // len(wanted), before.mask  # of each text, one behind the other
    if rows > 1:
        mask = mask & _own_tokens(inputs, rows, mask)
    g, e = (torch.where(mask, part, 0.0) for part in (g.float(), before.embeddings.detach().float()))
    g, e, mask = g.reshape(-1, rows, *g.shape[1:]).sum(dim=1), e[::rows], mask[::rows]
    delta = rho * _norms(e)[:, None, None] * g / _norms(g).clamp_min(_TINY)[:, None, None]
    delta = delta.repeat_interleave(rows, dim=0).to(before.embeddings.dtype)
    with torch.no_grad(), _watched(model, delta) as after:
        model.loss(inputs, wanted, "sum")
    pairs = [(old[::rows], new[::rows]) for old, new in zip(before.outputs, after.outputs, strict=True)]
    changes = [
        _norms(torch.where(mask, (new - old).float(), 0.0)) / _norms(torch.where(mask, old.float(), 0.0))
        for old, new in pairs
    ]
    return torch.stack(changes, dim=1).cpu()


def _own_tokens(inputs: dict[str, Tensor], rows: int, mask: Tensor) -> Tensor:
    """The text's in each row, as `mask` [B rows, T, 1]: up to the place that decides, behind which the word stands."""
    last = inputs["answer_at"].to(mask.device).repeat_interleave(rows)
    return (torch.arange(mask.shape[1], device=mask.device) <= last[:, None])[..., None]


def _norms(values: Tensor) -> Tensor:
    """Frobenius norm of each text's, [B]."""
    return values.flatten(1).norm(dim=1)


@contextmanager
def _watched(model: TunedModel, delta: Change) -> Iterator[_Pass]:
    found, backbone = _Pass(delta), model.backbone
    blocks: list[tuple[nn.Module, Hook]] = [
        (block, found.keep(slot)) for block, slot in zip(backbone.blocks, backbone.slots, strict=True)
    ]
    handle = backbone.model.register_forward_pre_hook(found.see, with_kwargs=True)
    try:
        with hooked([(backbone.model.get_input_embeddings(), found.embed), *blocks]):
            yield found
    finally:
        handle.remove()

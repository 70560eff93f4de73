"""Which layers travel (sections 2.1 and 2.2 of docs/ALGORITHMS.md).

A device scores each layer by the spectrum of its examples' similarities; the server averages the scores and takes the best.

    K^l_ab   = cos(h_a^l, h_b^l)                                           [B, B], float64
    zeta_i^l = mean over batches of sum_j ( log(lam_j + eps) + 1/(lam_j + eps) )      lam: eigenvalues of K^l, clipped at 0
    zeta^l   = sum_i (n_i / n) zeta_i^l                                    over the devices that have B examples
    |S|      = max(1, ceil(r L))
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.layout import Layout
from models.technique_names import matrix_of

EPS = 1e-5
HEAD = "head."
SCORE_BATCH = 8  # B: one number for every run, since zeta grows with it


def batch_score(h: Tensor, mask: Tensor) -> float:
    """zeta of one layer on one batch.

    Args:
        h: the block's output, [B, T, d].
        mask: [B, T], 1 at real tokens. Rows at padding count as 0, and each example's first real token is moved to row 0, so that
            neither the amount nor the side of padding changes the score.
    """
    mask = mask.to(torch.bool)
    first = mask.to(torch.int64).argmax(dim=1)
    rows = (torch.arange(h.shape[1], device=h.device) + first[:, None]) % h.shape[1]
    h = torch.where(mask[..., None], h.to(torch.float32), 0.0).gather(1, rows[..., None].expand_as(h))
    flat = torch.nn.functional.normalize(h.flatten(1).to(torch.float64), dim=1)
    return spectrum_score(flat @ flat.T)


def spectrum_score(similarity: Tensor) -> float:
    """sum_j ( log(lam_j + eps) + 1/(lam_j + eps) ) of a similarity matrix [B, B]; it grows with B."""
    lam = torch.linalg.eigvalsh(similarity.to(torch.float64)).clamp_min(0) + EPS
    return float((lam.log() + 1 / lam).sum())


def mean_scores(scores: Iterable[tuple[int, Sequence[float]]]) -> list[float] | None:
    """n_i-weighted mean per layer of (n_i, zeta_i); a client without scores (fewer than B examples) is left out.

    Returns:
        One score per layer, or None if no client had any.
    """
    scored = [(n, np.asarray(zeta, dtype=np.float64)) for n, zeta in scores if len(zeta)]
    if not scored:
        return None
    total = sum(n for n, _ in scored)
    mean: list[float] = sum(n / total * zeta for n, zeta in scored).tolist()  # type: ignore[union-attr]
    return mean


def layer_count(ratio: float, layers: int) -> int:
    """|S| = max(1, ceil(r L)); the 1e-6 keeps r L = 3.0000000001 at 3."""
    return max(1, math.ceil(ratio * layers - 1e-6))


def best_layers(scores: Sequence[float], count: int, order: str, rng: np.random.Generator) -> tuple[int, ...]:
    """The `count` best layers, ascending. order: highest | lowest | random; ties go to the lower layer."""
    layers = list(range(len(scores)))
    if order == "random":
        ranked = [int(layer) for layer in rng.permutation(len(scores))]
    else:
        sign = -1 if order == "highest" else 1
        ranked = sorted(layers, key=lambda layer: (sign * scores[layer], layer))
    return tuple(sorted(ranked[:count]))


def sample_clients(clients: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """D_t: `count` different clients, in the order in which their replies are folded."""
    return [clients[i] for i in rng.choice(len(clients), size=min(count, len(clients)), replace=False)]


def travelling_names(layout: Layout, layers: Collection[int], head: bool = True, matrix: str = "") -> list[str]:
    """The parameters that travel: those of the selected layers, and what belongs to no layer.

    head: that among them. matrix: of LoRA's two the one that does, "A" or "B"; "" for both.
    """
    chosen = [entry for entry in layout.entries if entry.layer is None or entry.layer in layers]
    chosen = [entry for entry in chosen if not matrix or matrix_of(entry.name) in ("", matrix)]
    return [entry.name for entry in chosen if head or not entry.name.startswith(HEAD)]

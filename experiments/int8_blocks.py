"""How large a block of int8 numbers should be that share a scale, and what a power of two as scale costs: on what really travels.

    python -m experiments.int8_blocks                                  the embedded data
    python -m experiments.int8_blocks --dataset /absolute/sst2.jsonl   a file of yours

Some rounds of the default method in float32; of the last, x, c and each client's Delta_i are rounded, by lot, with blocks of
different sizes, and with two kinds of scale: 2^k in one byte, and max |v| / 127 in four. Error: norm of what is lost to norm of
what there was. Squeezed: what the Huffman code of what travels makes of the bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client_app.app import app
from experiments.machine import RESULTS, facts, write
from experiments.published import PUBLISHED
from federation import records, resources
from federation.codec import BLOCK, Int8Codec
from federation.grids import InProcessGrid, exchanges
from federation.settings import defaults, parse
from federation.squeezing import squeeze
from models.layout import Layout
from server_app import roll_call
from server_app.assembly import Assembly

MODULE = "experiments.int8_blocks"
SIZES = (16, 32, 64, 128, 256, 1024, 7680)
Row = dict[str, Any]


def main() -> None:
    """Measures, prints a table, writes results/int8-blocks/<name>.json."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    name = Path(arguments.dataset).name.split(".")[0]
    layout, rows = travelled(arguments)
    figures = [_figures(layout, what, rows[what], size) for what in rows for size in SIZES]
    print(_table(figures))
    made = {**facts(MODULE), "dataset": name, "rounds": arguments.rounds, "default_block": BLOCK, "figures": figures}
    made["command"] = made["command"].replace(str(Path(arguments.dataset).parent) + "/", "")
    write(arguments.results / f"{name}.json", made)


def travelled(arguments: argparse.Namespace) -> tuple[Layout, dict[str, list[Tensor]]]:
    """The layout, and x, c and all Delta_i of the last round, as rows [R]."""
    given = {**PUBLISHED, "dataset": arguments.dataset, "train-examples": arguments.train_examples, "test-every": 0}
    settings = parse({**defaults(), **given})
    with tempfile.TemporaryDirectory() as folder:
        grid = InProcessGrid(app, {**settings.flat(), "runs-dir": folder}, settings.federation.clients)
        found = roll_call.call(grid, settings, "study")
        labels, scores = roll_call.agree_labels(settings, found), roll_call.layer_scores(settings, found)
        layers = roll_call.select_layers(settings, scores, 0.5, resources.backbone(settings).num_layers)
        strategy = Assembly(settings, found, labels, Path(folder) / "study").strategy(layers)
        for server_round in range(1, arguments.rounds + 1):
            x, c = strategy.state.x, strategy.algorithm.downlink(strategy.state)
            answers = list(exchanges(grid, strategy.train_messages(server_round), 600))
            print(f"  round {server_round}: training loss {strategy.close_round(server_round, answers).train_loss:.3f}")
    replies = [r for a in answers for r in records.decode_train_replies(a.reply.content, strategy.channels)]
    assert c is not None
    return strategy.layout, {"x": [x], "c": [c], "Delta_i": [r.delta for r in replies if r.delta is not None]}


def _figures(layout: Layout, what: str, rows: list[Tensor], size: int) -> Row:
    """Mean over rows; bytes of all arrays of one."""
    codec, rng = Int8Codec(size), np.random.default_rng(0)
    lost, lost_float, encoded, squeezed = [], [], 0, 0
    for row in rows:
        parts = [part.to(torch.float32) for part in layout.unflatten(row).values()]
        lost.append(_error(parts, [codec.rounded(part, rng) for part in parts]))
        lost_float.append(_error(parts, [_float_scaled(part, size, rng) for part in parts]))
        arrays = [codec.encode(codec.rounded(part, rng)) for part in parts]
        encoded += sum(array.nbytes for array in arrays)
        squeezed += sum(squeeze(array).nbytes for array in arrays)
    scales = sum(-(-entry.size // size) for entry in layout.entries)
    return {
        "what": what,
        "block": size,
        "rows": len(rows),
        "numbers": layout.size,
        "bytes": encoded / len(rows),
        "bytes_with_float32_scales": layout.size + 4 * scales,
        "error": float(np.mean(lost)),
        "error_with_float32_scales": float(np.mean(lost_float)),
        "squeezed_bytes": squeezed / len(rows),
    }


def _float_scaled(values: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """The other kind of scale: max |v| / 127 of each block."""
    rounded = []
    for block in values.reshape(-1).split(size):
        scale = float(block.abs().max()) / 127 or 1.0
        units = block.numpy() / scale
        low = np.floor(units)
        rounded.append(torch.from_numpy(low + (rng.random(len(units)) < units - low)) * scale)
    return torch.cat(rounded).reshape(values.shape)


def _error(exact: list[Tensor], seen: list[Tensor]) -> float:
    a, b = (torch.cat([part.reshape(-1).double() for part in parts]) for parts in (exact, seen))
    return float((a - b).norm() / a.norm())


def _table(figures: list[Mapping[str, Any]]) -> str:
    lines = ["what     block    bytes  error    float32 scales: bytes  error    squeezed"]
    lines += [
        f"{f['what']:<8} {f['block']:5}  {f['bytes']:7.0f}  {f['error']:.4f}  {f['bytes_with_float32_scales']:21.0f}  "
        f"{f['error_with_float32_scales']:.4f}  {f['squeezed_bytes']:8.0f}"
        for f in figures
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--dataset", default="stdlib-docs", help="stdlib-docs, or an absolute path to a .jsonl file")
    parser.add_argument("--train-examples", type=int, default=0, help="at most so many (default: all)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS / "int8-blocks")
    return parser


if __name__ == "__main__":
    main()

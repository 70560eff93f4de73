"""How far the two estimates of the ratio can be trusted: on matrices whose answer is known, and on a model's prompts.

    python -m experiments.ratio_spread                                  the embedded data
    python -m experiments.ratio_spread --dataset /absolute/sst2.jsonl   a file of yours

Matrices: 3,000 of 4,000 eigenvalues in [.1, 1], the others in [9, 10], so that the ratio is .25; by Lanczos steps, probes and
seeds. Prompts: plain averaging of all layers; at its start, after 10 rounds and after 20, some clients' Hessians, each with
several probes. `plateau` is also given each spectrum times 10, 100, .., and one that is all zero: what it says of that is its
kernel's.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from client_app.app import app
from client_app.curvature import along_steps
from client_app.host import shard_of
from client_app.local_update import Adam
from experiments.machine import IMAGES, RESULTS, facts, resident_mb, write
from experiments.published import PUBLISHED
from federation import resources
from federation.evaluation import losses_on
from federation.grids import InProcessGrid, exchanges
from federation.randomness import generator
from federation.settings import Settings, defaults, parse
from models.curvature import Hessian, prompt_loss, second_order
from server_app import roll_call
from server_app.assembly import Assembly
from strategies.ratio import eigengap, plateau
from strategies.spectrum import Spectrum, stochastic_lanczos

MODULE = "experiments.ratio_spread"
STAGES = (0, 10, 20)
SCALES = (1, 10, 100, 1000, 10_000)
SIZE, SHARE = 4000, 0.25
Row = dict[str, Any]


def main() -> None:
    """Measures, prints tables, writes results/ratio/<name>.json and docs/images/ratio_spread-<name>.png."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    name = Path(arguments.dataset).name.split(".")[0]
    figures: Row = {"dataset": name, "zero_spectrum_plateau": plateau(np.zeros(50), np.full(50, 1 / 50))}
    figures["matrices"] = matrices(arguments.seeds)
    figures["prompts"] = prompts(arguments)
    print(_tables(figures))
    made = {**facts(MODULE), "peak_mb": resident_mb(peak=True), **figures}
    made["command"] = made["command"].replace(str(Path(arguments.dataset).parent) + "/", "")
    write(arguments.results / f"{name}.json", made)
    figure = draw(figures)
    arguments.images.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.images / f"ratio_spread-{name}.png", dpi=150)


# -- matrices whose answer is known ----------------------------------------------------------------------


def matrices(seeds: int) -> list[Row]:
    """A line per number of steps and probes: mean and standard deviation of r over seeds, and how often no gap was found."""
    rng = generator(0, "matrix")
    theta = np.concatenate([rng.uniform(0.1, 1, SIZE - round(SHARE * SIZE)), rng.uniform(9, 10, round(SHARE * SIZE))])
    values, u = torch.from_numpy(theta), torch.from_numpy(rng.normal(size=SIZE))
    u = u / u.norm()

    def product(v: Tensor) -> Tensor:
        """A reflection of diag(theta), so that no eigenvector lies on an axis."""
        w = values * (v - 2 * u * (u @ v))
        return w - 2 * u * (u @ w)

    lines = []
    for steps, probes in itertools.product((10, 20, 30, 50), (1, 2, 4, 8)):
        found = [
            eigengap(stochastic_lanczos(product, SIZE, steps, probes, generator(s, "probe", steps), torch.float64), 0.0)
            for s in range(seeds)
        ]
        ratios = [estimate.ratio for estimate in found if estimate.found]
        lines.append(
            {
                "steps": steps,
                "probes": probes,
                "seeds": seeds,
                "found": len(ratios),
                "mean": float(np.mean(ratios)) if ratios else None,
                "std": float(np.std(ratios)) if ratios else None,
                "bound": 3 * float(np.sqrt(2 * SHARE * (1 - SHARE) / (SIZE * probes))),
            }
        )
    return lines


# -- a model's prompts -----------------------------------------------------------------------------------


def prompts(arguments: argparse.Namespace) -> list[Row]:
    """A line per stage, client, batch size and probe."""
    settings = parse(
        {
            **defaults(),
            **PUBLISHED,
            "dataset": arguments.dataset,
            "clients": 10,
            "clients-per-round": 10,
            "rounds": max(STAGES),
            "train-examples": arguments.train_examples,
            "test-examples": 100,
        }
    )
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for stage, x, labels in _stages(settings, Path(folder)):
            for client, n in itertools.product(range(arguments.clients), (8, 16)):
                if n > 8 and client:  # one larger batch is enough to see what it changes
                    continue
                lines += _spectra(settings, x, labels, stage, client, n, arguments.probes if n == 8 else 1)
                print(
                    f"  after {stage} rounds, client {client}, {n} examples: {lines[-1]['seconds']:.1f} s a probe",
                    flush=True,
                )
    return lines


def _stages(settings: Settings, folder: Path) -> Any:
    """(rounds behind it, the shared row, labels) at each stage of plain averaging."""
    grid = InProcessGrid(app, {**settings.flat(), "runs-dir": str(folder)}, settings.federation.clients)
    found = roll_call.call(grid, settings, "study")
    labels = roll_call.agree_labels(settings, found)
    strategy = Assembly(settings, found, labels, folder / "study").warm_up(resources.backbone(settings).num_layers)
    for stage in STAGES:
        for server_round in range(strategy.state.round + 1, stage + 1):
            outcome = strategy.close_round(server_round, exchanges(grid, strategy.train_messages(server_round), 600))
            print(f"  round {server_round} of {max(STAGES)}: training loss {outcome.train_loss:.3f}", flush=True)
        yield stage, strategy.state.x.to(torch.float32), labels


def _spectra(
    settings: Settings, row: Tensor, labels: tuple[str, ...], stage: int, client: int, n: int, probes: int
) -> list[Row]:
    model = resources.tuned(settings, tuple(range(resources.backbone(settings).num_layers)), labels)
    train, _ = shard_of(settings, client)
    batch = generator(0, "curvature", client).permutation(len(train))[:n].tolist()
    losses = losses_on(model, train, labels)
    lines = []
    with second_order():
        loss, x = prompt_loss(lambda rows: losses(rows, batch), model.layout, row)
        hessian = Hessian(loss, x)
        local = settings.local
        lip = along_steps(Adam(local.learning_rate, local.weight_decay, local.clip_norm), hessian, loss, x)
        for probe, steps in [(probe, 50) for probe in range(probes)] + [(0, 25)]:
            started = time.perf_counter()
            found = stochastic_lanczos(hessian.times, len(x), steps, 1, generator(probe, "probe", client))
            seconds = time.perf_counter() - started
            lines.append(
                {
                    "rounds": stage,
                    "client": client,
                    "examples": n,
                    "longest_text": max(len(train.input_ids[i]) for i in batch),
                    "probe": probe,
                    "steps": steps,
                    "lipschitz": lip,
                    "seconds": seconds,
                    **_estimates(found, lip),
                }
            )
    model.unbind()
    return lines


def _estimates(found: Spectrum, lip: float) -> Row:
    gap, without = eigengap(found, lip), eigengap(found, 0.0)
    return {
        "eigengap": gap.ratio,
        "eigengap_found": gap.found,
        "eigengap_at_lipschitz_0": without.ratio,
        "widest_gap": max((b - a for a, b in without.gaps), default=None),
        "plateau": plateau(found.theta, found.weight),
        "plateau_scaled": {str(scale): plateau(scale * found.theta, found.weight) for scale in SCALES},
        "theta_min": float(found.theta.min()),
        "theta_max": float(found.theta.max()),
        "theta": found.theta.tolist(),
        "weight": found.weight.tolist(),
        "residual": found.residual.tolist(),
    }


# -- what it says ----------------------------------------------------------------------------------------


def _tables(figures: Row) -> str:
    lines = [
        f"Matrices, {SIZE} eigenvalues, a share of {SHARE} above the gap: r over seeds",
        "  steps  probes  found  mean    std",
    ]
    for one in figures["matrices"]:
        mean = "   -       -" if one["mean"] is None else f"{one['mean']:.4f}  {one['std']:.4f}"
        lines.append(f"  {one['steps']:5}  {one['probes']:6}  {one['found']:2}/{one['seeds']}  {mean}")
    lines.append(
        f"Prompts on {figures['dataset']}; plateau of an all-zero spectrum: {figures['zero_spectrum_plateau']:.4f}"
    )
    lines.append("  rounds  client  n   probe  steps  theta max  Lipschitz  widest gap  eigengap  plateau  x 1000")
    for one in figures["prompts"]:
        gap = "none" if one["widest_gap"] is None else f"{one['widest_gap']:.2e}"
        lines.append(
            f"  {one['rounds']:6}  {one['client']:6}  {one['examples']:2}  {one['probe']:5}  {one['steps']:5}"
            f"  {one['theta_max']:9.2e}  {one['lipschitz']:9.2e}  {gap:>10}  {one['eigengap']:8.3f}  {one['plateau']:7.4f}"
            f"  {one['plateau_scaled']['1000']:6.4f}"
        )
    return "\n".join(lines)


_COLOURS = ("#0072B2", "#009E73", "#D55E00")


def draw(figures: Row) -> Figure:
    """Three panels: matrices, largest eigenvalue against Lipschitz and gap, plateau by scale."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    _draw_matrices(first, figures)
    _draw_gaps(second, figures)
    _draw_plateau(third, figures)
    for axes in (first, second, third):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E6E6E6", linewidth=0.8)
    return figure


def _draw_matrices(axes: Axes, figures: Row) -> None:
    for steps, colour in zip((20, 30, 50), _COLOURS, strict=True):
        lines = [one for one in figures["matrices"] if one["steps"] == steps and one["mean"] is not None]
        axes.errorbar(
            [one["probes"] * (1 + (steps - 30) / 300) for one in lines],
            [one["mean"] for one in lines],
            yerr=[one["std"] for one in lines],
            color=colour,
            marker="o",
            linestyle="none",
            capsize=3,
            label=f"{steps} Lanczos steps",
        )
    axes.axhline(SHARE, color="#444444", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_title("eigengap on matrices whose ratio is 0.25", loc="left", fontsize=11)
    axes.set_xlabel("Probes")
    axes.set_ylabel("Ratio (mean and standard deviation over seeds)")
    axes.legend(frameon=False, fontsize=9)


def _draw_gaps(axes: Axes, figures: Row) -> None:
    rows = [one for one in figures["prompts"] if one["examples"] == 8 and one["steps"] == 50]
    for offset, (key, label, marker) in enumerate(
        (
            ("theta_max", "largest eigenvalue", "o"),
            ("needed", "gap that is asked for", "s"),
            ("widest_gap", "widest gap there is", "v"),
        )
    ):
        values = [
            (one["rounds"], max(4 * one["lipschitz"], 0.05 * one["theta_max"]) if key == "needed" else one[key])
            for one in rows
        ]
        kept = [(STAGES.index(stage) + 0.12 * (offset - 1), value) for stage, value in values if value]
        axes.plot(*zip(*kept, strict=True), marker, color=_COLOURS[offset], alpha=0.7, label=label) if kept else None
    axes.set_yscale("log")
    axes.set_xticks(range(len(STAGES)), [str(stage) for stage in STAGES])
    axes.set_title(f"eigengap on prompts ({figures['dataset']})", loc="left", fontsize=11)
    axes.set_xlabel("Rounds of averaging behind the prompts")
    axes.set_ylabel("Curvature (clients and probes)")
    axes.legend(frameon=False, fontsize=9)


def _draw_plateau(axes: Axes, figures: Row) -> None:
    rows = [one for one in figures["prompts"] if one["examples"] == 8 and one["steps"] == 50]
    for stage, colour, marker in zip(STAGES, _COLOURS, "osv", strict=True):
        here = [one for one in rows if one["rounds"] == stage]
        for one in here:
            axes.plot(
                SCALES,
                [one["plateau_scaled"][str(scale)] for scale in SCALES],
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=0.8,
                alpha=0.6,
                label=f"after {stage} rounds" if one is here[0] else None,
            )
    axes.axhline(figures["zero_spectrum_plateau"], color="#444444", linewidth=1, label="a spectrum of zeros")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_title("plateau of the same spectra, scaled up", loc="left", fontsize=11)
    axes.set_xlabel("Factor")
    axes.set_ylabel("Ratio")
    axes.legend(frameon=False, fontsize=9)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--dataset", default="stdlib-docs", help="stdlib-docs, or an absolute path to a .jsonl file")
    parser.add_argument("--train-examples", type=int, default=600)
    parser.add_argument("--clients", type=int, default=2, help="whose Hessians are looked at, of 10")
    parser.add_argument("--probes", type=int, default=2, help="of each")
    parser.add_argument("--seeds", type=int, default=20, help="of the matrices")
    parser.add_argument("--results", type=Path, default=RESULTS / "ratio")
    parser.add_argument("--images", type=Path, default=IMAGES)
    return parser


if __name__ == "__main__":
    main()

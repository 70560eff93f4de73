"""The command `fedpeptao`. A subcommand is a function that adds its parser, which names the function that works."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeptao import __version__, results, run_config, states
from fedpeptao.comparison.command import add_compare
from fedpeptao.deployment import commands as deployment
from fedpeptao.deployment.federation_command import add_federation
from fedpeptao.errors import InputError, within_reach

if TYPE_CHECKING:
    from federation.settings import Settings

Subparsers = Any  # argparse keeps its type private
_MOST_NODES = 100  # beyond it a simulation spends its time looking nodes over; a node hosts many clients


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status: its own, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    work: Callable[[argparse.Namespace], int] = arguments.work
    try:
        return work(arguments)
    except InputError as error:
        print(f"fedpeptao: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `fedpeptao ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments by which a subcommand is told settings; read them with settings_of."""
    parser.add_argument(
        "app_dir", nargs="?", metavar="APP_DIR", help="the application (default: this folder, else the checkout)"
    )
    parser.add_argument(
        "--run-config",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="""settings to change: 'rounds=50 partition="iid"', or a TOML file; may be given again, the last wins""",
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The checked settings that the arguments ask for."""
    return run_config.check(run_config.app_folder(arguments.app_dir), run_config.overrides(arguments.run_config))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpeptao",
        description="Federated tuning of frozen language models: FedPepTAO for prompts, FibecFed for LoRA.",
    )
    parser.add_argument("--version", action="version", version=f"fedpeptao {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    own = (_add_run, _add_check, _add_ceiling, add_compare)
    for add in (
        *own,
        results.add_predict,
        results.add_evaluate,
        results.add_export,
        results.add_report,
        states.add_states,
        deployment.add_keys,
        deployment.add_start,
        add_federation,
    ):
        add(subparsers)
    return parser


def _add_run(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "run", help="run a local simulation", description="Runs a simulation on this machine."
    )
    add_settings_arguments(parser)
    parser.add_argument(
        "--nodes", type=int, metavar="N", help=f"simulated nodes (default: the clients, at most {_MOST_NODES})"
    )
    parser.add_argument(
        "--cpus-per-client", type=int, default=1, metavar="N", help="cores a training client holds (default: 1)"
    )
    parser.add_argument(
        "--gpus-per-client",
        type=float,
        default=0.0,
        metavar="X",
        help="share of a GPU a training client holds; at 0 clients see no GPU (default: 0)",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Flower and Ray say, too")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a run that died: its folder, or its name in the default place"
    )
    parser.set_defaults(work=_run)


def _run(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job starts with SIGINT ignored
    folder = run_config.app_folder(arguments.app_dir)
    overrides = run_config.overrides(arguments.run_config)
    if arguments.resume:
        overrides = _resumed(arguments.resume, overrides)
    settings = run_config.check(folder, overrides)
    if settings.run.resume:
        from server_app.run_folder import check_simulated

        with within_reach("resume", settings.run.resume):
            check_simulated(Path(settings.run.resume))
    if settings.federation.own_data:
        problem = "the nodes of a simulation have no data of their own"
        raise InputError("partition", settings.federation.partition, problem, "Run it on real machines with flwr run")
    nodes = min(settings.federation.clients, _MOST_NODES) if arguments.nodes is None else arguments.nodes
    _check_resources(nodes, arguments.cpus_per_client, arguments.gpus_per_client)
    from fedpeptao import launch

    return launch.run(
        launch.Simulation(
            app_dir=folder,
            overrides=overrides,
            settings=settings,
            nodes=nodes,
            cpus_per_client=arguments.cpus_per_client,
            gpus_per_client=arguments.gpus_per_client,
            verbose=arguments.verbose,
        )
    )


def _resumed(given: str, overrides: Mapping[str, run_config.Scalar]) -> dict[str, run_config.Scalar]:
    """A run's own settings, under those that are given now."""
    from fedpeptao.saved import find_run

    path = find_run(given)
    own = run_config.overrides([str(path / "resume.toml")])
    return {**own, **overrides, "resume": str(path), "runs-dir": str(path.parent)}


def _check_resources(nodes: int, cpus: int, gpus: float) -> None:
    cores = os.cpu_count() or 1
    if nodes < 1:
        raise InputError("--nodes", nodes, "a simulation has at least one node", "Leave it out, or give 1 or more")
    if not 1 <= cpus <= cores:
        raise InputError("--cpus-per-client", cpus, f"this machine has {cores} cores", f"Give 1 to {cores}")
    if not 0 <= gpus < float("inf"):
        raise InputError(
            "--gpus-per-client", gpus, "this is no share of a GPU", "Give 0, a fraction such as 0.25, or a whole number"
        )


def _add_check(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="check settings and show them all",
        description="Checks settings as a run would, and shows them all.",
    )
    add_settings_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(work=_check)


def _check(arguments: argparse.Namespace) -> int:
    from federation.remarks import remarks

    settings = settings_of(arguments)
    effective = settings.flat()
    changed = run_config.overrides(arguments.run_config)
    if arguments.json:
        print(json.dumps(effective, indent=2))
        return 0
    width = max(map(len, effective))
    for key, value in effective.items():
        print(f"{key:{width}}  {json.dumps(value, ensure_ascii=False)}{'  (changed)' if key in changed else ''}")
    for remark in remarks(settings):
        print(f"Remark: {remark}")
    return 0


def _add_ceiling(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "ceiling",
        help="train centrally, for comparison",
        description="Trains in one place, with as many optimiser steps as a federated run of these settings takes in all.",
    )
    add_settings_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(work=_ceiling)


def _ceiling(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    from fedpeptao import ceiling

    figures = ceiling.train_centrally(settings, quiet=arguments.json)
    print(json.dumps(figures, indent=2) if arguments.json else ceiling.as_table(figures))
    return 0

"""The subcommands for what a run left: predict, evaluate, export, report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeptao import run_config
from fedpeptao.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from data.batches import Encoded
    from fedpeptao.loaded import LoadedModel
    from fedpeptao.texts import Texts

Subparsers = Any  # argparse keeps its type private
_SHOWN_CLASSES = 3
_SHOWN_TEXT = 60


def add_predict(subparsers: Subparsers) -> None:
    """`fedpeptao predict`."""
    parser = subparsers.add_parser(
        "predict",
        help="labels and probabilities for texts",
        description="Labels texts with the model of a run, or with a client's personalised one.",
    )
    _add_model_arguments(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", action="append", metavar="TEXT", help="a text; may be given again")
    given.add_argument(
        "--file", metavar="FILE", help=".jsonl, .csv, .tsv, or one text a line (a tab before a second text); - is stdin"
    )
    parser.add_argument(
        "--pair", action="append", metavar="TEXT", help="the second text of each --text, in their order"
    )
    parser.add_argument("--format", choices=("table", "jsonl"), default="table", help="default: table")
    parser.set_defaults(work=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from fedpeptao.texts import Texts, read_texts

    if arguments.text and arguments.pair and len(arguments.text) != len(arguments.pair):
        problem = f"there are {len(arguments.pair)} of them, and {len(arguments.text)} texts"
        raise InputError("--pair", arguments.pair[-1], problem, "Give each --text one --pair")
    if arguments.file and arguments.pair:
        raise InputError("--pair", arguments.pair[0], "it belongs to a --text", "Put second texts into the file")
    model = _open(arguments)
    columns = model.saved.settings.data
    given = (
        Texts(arguments.text, arguments.pair)
        if arguments.text
        else read_texts(arguments.file, columns.text_column, columns.text_pair_column)
    )
    encoded = model.encode(given.texts, given.pairs)
    _say([*model.remarks, *_cut(model, encoded)])
    probabilities = model.scores(encoded).softmax(dim=1)
    lines = _json_lines if arguments.format == "jsonl" else _table
    for line in lines(given, model.labels, probabilities):
        print(line)
    return 0


def _json_lines(given: Texts, labels: Sequence[str], probabilities: Tensor) -> Iterator[str]:
    for row, shares in enumerate(probabilities.tolist()):
        pair = {} if given.pairs is None else {"text_pair": given.pairs[row]}
        label = labels[max(range(len(labels)), key=shares.__getitem__)]
        found = {
            "text": given.texts[row],
            **pair,
            "label": label,
            "probabilities": dict(zip(labels, shares, strict=True)),
        }
        yield json.dumps(found, ensure_ascii=False)


def _table(given: Texts, labels: Sequence[str], probabilities: Tensor) -> Iterator[str]:
    """The likeliest classes of each text, best first, then its beginning."""
    width = max(map(len, labels))
    shown = min(len(labels), _SHOWN_CLASSES)
    title = [f"{'label':<{width}}  prob.", *[f"{'then':<{width}}  prob."] * (shown - 1), "text"]
    yield "  ".join(title)
    for row, shares in enumerate(probabilities.tolist()):
        best = sorted(range(len(labels)), key=lambda place: -shares[place])[:shown]
        text = given.texts[row] if given.pairs is None else f"{given.texts[row]} | {given.pairs[row]}"
        text = " ".join(text.split())
        clipped = text if len(text) <= _SHOWN_TEXT else text[: _SHOWN_TEXT - 3].rstrip() + "..."
        yield "  ".join([*(f"{labels[place]:<{width}}  {shares[place]:.3f}" for place in best), clipped])


def add_evaluate(subparsers: Subparsers) -> None:
    """`fedpeptao evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="figures on labelled examples, by class",
        description="Evaluates the shared model of a run on the common test set, or on a file; with --client a client's "
        "personalised model, on its own evaluation examples.",
    )
    _add_model_arguments(parser)
    parser.add_argument("--data", metavar="FILE", help="labelled examples, in the form of the run's own")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(work=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from federation import resources
    from fedpeptao.assessment import as_table, assess

    model = _open(arguments)
    encoded, what = _from_file(model, arguments.data) if arguments.data else _own_examples(model)
    _say([*model.remarks, *_cut(model, encoded)])
    scores = model.scores(encoded)
    metric, loss = resources.metric(model.saved.settings), model.loss(scores, encoded.labels)
    figures = assess(scores, encoded.labels, model.labels, loss, metric)
    whose = "shared model" if model.client is None else f"personalised model of client {model.client}"
    if arguments.json:
        print(json.dumps({"run": model.saved.name, "client": model.client, "data": what, **figures}, indent=2))
    else:
        print(f"{whose.capitalize()} of {model.saved.name}, on {what}\n{as_table(figures)}")
    return 0


def _from_file(model: LoadedModel, given: str) -> tuple[Encoded, str]:
    from data.readers import Columns
    from data.tables import read_file
    from data.tasks import load_task

    data = model.saved.settings.data
    columns = Columns(data.text_column, data.text_pair_column, data.label_column)
    path = str(Path(given).expanduser().resolve())
    rows = read_file(path, columns, "--data")
    task = load_task(data.task)
    labels = list(rows["label"]) if task is None else task.named(rows["label"], "--data", path)
    if unknown := sorted(set(labels) - set(model.labels)):
        problem = f"it has labels that the model does not know: {', '.join(unknown[:5])}"
        raise InputError("--data", path, problem, f"The model's labels are {', '.join(model.labels)}")
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    return model.encode(list(rows["text"]), pairs, labels), path


def _own_examples(model: LoadedModel) -> tuple[Encoded, str]:
    """The common test set; a client's evaluation examples."""
    from federation import resources

    settings = model.saved.settings
    if settings.federation.own_data and model.client is not None:
        raise InputError("--client", model.client, "its examples are its node's own", "Give --data, on that node")
    known = (model.saved.facts.get("data") or {}).get("sha256")
    if known not in (None, resources.splits(settings).sha256):
        _say([f"{settings.data.dataset} is not what it was in the run: figures may differ from the run's"])
    data = resources.tokenised(settings)
    if model.client is not None:
        rows = resources.shards(settings).validation[model.client]
        return data.validation.select(rows), f"its own evaluation examples ({settings.data.dataset})"
    if data.test is None:
        raise InputError("test", settings.data.test, "the run has no common test set", "Give --data, or --client")
    return data.test, f"the common test set ({settings.data.dataset})"


def add_export(subparsers: Subparsers) -> None:
    """`fedpeptao export`."""
    parser = subparsers.add_parser(
        "export",
        help="a model as a folder of its own, a client's too",
        description="Writes the shared model of a run, or a client's personalised one (with what stayed there), "
        "as a folder for `fedpeptao predict`, with a PEFT adapter in it. Nothing is sent anywhere.",
    )
    _add_model_arguments(parser)
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a new folder")
    parser.set_defaults(work=_export)


def _export(arguments: argparse.Namespace) -> int:
    model = _open(arguments)
    _say(model.remarks)
    note = model.save(arguments.to.expanduser())
    _say([note] if note else [])
    print(arguments.to)
    return 0


def add_report(subparsers: Subparsers) -> None:
    """`fedpeptao report`."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML page of a run",
        description="Draws a run's folder as one page that needs no network. A run that ended has it as report.html.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or its name in the default place")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the run's folder")
    parser.set_defaults(work=_report)


def _report(arguments: argparse.Namespace) -> int:
    from fedpeptao.saved import find_run
    from server_app.report.page import write_report

    folder = find_run(arguments.run)
    try:
        print(write_report(folder, arguments.output))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError("--output", str(arguments.output), reason, "Name a file that you can write") from error
    except ValueError as error:
        raise InputError("RUN", str(folder), f"it is damaged ({error})", "Give another copy of the run") from error
    return 0


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="the folder of a run or an export, or a run's name in the default place"
    )
    parser.add_argument("--client", type=int, metavar="N", help="this client's own model")
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        help="where a node keeps its clients' states, the folder clients in its --state, if not in the run's folder "
        "(needs --client)",
    )
    parser.add_argument(
        "--run-config",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="""settings that go before the run's own, such as 'device="cpu"'""",
    )


def _open(arguments: argparse.Namespace) -> LoadedModel:
    if arguments.state_dir is not None and arguments.client is None:
        raise InputError("--state-dir", str(arguments.state_dir), "it holds clients' states", "Give --client too")
    changed = run_config.overrides(arguments.run_config)
    from federation import resources
    from fedpeptao.loaded import open_model

    model = open_model(arguments.run, client=arguments.client, state_dir=arguments.state_dir, overriding=changed)
    resources.set_threads(model.saved.settings)
    return model


def _cut(model: LoadedModel, encoded: Encoded) -> list[str]:
    length = model.saved.settings.data.max_length
    return [f"texts cut to {length} tokens (max-length): {encoded.cut}"] if encoded.cut else []


def _say(remarks: Iterable[str]) -> None:
    """On stderr: stdout is for what was asked."""
    for remark in remarks:
        print(f"Remark: {remark}", file=sys.stderr)

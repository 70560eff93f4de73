"""What the page says in words and tables: what ran, the final figures, the settings, and the machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from federation.metrics import ACCURACY, NAMES, figure_key
from federation.settings import defaults
from server_app.console import bytes_text, duration
from server_app.report.facts import Run, number, short
from server_app.report.markup import Child, Element, folded, table, tag
from server_app.report.sections import section

_OF_PLACE = ("runs-dir", "run-name")


def header(run: Run) -> Element:
    """What ran, and how it ended."""
    status = str(run.summary.get("status", "unknown"))
    last = max((line["round"] for line in run.history), default=0)
    ended = status if status == "completed" else f"{status} after round {last}"
    return tag(
        "header",
        tag(
            "p",
            "fedpeptao run ",
            tag("b", run.name),
            " ",
            tag("span", ended, class_=f"status {status}"),
            class_="eyebrow",
        ),
        tag("h1", title(run)),
        tag("p", _what_ran(run), class_="lead"),
        tag("dl", _tiles(run), class_="tiles"),
        *_floor(run),
    )


def title(run: Run) -> str:
    """Data and model."""
    data, model = (short(run.settings.get(key, f"unknown {key}")) for key in ("dataset", "model"))
    return f"{data} with {model}"


def _what_ran(run: Run) -> str:
    if not run.settings:
        return "The folder has no settings."
    s, summary = {**defaults(), **run.settings}, run.summary
    skew = "the same labels for all" if s["partition"] == "iid" else f"labels skewed by Dirichlet({s['alpha']})"
    epochs, tokens = _plural(s["local-epochs"], "local epoch"), _plural(s["prompt-tokens"], "token")
    text = f"{s['clients']} clients, {s['clients-per-round']} a round, {s['rounds']} rounds of {epochs}; {skew}; "
    text += f"seed {s['seed']}. " + (f"Prompts of {tokens}" if s["tuned"] == "deep-prompts" else f"Tuned: {s['tuned']}")
    layers, of = summary.get("layers"), len(summary.get("layer_scores") or [])
    if layers:
        named = f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, layers))}"
        text += f"; {named}{f' of {of}' if of else ''} travel{'s' if len(layers) == 1 else ''}"
    if started := run.facts.get("started"):
        text += f". Started {str(started)[:16].replace('T', ' ')} UTC"
    if (seconds := summary.get("seconds")) is not None:
        text += f", took {duration(seconds)}"
    return text + "."


def _tiles(run: Run) -> Iterable[Element]:
    final, traffic = run.final, run.summary.get("bytes") or {}
    examples = sum(counts["examples"] for counts in (final.get("per_client") or {}).values())
    at = final.get("global_round")
    yield _score(run, "personalised", "all clients, own models", examples)
    yield _score(run, "shared", "the same examples, shared model", examples)
    where = "common test set" if at is None else f"common test set, after round\N{NO-BREAK SPACE}{at}"
    yield _score(run, "global", where, 0)
    down, up = traffic.get("down"), traffic.get("up")
    both = bytes_text(None if down is None or up is None else down + up)
    yield _box("Training traffic", both, f"{bytes_text(down)} down, {bytes_text(up)} up")
    parameters = run.summary.get("parameters_per_message")
    yield _box("Numbers per message", "-" if parameters is None else f"{parameters:,}", "of one client's update")


def _floor(run: Run) -> Iterable[Element]:
    """What needs no model at all: under label skew an accuracy says little without it."""
    if (accuracy := (run.summary.get("floor") or {}).get("commonest_label_accuracy")) is not None:
        text = f"Floor: accuracy {number(accuracy)} if each client always answers its commonest training label."
        yield tag("p", text, class_="quiet")


def _score(run: Run, whose: str, what: str, examples: int) -> Element:
    """A figure by the run's metric; beside another one the accuracy, which alone has a standard error by its examples."""
    accuracy, name = run.final.get(figure_key(whose, ACCURACY)), f"{whose.capitalize()} {NAMES[run.metric]}"
    if run.metric != ACCURACY:
        of = f" of {examples} examples" if examples else ""
        return _box(
            name, number(run.final.get(figure_key(whose, run.metric))), f"{what}; accuracy {number(accuracy)}{of}"
        )
    if accuracy is None or not examples:
        return _box(name, number(accuracy), what)
    error = math.sqrt(accuracy * (1 - accuracy) / examples)
    return _box(name, number(accuracy), f"{what}: {examples} examples, ±\N{NO-BREAK SPACE}{error:.3f}")


def _box(name: str, value: str, what: str) -> Element:
    return tag("div", tag("dt", name), tag("dd", value, class_="value"), tag("dd", what, class_="what"))


def settings_section(run: Run) -> Element:
    """Those that are not the defaults first."""
    usual = defaults()
    shown = {key: value for key, value in run.settings.items() if key not in _OF_PLACE}
    changed = [key for key, value in shown.items() if key not in usual or usual[key] != value]
    below: list[Child] = []
    if changed:
        rows = [(key, _value(shown[key]), _value(usual.get(key))) for key in changed]
        below.append(table(("setting", "value", "default"), rows, "Settings that are not the defaults", numbers=False))
    elif shown:
        below.append(tag("p", "All settings are at their defaults."))
    rest = [(key, _value(value)) for key, value in shown.items() if key not in changed]
    if rest:
        which = f"The other {len(rest)} settings, at their defaults" if changed else f"All {len(rest)} settings"
        below.append(folded(which, _pairs(rest)))
    return section("settings", "Settings", [], *below)


def machine_section(run: Run) -> Element:
    """What a figure has to be compared under."""
    facts = run.facts
    pairs = [(f"{name} version", version) for name, version in (facts.get("versions") or {}).items()]
    pairs += [
        (key.replace("_", " "), facts[key]) for key in ("platform", "cpu", "cuda", "torch_threads") if facts.get(key)
    ]
    for what in ("data", "model"):
        pairs += [(f"{what}: {key}", _digest(value)) for key, value in (facts.get(what) or {}).items()]
    if labels := run.summary.get("labels"):
        pairs.append(("labels, in the order of the outputs", ", ".join(labels)))
    return section("machine", "Data, model and machine", [], _pairs(pairs) if pairs else None)


def losses_section(run: Run) -> Element | None:
    """Replies that were not used; None where all were."""
    rows: list[tuple[object, ...]] = []
    for line in run.history:
        for key, what in (("failed", "training"), ("evaluation_failed", "evaluation")):
            rows += [(line["round"], client, what, why) for client, why in (line.get(key) or {}).items()]
        for key, what in (("missing", "training"), ("evaluation_missing", "evaluation")):
            rows += [(line["round"], client, what, "no answer by the deadline") for client in line.get(key) or []]
    if not rows:
        return None
    return section(
        "lost",
        "Replies that were not used",
        [],
        table(("round", "client", "of", "why"), rows, "By round", numbers=False),
    )


def _pairs(pairs: Iterable[tuple[str, object]]) -> Element:
    return tag("dl", (tag("div", tag("dt", key), tag("dd", str(value))) for key, value in pairs), class_="pairs")


def _plural(count: object, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _digest(value: object) -> str:
    """The beginning of a hash, which is enough to tell two apart."""
    text = str(value)
    return f"{text[:16]}.." if re.fullmatch("[0-9a-f]{64}", text) else text


def _value(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)

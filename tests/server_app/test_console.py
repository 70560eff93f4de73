from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from fedpeptao.console import recognise
from server_app.console import (
    MARK,
    bytes_text,
    classes_line,
    layers_table,
    ratio_table,
    round_header,
    round_line,
    say,
    settings_table,
    summary_table,
    traffic_table,
    warn,
)

LINE: dict[str, Any] = {
    "round": 3,
    "train_loss": 1.23456,
    "personalised_accuracy": 0.5125,
    "global_accuracy": None,
    "down_bytes": 3_933_000,
    "up_bytes": 999_960,
    "seconds": 9.87,
    "failed": {},
    "missing": [],
}


def test_lines_are_marked_one_by_one_for_the_launcher(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        say("one\n  two")
        warn("three")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.INFO, MARK + "one"),
        (logging.INFO, MARK + "  two"),
        (logging.WARNING, MARK + "three"),
    ]
    said = [recognise(f"INFO :      {r.getMessage()}") for r in caplog.records]
    assert [line.text for line in said if line] == ["one", "  two", "three"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (184_320, "184.3 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (3_933_000, "3.9 MB"),
        (2.5e9, "2.5 GB"),
        (1.5e15, "1,500.0 TB"),
    ],
)
def test_bytes(size: float | None, text: str) -> None:
    assert bytes_text(size) == text


def test_settings_mark_what_changed() -> None:
    defaults = {"model": "tiny", "rounds": 20, "labels": "", "runs-dir": "", "alpha": 0.3}
    settings = {**defaults, "rounds": 3, "runs-dir": "/" + "long/" * 12}
    assert settings_table(settings, defaults) == "\n".join(
        [
            "Settings (* changed)",
            "  model     tiny                                        labels    " + '""',
            "* rounds    3  (default 20)                             alpha     0.3",
            "* runs-dir  /long/long/long/long/long/long/long/long/long/long/long/long/" + '  (default "")',
        ]
    )


def test_settings_at_their_defaults_and_of_odd_number() -> None:
    assert settings_table({"seed": 0}, {"seed": 0}) == "Settings (all at their defaults)\n  seed  0"


def test_traffic_says_what_travels_and_its_share() -> None:
    entries = [
        ("prompts of layers 3, 4, 5", 46_080, 184_320, True),
        ("head", 3_080, 12_320, True),
        ("prompts of layers 0, 1, 2", 46_080, 184_320, False),
    ]
    assert traffic_table(entries) == "\n".join(
        [
            "Traffic per client and round         floats      bytes",
            "  prompts of layers 3, 4, 5          46,080   184.3 kB",
            "  head                                3,080    12.3 kB",
            "  prompts of layers 0, 1, 2          46,080   184.3 kB  does not travel",
            "  in all                             49,160   196.6 kB  51.6% of all layers in float32",
        ]
    )


def test_traffic_may_be_compared_with_something_else() -> None:
    assert traffic_table([("head", 10, 40, True)], all_layers_bytes=160).endswith(
        "40 B  25.0% of all layers in float32"
    )


def test_traffic_of_nothing() -> None:
    assert traffic_table([]).splitlines()[1:] == ["  in all                                  0        0 B"]


def test_layers_as_bars() -> None:
    assert layers_table([10.0, 20.0, 0.0], [1]) == "\n".join(
        [
            "Layer      score",
            "    0     10.000  " + "." * 20,
            "    1     20.000  " + "#" * 40 + "  chosen",
            "    2      0.000  .",
        ]
    )


def test_many_classes_stay_on_one_line() -> None:
    line = classes_line({f"class {i}": i for i in range(50)}, 60)
    assert line.startswith("Classes, and how many of 60 clients have each: class 0 (0), class 1 (1), ")
    assert line.endswith("...")
    assert len(line) < 110


def test_layers_given_by_hand() -> None:
    assert layers_table(None, [3, 4]) == "Layers 3, 4 (no scores: layers given by hand)"


SPECTRUM: dict[str, Any] = {
    "estimator": "eigengap",
    "ratio": 0.42,
    "seconds": 83.2,
    "down_bytes": 3_000_000,
    "up_bytes": 800_000,
    "peak_bytes": 1_340_000_000,
    "clients": [
        {
            "client": 1234,
            "examples": 432,
            "parameters": 23_092_160,
            "ratio": 2.1e-5,
            "gaps_low": [3.51e-3, 0.5],
            "gaps_high": [7e-3, 0.75],
            "lipschitz": 6.63e-4,
            "theta": [0.5, -1.63e-3, 0.7],
            "seconds": 31.44,
        },
        {
            "client": 2,
            "examples": 5,
            "parameters": 92_160,
            "ratio": 1.0,
            "gaps_low": [],
            "gaps_high": [],
            "lipschitz": 0.0,
            "theta": [-2.0, 1.0],
            "seconds": 1800.0,
        },
    ],
}


def test_the_ratio_client_by_client() -> None:
    header, first, second, last = ratio_table(SPECTRUM, 6).splitlines()
    assert header.split()[:5] == ["client", "examples", "parameters", "lambda", "min"]
    assert header.split()[7:] == ["Lipschitz", "gaps", "lowest", "gap", "ratio", "seconds"]
    assert first.split() == [
        *("1234", "432", "23,092,160", "-1.63e-03", "7.00e-01", "6.63e-04"),
        *("2", "3.5e-03", "to", "7.0e-03", "2.1e-05", "31.4"),
    ]
    assert second.split() == ["2", "5", "92,160", "-2.00e+00", "1.00e+00", "0.00e+00", "0", "none", "1.000", "1800.0"]
    assert {len(line) for line in (header, first, second)} == {len(header)}
    assert last == "Ratio 0.42: 3 of 6 layers (1 min 23 s, 3.8 MB, at most 1.3 GB of memory in a client's process)"
    assert all(len(line) < 110 for line in (header, last))


def test_plateau_knows_neither_gaps_nor_lipschitz() -> None:
    one = {**SPECTRUM["clients"][1], "ratio": 0.49090129}
    table = ratio_table({**SPECTRUM, "estimator": "plateau", "clients": [one], "ratio": 0.5000001}, 6)
    assert table.splitlines()[1].split()[5:] == ["-", "-", "-", "0.491", "1800.0"]
    assert table.splitlines()[2].startswith("Ratio 0.5: 3 of 6 layers")


def test_a_round_lines_up_with_the_header() -> None:
    assert round_header() == "    round  train loss  personalised  global      down        up  seconds"
    assert round_line(LINE, 20) == "     3/20      1.2346         0.512       -    3.9 MB    1.0 MB      9.9"
    assert len(round_line(LINE, 20)) == len(round_header())


def test_round_0_has_dashes_for_what_there_is_not_yet() -> None:
    line = {"round": 0, "global_accuracy": 0.125, "train_loss": None}
    assert round_line(line, 20) == "     0/20           -             -   0.125         -         -        -"


def test_failed_and_missing_clients_are_counted_and_named_below() -> None:
    several = {**LINE, "failed": {"17": "RuntimeError:\n boom", "4": "y"}, "missing": [5]}
    assert round_line(several, 20).splitlines()[1:] == [
        "           2 failed: 17 (RuntimeError: boom), 4 (y)",
        "           1 missing: 5",
    ]


def test_notes_stay_below_110_columns_and_count_first() -> None:
    line = {**LINE, "failed": {str(client): "boom" for client in range(100)}}
    note = round_line(line, 20).splitlines()[1]
    assert len(note) == 109
    assert note.startswith("           100 failed: 0 (boom), 1 (boom),")
    assert note.endswith("...")


def test_an_evaluation_over_all_clients_is_shown_and_who_was_missing_in_it() -> None:
    line = {**LINE, "all_personalised_accuracy": 0.6624, "evaluation_missing": [8]}
    first, second = round_line(line, 20).splitlines()
    assert first.endswith("9.9  all clients 0.662")
    assert second.startswith("           1 missing in ")
    assert second.endswith(": 8")


def test_who_joined_came_back_and_left_stands_below() -> None:
    line = {**LINE, "joined": [3, 4], "left": [1], "back": [0], "absent": [1]}
    notes = [note.strip() for note in round_line(line, 20).splitlines()[1:]]
    assert notes[-3:] == ["2 joined: 3, 4", "1 back: 0", "1 left: 1"]


def test_the_summary_says_of_how_many_the_last_evaluation_is() -> None:
    summary = {"status": "completed", "rounds": 3, "final": {"evaluated_clients": 4, "known_clients": 5}}
    assert any(re.match(r" +evaluated clients +4 of 5 ", line) for line in summary_table(summary).splitlines())
    assert "evaluated clients" not in summary_table({**summary, "final": {}})


def test_summary_of_a_completed_run() -> None:
    summary = {
        "status": "completed",
        "rounds": 20,
        "final": {"personalised_accuracy": 0.662, "shared_accuracy": 0.62, "global_accuracy": 0.641},
        "bytes": {"down": 78_660_000, "up": 39_330_000, "evaluation": 30_000_000},
        "seconds": 252.3,
        "layers": [3, 4, 5],
        "parameters_per_message": 49_160,
        "paths": {"run_folder": "/runs/1", "peft_adapter": "/runs/1/adapter"},
    }
    assert summary_table(summary) == "\n".join(
        [
            "Run completed: 20 rounds, 4 min 12 s",
            "  layers                 3, 4, 5",
            "  personalised accuracy  0.662      all clients, each with its own model and examples",
            "  shared accuracy        0.620      all clients, the shared model on their examples",
            "  global accuracy        0.641      the shared model on the common test set",
            "  traffic down           78.7 MB    training",
            "  traffic up             39.3 MB    training",
            "  traffic of evaluation  30.0 MB    both ways",
            "  numbers per message    49,160",
            "  run folder             /runs/1",
            "  peft adapter           /runs/1/adapter",
        ]
    )


def test_summary_of_an_interrupted_run_has_dashes() -> None:
    lines = summary_table({"status": "interrupted", "rounds": 0, "final": None, "seconds": 3725}).splitlines()
    assert lines[0] == "Run interrupted: 0 rounds, 1 h 2 min"
    assert lines[1].split() == ["layers", "-"]
    assert lines[2].split()[:3] == ["personalised", "accuracy", "-"]


def test_a_run_by_another_metric_says_so() -> None:
    header = round_header("matthews").splitlines()
    assert header[0] == "Figures are Matthews; metrics.jsonl has the accuracies too"
    assert header[1] == round_header()
    line = {**LINE, "personalised_matthews": -0.25, "global_matthews": 0.5, "all_personalised_matthews": 0.125}
    assert round_line(line, 20, "matthews").split()[2:4] == ["-0.250", "0.500"]
    assert round_line(line, 20, "matthews").endswith("all clients 0.125")


def test_the_summary_by_another_metric_has_the_accuracy_and_its_floor_beside() -> None:
    final = {f"{whose}_{key}": 0.5 for whose in ("personalised", "shared", "global") for key in ("accuracy",)}
    final |= {"personalised_accuracy_and_f1": 0.75, "global_accuracy_and_f1": 0.25}
    summary = {"status": "completed", "rounds": 2, "final": final, "metric": "accuracy-and-f1"}
    lines = summary_table({**summary, "floor": {"commonest_label_accuracy": 0.875}}).splitlines()
    told = "0.750      all clients, each with its own model and examples, accuracy 0.500"
    assert lines[2].split(maxsplit=2) == ["personalised", "accuracy/F1", told]
    assert lines[3].split()[:3] == ["shared", "accuracy/F1", "-"]
    assert lines[5].split(maxsplit=3) == [
        "floor,",
        "accuracy",
        "0.875",
        "each client always answers its commonest training label",
    ]
    assert max(map(len, lines)) < 110

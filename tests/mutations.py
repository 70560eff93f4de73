"""Wrong formulas, each put in on purpose: does a test notice?

    python -m tests.mutations [--only TEXT] [--jobs 1] [--anew]

`tests/mutations.yaml` lists them. Each goes into a copy of the tree, where a child process runs the tests that have to notice.
Children are forked from a process that has imported the heavy packages, so that most take under a second. What was noticed is
kept in results/mutations.jsonl, and tried again once the changed file or one of the tests is another. A full run writes
docs/MUTATIONS.md.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import gc
import importlib
import multiprocessing as mp
import os
import py_compile
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from tests.mutation_list import PAGE, ROOT, Mutation, Outcome, forget_others, keep, kept, load, page

HEAVY = (
    *("datasets", "flwr.clientapp", "flwr.serverapp.strategy", "flwr.simulation", "flwr_datasets.partitioner"),
    *("hypothesis.strategies", "matplotlib.pyplot", "peft", "torch.utils.tensorboard", "torch.autograd.functional"),
    *("transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "transformers.masking_utils"),
)
# Nothing is looked for but the first failure: no rewritten assertions, no collections of garbage in a large process.
OPTIONS = (
    *("-x", "-q", "--assert=plain", "--timeout=60", "--timeout-method=signal", "-p", "no:cacheprovider"),
    *("-p", "no:anyio", "-p", "no:unraisableexception", "-p", "no:threadexception"),
)
CHILD_LIMIT_S = 150  # of one that its own limit per test could not end


# -- in the child ------------------------------------------------------------------------------------------


class FirstFailure:
    """A pytest plugin: the first test that failed, or file that could not be read."""

    def __init__(self) -> None:
        self.what, self.test = "survived", ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.what, self.test = "broken", report.nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            self.what = "timed out" if "Failed: Timeout" in report.longreprtext else "caught"
            self.test = report.nodeid.partition("[")[0]


def run_tests(tree: Path, tests: Sequence[str], answer: Connection) -> None:
    """Answers with (what, test, output); nothing may come from the tree that this process was forked from."""
    own = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    os.chdir(tree)
    first, output = FirstFailure(), tree / "output.txt"
    with output.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = pytest.main([*OPTIONS, *tests], plugins=[first])
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.partition(".")[0] in own]
    if code > 1 or not all(Path(file).is_relative_to(tree) for file in files if file):
        first.what = "broken"
    answer.send((first.what, first.test, output.read_text(encoding="utf8")))


# -- in the parent -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A child at work in its own copy of the tree."""

    number: int
    folder: tempfile.TemporaryDirectory[str]
    process: ForkProcess
    began: float

    def end(self, answer: Connection) -> Outcome:
        """Its answer, or what is known without one."""
        what, test, output = "broken", "", "the child died"
        with contextlib.suppress(EOFError):
            what, test, output = answer.recv() if answer.poll() else ("timed out", "(nobody could stop it)", "")
        seconds = time.monotonic() - self.began
        self.process.kill()
        self.process.join()
        self.folder.cleanup()
        return Outcome(what, test, seconds, output)


def begin(number: int, base: Path, mutation: Mutation | None, tests: Sequence[str]) -> tuple[Connection, Trial]:
    """Forks a child on a copy of `base` with this mutation, if any."""
    began = time.monotonic()
    folder = tempfile.TemporaryDirectory(prefix="mutation-")
    tree = Path(shutil.copytree(base, Path(folder.name).resolve() / "tree"))
    if mutation is not None:
        (tree / mutation.file).write_text(mutation.apply(base), encoding="utf8")
    fork = mp.get_context("fork")
    mine, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=run_tests, args=(tree, tests, theirs))
    process.start()
    theirs.close()
    return mine, Trial(number, folder, process, began)


def attempt(base: Path, mutations: Sequence[Mutation], jobs: int) -> Iterator[tuple[int, Outcome]]:
    """(place in the list, outcome) as they end, `jobs` at a time."""
    waiting, running = list(enumerate(mutations))[::-1], dict[Connection, Trial]()
    while waiting or running:
        while waiting and len(running) < jobs:
            number, mutation = waiting.pop()
            answer, trial = begin(number, base, mutation, mutation.tests)
            running[answer] = trial
        ready = wait(list(running), timeout=1)
        late = [answer for answer, trial in running.items() if time.monotonic() - trial.began > CHILD_LIMIT_S]
        for answer in [answer for answer in running if answer in ready or answer in late]:
            trial = running.pop(answer)
            yield trial.number, trial.end(answer)


def as_it_is(base: Path, tests: Sequence[str]) -> Outcome:
    """What the tests say of the formulas as they are."""
    answer, trial = begin(0, base, None, tests)
    answer.poll(None)
    return trial.end(answer)


def copy_of_the_tree(folder: Path) -> Path:
    """Without what is hidden, caches and results; compiled, so that a child compiles only what has changed since."""
    away = shutil.ignore_patterns(".*", "__pycache__", "results", "runs", "build", "dist", "*.egg-info")
    base = Path(shutil.copytree(ROOT, folder / "base", ignore=away))
    compileall.compile_dir(base, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return base


def main() -> int:
    """0 if each was noticed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description="Does a test notice a wrong formula?"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="those with this text in part, file or words; no page"
    )
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    parser.add_argument("--anew", action="store_true", help="also what was noticed before")
    given = parser.parse_args()
    began, sys.dont_write_bytecode = time.monotonic(), True
    chosen = [m for m in load() if given.only.lower() in f"{m.part} {m.file} {m.wrong}".lower()]
    keys, known = [mutation.key(ROOT) for mutation in chosen], {} if given.anew else kept()
    outcomes = {number: known[key] for number, key in enumerate(keys) if key in known}
    open_ = [number for number in range(len(chosen)) if number not in outcomes]
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # or each child would copy these pages at its first collection
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        base = copy_of_the_tree(Path(folder))
        tests = sorted({test for number in open_ for test in chosen[number].tests})
        sound = as_it_is(base, tests) if tests else Outcome("survived", "", 0.0, "")
        if sound.what != "survived":
            print(f"{sound.output}\nthe tests of the tree as it is: {sound.what} {sound.test}")
            return 2
        print(f"the tests pass as it is ({sound.seconds:.0f} s); now {len(open_)} mutations", flush=True)
        for place, outcome in attempt(base, [chosen[number] for number in open_], given.jobs):
            number = open_[place]
            outcomes[number], one = outcome, chosen[number]
            if outcome.noticed:
                keep(keys[number], outcome)
            told = f"{len(outcomes):3}/{len(chosen)} {outcome.seconds:4.1f} s {outcome.what:9} {one.part}: {one.wrong}"
            print(f"{told} <- {outcome.test}", flush=True)
            if outcome.what == "broken":
                print(outcome.output)
    unnoticed = [one for number, one in enumerate(chosen) if not outcomes[number].noticed]
    for one in unnoticed:
        print(f"NOT NOTICED {one.part}: {one.wrong} ({one.file})")
    seconds = time.monotonic() - began
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} noticed in {seconds:.0f} s")
    if not given.only:
        forget_others(keys)
        PAGE.write_text(page(chosen, [outcomes[number] for number in range(len(chosen))]), encoding="utf8")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())

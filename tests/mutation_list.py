"""The list of wrong formulas, tests/mutations.yaml, and the page of what became of them, docs/MUTATIONS.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LIST, PAGE = ROOT / "tests" / "mutations.yaml", ROOT / "docs" / "MUTATIONS.md"
KEPT = ROOT / "results" / "mutations.jsonl"


@dataclass(frozen=True)
class Mutation:
    """One wrong formula.

    Attributes:
        part: of the method, with its section; "5: .." is a line of section 5 of docs/ALGORITHMS.md.
        file: that is changed.
        wrong: what is wrong with it, in words.
        edits: (old, new): each old text occurs exactly once in the file.
        tests: files; one of their tests has to fail.
    """

    part: str
    file: str
    wrong: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]

    def apply(self, root: Path) -> str:
        """The file's text with the formula changed.

        Raises:
            ValueError: an old text is not there exactly once.
        """
        source = (root / self.file).read_text(encoding="utf8")
        for old, new in self.edits:
            if source.count(old) != 1:
                raise ValueError(f"{self.part}, {self.wrong}: {self.file} has {source.count(old)} times {old!r}")
            source = source.replace(old, new)
        return source

    def key(self, root: Path) -> str:
        """Of all that its outcome was seen with: the changed file, and the files of its tests."""
        files = [
            self.apply(root),
            *((root / test.partition("::")[0]).read_text(encoding="utf8") for test in self.tests),
        ]
        return hashlib.sha256(json.dumps([self.file, self.edits, self.tests, files]).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation: caught, timed out, survived, or broken (its tests could not run)."""

    what: str
    test: str
    seconds: float
    output: str

    @property
    def noticed(self) -> bool:
        return self.what in ("caught", "timed out")


def load() -> list[Mutation]:
    """The list, in its order."""
    found = []
    for group in yaml.safe_load(LIST.read_text(encoding="utf8")):
        for one in group["mutations"]:
            old, new = (text if isinstance(text, list) else [text] for text in (one["old"], one["new"]))
            edits, tests = tuple(zip(old, new, strict=True)), tuple(one.get("tests", group["tests"]))
            found.append(Mutation(group["part"], group["file"], one["wrong"], edits, tests))
    return found


def kept() -> dict[str, Outcome]:
    """What became of mutations in runs before, by key."""
    if not KEPT.exists():
        return {}
    found = map(json.loads, KEPT.read_text(encoding="utf8").splitlines())
    return {one["key"]: Outcome(one["what"], one["test"], one["seconds"], "") for one in found}


def keep(key: str, outcome: Outcome) -> None:
    """Adds one that was noticed, at once, so that a run which is stopped goes on from there."""
    line = {"key": key, "what": outcome.what, "test": outcome.test, "seconds": round(outcome.seconds, 1)}
    with KEPT.open("a", encoding="utf8") as file:
        file.write(json.dumps(line) + "\n")


def forget_others(keys: Sequence[str]) -> None:
    """Leaves only these, in this order."""
    lines = {json.loads(line)["key"]: line for line in KEPT.read_text(encoding="utf8").splitlines()}
    KEPT.write_text("".join(f"{lines[key]}\n" for key in keys if key in lines), encoding="utf8")


def row(mutation: Mutation) -> str:
    """A mutation's line but for its last column."""
    codes = "<br>".join(f"{_code(old)} → {_code(new)}" for old, new in mutation.edits)
    return f"| {mutation.part} | `{mutation.file}` | {mutation.wrong}<br>{codes} |"


def page(mutations: Sequence[Mutation], outcomes: Sequence[Outcome]) -> str:
    """docs/MUTATIONS.md."""
    noticed, seconds = sum(outcome.noticed for outcome in outcomes), sum(outcome.seconds for outcome in outcomes)
    lines = [
        "# Wrong formulas that were tried",
        "",
        "`python -m tests.mutations` put each of these, alone, into a copy of the tree, ran the tests that have to notice,",
        f"and wrote this page: {len(mutations)} wrong formulas, {noticed} noticed, in {seconds / 60:.0f} minutes of tests.",
        "One whose changed file and tests are those of an earlier run is not tried again (`results/mutations.jsonl`;",
        "`--anew` tries all). The list is `tests/mutations.yaml`. Numbers are sections of [ALGORITHMS.md](ALGORITHMS.md); a part",
        "that begins with 5 is a line of its section 5, of which only the known answers were run. A → B: A became B; ⏎ stands",
        "for a new line.",
        "",
        "| part | file | changed to | the test that failed first |",
        "|---|---|---|---|",
    ]
    for mutation, outcome in zip(mutations, outcomes, strict=True):
        verdict = "" if outcome.what == "caught" else f"**{outcome.what}** "
        lines.append(f"{row(mutation)} {verdict}{outcome.test.replace('::', ' ')} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return f"`{' ⏎ '.join(lines)}`".replace("|", "\\|") if lines else "nothing"

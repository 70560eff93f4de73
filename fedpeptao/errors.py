"""The one exception a user is meant to read: what was wrong, where, and what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Bad input, found before any training.

    Args:
        key: the setting (kebab-case, as in the run-config) or file that is at fault.
        value: what was given.
        problem: what is wrong with it, as a clause without a full stop.
        mend: what the user can do, as a sentence without a full stop.
    """

    def __init__(self, key: str, value: object, problem: str, mend: str) -> None:
        self.key, self.value, self.problem, self.mend = key, value, problem, mend
        super().__init__(f"{key} = {value!r}: {problem}. {mend}.")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str, str]]:
        """Survives a process boundary (the default would rebuild it from the message alone)."""
        return type(self), (self.key, self.value, self.problem, self.mend)


@contextmanager
def within_reach(key: str, path: str | Path) -> Iterator[None]:
    """Around questions about a path: InputError of its key where a folder may not be entered, or the name cannot be one."""
    try:
        yield
    except OSError as error:
        problem = f"it cannot be looked for ({error.strerror})"
        raise InputError(key, str(path), problem, "Check the path and the rights of its folders") from error


class RunError(RuntimeError):
    """A run that cannot go on, with a message for whoever operates it."""

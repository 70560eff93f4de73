"""What a figure was made on and how it is kept; what a process's memory is."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent.parent / "results"
IMAGES = RESULTS.parent / "docs" / "images"


def facts(module: str) -> dict[str, Any]:
    """The command, the machine and the versions behind figures; module: as in `python -m module`."""
    return {
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": next(
            (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
            platform.machine(),
        ),
        "torch_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("torch", "numpy")},
        },
    }


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """One JSON file, readable by people too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf8")
    print(f"raw figures: {path}", flush=True)


def resident_mb(peak: bool = False) -> float:
    """Resident memory of this process in MB, now or at its peak (Linux)."""
    wanted = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) / 1e3 for line in _lines("/proc/self/status") if line.startswith(wanted))


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf8").splitlines()

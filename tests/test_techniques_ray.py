"""Every technique in Flower's simulation with Ray, to the same bits as in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.technique_names import TECHNIQUES, WHOLE
from tests.combinations import run_config
from tests.combinations_in_ray import DONE
from tests.small_runs import Flat, go
from tests.test_combinations_ray import begin, differences, home

__all__ = ["home"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
LIMIT_S = 240


@pytest.mark.timeout(LIMIT_S + 60)
def test_techniques_in_ray_give_the_bits_of_this_process(data_file: Path, tmp_path: Path, home: Path) -> None:
    source = go(run_config(data_file, tmp_path / "source", {"tuned": "input-prompts", "layers": "all", "rounds": 1}))

    def flat(technique: str, place: str) -> Flat:
        given: Flat = {"tuned": technique, "bottleneck": 4, "lora-rank": 2}
        given |= {"layers": "all"} if technique in WHOLE else {}
        given |= {"prompt-sources": str(source.folder)} if technique == "mixed-prompts" else {}
        return run_config(data_file, tmp_path / place / technique, given)

    there = [flat(technique, "ray") for technique in TECHNIQUES]
    session = begin(tmp_path, home, there)
    try:
        here = [go(flat(technique, "here")) for technique in TECHNIQUES]
        session.wait(LIMIT_S)
    finally:
        session.kill()
        print((tmp_path / "log.txt").read_text(encoding="utf8")[-5000:])
    done = [json.loads(line) for line in (tmp_path / DONE).read_text(encoding="utf8").splitlines()]
    assert len(done) == len(TECHNIQUES)
    found = {
        technique: one["error"] or differences(asked, ran)
        for technique, one, asked, ran in zip(TECHNIQUES, done, there, here, strict=True)
    }
    assert not any(found.values()), found

"""Who starts a node's client processes: each begins as Flower's command, with nothing of this application in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from fedpeptao.deployment import launcher

def command():  # in place of Flower's, which needs a node
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in launcher.OURS)
    told = {"argv": sys.argv, "ours": ours, "name": Path("/proc/self/comm").read_text().strip(), "pid": os.getpid()}
    place = Path(sys.argv[2])
    place.with_suffix(".new").write_text(json.dumps({**told, "parent": os.getppid()}))
    place.with_suffix(".new").rename(place)
    if sys.argv[1] == "fail":
        raise ValueError("it breaks")
    sys.exit(0)

launcher.flwr_clientapp = command
line = launcher.forker()
for number, what in enumerate(["go", "fail", "go"]):
    place = Path(sys.argv[1]) / str(number)
    os.write(line, json.dumps([what, str(place)]).encode() + b"\\n")
    while not place.exists():
        time.sleep(0.01)
os.close(line)
print(os.getpid())
"""


def test_each_message_has_a_process_of_its_own_even_after_one_broke(tmp_path: Path) -> None:
    told = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    ran = subprocess.run(told, check=True, capture_output=True, text=True, timeout=60)
    found = [json.loads((tmp_path / str(number)).read_text(encoding="utf8")) for number in range(3)]
    assert [one["argv"][:2] for one in found] == [["flwr-clientapp", what] for what in ("go", "fail", "go")]
    assert {one["name"] for one in found} == {"flwr-clientapp"}
    assert [one["ours"] for one in found] == [[]] * 3
    assert len({one["pid"] for one in found}) == 3
    (forker,) = {one["parent"] for one in found}
    assert forker not in {int(ran.stdout), *(one["pid"] for one in found)}
    assert ran.stderr.count("ValueError: it breaks") == 1

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apq.workers import spread

SCRIPT = """
import os, time
from apq.workers import spread
print(*{*spread(os.getpid, [()] * 8, 2)}, flush=True)
time.sleep(600)
"""


def test_calls_are_spread_over_processes():
    assert sorted(spread(pow, [(2, 3), (3, 2)], 2)) == [8, 9]
    assert os.getpid() not in {*spread(os.getpid, [()] * 4, 2)}
    assert {*spread(os.getpid, [()] * 2, 1)} == {os.getpid()}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to look at processes")
def test_workers_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    with parent.stdout as printed:
        workers = [int(pid) for pid in printed.readline().split()]
    assert workers
    assert all(map(alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.2)

"""Killed anywhere, a run goes on as if nothing was (tests/kill.py)."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="commands are forked")
def test_what_is_killed_goes_on_equal_to_the_bit() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill.py")), "0"], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row for row in rows if not row["equal"]] == []
    killed = collections.Counter(row["way"] for row in rows)
    assert killed["preparing"] == 10
    assert killed.total() - killed["preparing"] == 25
    assert sum(row.get("writing", False) for row in rows) >= 2  # some while a checkpoint was written
    assert sum(row.get("from") is not None for row in rows) >= 10  # and many after the first one

"""Bad files in bulk: every command ends well or in one clear line, and leaves nothing behind (tests/fuzz.py)."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz import COMMANDS, KINDS, recipes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cases are forked, with Linux's limits of memory")
FINE = {"done", "refused", "cannot be written"}
FILE = Path(__file__).with_name("fuzz.py")


@pytest.fixture(scope="module")
def outcome() -> Iterator[Callable[[dict], dict]]:
    """Asks the process that forks one for each case: a process with threads of its own cannot."""
    server = subprocess.Popen(
        [sys.executable, str(FILE), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(recipe: dict) -> dict:
        server.stdin.write(json.dumps(recipe) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield ask
    server.stdin.close()
    server.wait()


def test_every_kind_once(outcome) -> None:
    found = [(recipe, outcome(recipe)) for recipe in recipes(len(KINDS), seed=1)]
    assert [(recipe, result) for recipe, result in found if result["outcome"] not in FINE] == []
    assert sum(result["outcome"] == "refused" for _, result in found) > len(KINDS) / 3
    assert sum(result["outcome"] == "done" for _, result in found) > len(KINDS) / 6


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    command=st.sampled_from(sorted(set(COMMANDS) - {"estimate"})),
    seed=st.integers(0, 2**31),
)
def test_any_mixture(outcome, kinds, command, seed) -> None:
    recipe = {"base": "simulated", "kinds": kinds, "command": command, "seed": seed}
    result = outcome(recipe)
    assert result["outcome"] in FINE, (recipe, result)


@pytest.mark.slow
def test_five_hundred_cases() -> None:
    done = subprocess.run([sys.executable, str(FILE), "500", "0"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    bad = [line for line in done.stdout.splitlines()[:-1] if line[:1].isdigit()]
    assert not bad, done.stdout
    total = done.stdout.splitlines()[-1].split()
    assert sum(map(int, total[1:])) == 500

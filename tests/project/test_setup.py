"""What people install is what was tested."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import scfm_lib as scfm

ROOT = Path(__file__).resolve().parents[2]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}


def test_every_dependency_is_pinned_and_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    needs = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    for need in needs:
        name = re.match(r"[A-Za-z0-9_-]+", need).group().lower()
        assert name in pinned(), f"{name} is not in constraints.txt"
    for need in project["dependencies"]:
        line = next(line for line in text.splitlines() if f'"{need}"' in line)
        assert "#" in line, f"{need} has no reason"


def test_what_is_installed_here_is_the_tested_set() -> None:
    for name, version in pinned().items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        assert installed.split("+")[0] == version, name


def test_the_pip_part_for_conda_is_the_same_set() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[lab]"]


@pytest.mark.slow
def test_the_pip_part_for_conda_resolves_to_the_pinned_versions(tmp_path) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    lines = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        str(report),
    ]
    subprocess.run([*command, *" ".join(lines).split()], cwd=ROOT, check=True)
    chosen = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    del chosen["scfm-workbook"]
    assert {"torch", "scanpy", "jupyterlab"} <= chosen.keys()
    assert {name: version.split("+")[0] for name, version in chosen.items()} == {
        name: pinned()[name] for name in chosen
    }


def test_nothing_that_windows_lacks() -> None:
    lacking = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "posix", "syslog"}
    calls = {
        "fork",
        "setsid",
        "getuid",
        "geteuid",
        "mkfifo",
        "kill",
        "SIGKILL",
        "SIGUSR1",
        "SIGALRM",
        "uname",
        "rename",
    }
    for path in [*(ROOT / "scfm_lib").rglob("*.py"), *(ROOT / "notebooks" / "exercises").glob("*.py")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not lacking & {name.name for name in node.names}, path.name
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("os", "signal")
            ):
                assert node.attr not in calls, f"{path.name}: {node.value.id}.{node.attr}"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                words = {word.arg for word in node.keywords}
                assert "encoding" in words, f"{path.name}:{node.lineno} text in whatever encoding Windows has"


def test_no_workers_unless_asked_since_windows_starts_them_slowly() -> None:
    for preset in ("minimal", "default", "large"):
        assert scfm.load_config(preset).training.num_workers == 0


def test_the_readmes_lines_for_windows_are_the_makefiles() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for line in ("pip install -c constraints.txt torch ", "pip install -c constraints.txt -e ."):
        assert line in readme
    assert "--constraint constraints.txt" in makefile
    assert "$(INSTALL) torch\n" in makefile
    assert "$(INSTALL) --editable ." in makefile


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_spin_shortly_unless_the_user_says_otherwise(said: dict[str, str], expected: str) -> None:
    plain = {key: value for key, value in os.environ.items() if key not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    code = "import sys, os, scfm_lib; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    told = subprocess.check_output([sys.executable, "-c", code], env=plain | said, text=True, cwd=ROOT)
    assert told.split() == [expected, "False"]

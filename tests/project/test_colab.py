"""Colab and Kaggle: what is missing can be added to what is there, nothing that is there moves, twice is once."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "colab_setup.sh"
COLAB = {"COLAB_RELEASE_TAG": "release-colab-20260801"}
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
IMAGES = {  # name: Python, the list of packages, Kaggle's list on top
    "colab-2026-05": ("3.12", "colab-2026-05-py312.freeze.txt", None),
    "colab-2026-08": ("3.13", "colab-2026-08-py313.freeze.txt", None),
    "kaggle-2026-08": ("3.12", "colab-2026-05-py312.freeze.txt", "kaggle-2026-08.requirements.txt"),
}
LINUX = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64")


def platform_file(name: str) -> Path:
    """A list of what a platform has: found through SCFM_PLATFORMS_DIR, else the test is skipped, saying so."""
    folder = os.environ.get("SCFM_PLATFORMS_DIR")
    if folder and (Path(folder) / name).exists():
        return Path(folder) / name
    reason = f"{name} is not in SCFM_PLATFORMS_DIR ({folder or 'unset'})"
    if os.environ.get("SCFM_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


def preinstalled(name: str) -> dict[str, str]:
    pairs = re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^\s;]+)$", platform_file(name).read_text())
    return {canonicalize_name(package): version.split("+")[0] for package, version in pairs}


def torch_stub(folder: Path, version: str) -> Path:
    """A wheel called torch that holds nothing: the real one is gigabytes, and its version is all pip looks at."""
    wheel = folder / f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = f"torch-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("image", IMAGES)
def test_pip_finds_a_solution_that_moves_nothing(image, tmp_path) -> None:
    python, base, on_top = IMAGES[image]
    have = preinstalled(base)
    constraints = [f"{name}=={version}" for name, version in have.items() if name != "torch"]
    constraints.append(f"torch @ {torch_stub(tmp_path, have['torch']).as_uri()}")
    if on_top:
        for line in platform_file(on_top).read_text().splitlines():
            try:
                need = Requirement(line.split("#")[0].strip())
            except InvalidRequirement:
                continue
            if need.specifier and canonicalize_name(need.name) not in have:
                constraints.append(f"{need.name}{need.specifier}")
    (tmp_path / "constraints.txt").write_text("\n".join(constraints))
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--only-binary=:all:",
    ]
    command += ["--python-version", python, *(word for name in LINUX for word in ("--platform", name))]
    command += ["--target", str(tmp_path / "target"), "--report", str(tmp_path / "report.json")]
    done = subprocess.run([*command, "-c", str(tmp_path / "constraints.txt"), *needs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())["install"]
    chosen = {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in report}
    assert {"torch", "numpy", "pandas", "scipy", "scikit-learn", "numba", "scanpy", "anndata"} <= chosen.keys()
    assert {name: have[name] for name in chosen.keys() & have.keys()} == {
        name: chosen[name].split("+")[0] for name in chosen.keys() & have.keys()
    }
    assert len(chosen.keys() - have.keys()) <= 20, sorted(chosen.keys() - have.keys())


def set_up(clone: Path, python: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in {*COLAB, *KAGGLE, "VIRTUAL_ENV"}}
    environment = kept | variables | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = ["bash", str(clone / "colab_setup.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=clone.parent)


def packages(python: Path) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    return {item["name"]: item["version"] for item in json.loads(listed.stdout)}


@pytest.fixture
def clone(tmp_path) -> Path:
    """The files git knows, as a fresh clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / "scfm-workbook" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "scfm-workbook" / name)
    return tmp_path / "scfm-workbook"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "listed"),
    [(COLAB, "colab-2026-08-py313.freeze.txt"), (KAGGLE, "colab-2026-05-py312.freeze.txt")],
    ids=["colab", "kaggle"],
)
def test_set_up_twice_is_set_up_once(clone, tmp_path, variables, listed) -> None:
    have = preinstalled(listed)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "root"], check=True)
    python = tmp_path / "root" / "bin" / "python"
    present = [f"{name}=={have[name]}" for name in ("numpy", "pandas", "ipywidgets", "packaging", "scipy", "tqdm")]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, torch_stub(tmp_path, have["torch"]), *present], check=True, capture_output=True)
    before = packages(python)

    planned = set_up(clone, python, variables, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "would install  scanpy" in planned.stdout
    assert packages(python) == before

    first = set_up(clone, python, variables)
    assert first.returncode == 0, first.stderr
    after = packages(python)
    assert {name: after[name] for name in before} == before
    assert {"scanpy", "scfm-workbook"} <= after.keys()
    assert re.search(r"installed  \d+ packages, \d+\.\d MB downloaded", first.stdout)
    assert len(first.stdout.splitlines()) <= 10
    assert ("/kaggle/working/runs" in first.stdout) == (variables == KAGGLE)
    asked = "import os, scfm_lib; os.chdir('/'); print(scfm_lib.__file__)"
    assert str(clone) in subprocess.run([python, "-c", asked], capture_output=True, text=True, cwd="/").stdout

    second = set_up(clone, python, variables)
    assert second.returncode == 0, second.stderr
    assert "nothing changed" in second.stdout
    assert packages(python) == after


def test_elsewhere_it_says_what_to_do_instead(clone) -> None:
    told = set_up(clone, Path(sys.executable), {})
    assert told.returncode == 2
    assert "neither Colab nor Kaggle" in told.stderr
    assert "make lab" in told.stderr


def test_a_tpu_chosen_by_mistake_is_said(clone) -> None:
    told = set_up(clone, Path(sys.executable), KAGGLE | {"TPU_WORKER_ID": "0"}, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "a TPU, which this project cannot use: choose a T4 GPU" in told.stdout


@pytest.mark.parametrize(
    ("cards", "line"),
    [("Tesla T4\nTesla T4", "2 Tesla T4"), ("Tesla P100-PCIE-16GB", "no code for it; choose GPU T4 x2")],
)
def test_the_card_is_named(clone, tmp_path, cards, line) -> None:
    stub = tmp_path / "bin" / "nvidia-smi"  # the driver's own command, the outermost boundary
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\nprintf '{cards}\\n'")
    stub.chmod(0o755)
    python = stub.parent / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"')
    python.chmod(0o755)
    told = set_up(clone, stub, COLAB, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert line in told.stdout


def test_when_pip_cannot_the_line_to_copy_is_there(clone, tmp_path) -> None:
    text = (clone / "pyproject.toml").read_text()
    (clone / "pyproject.toml").write_text(text.replace('"numpy>=1.26"', '"numpy>=999"'))
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "root"], check=True)
    told = set_up(clone, tmp_path / "root" / "bin" / "python", COLAB)
    assert told.returncode == 2
    assert "SET-UP FAILED: pip found no way" in told.stderr
    assert "!pip install -e" in told.stderr


def test_the_address_is_the_projects() -> None:
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"REPOSITORY={repository} " in SCRIPT.read_text()


def test_piped_it_fetches_the_project_first(tmp_path) -> None:
    text = SCRIPT.read_text()
    told = piped(text, tmp_path, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "would clone https://" in told.stdout
    assert list(tmp_path.iterdir()) == []
    gone = re.sub(r"REPOSITORY=\S+", f"REPOSITORY={tmp_path}/nowhere/scfm-workbook", text)
    told = piped(gone, tmp_path)
    assert told.returncode == 2
    assert "SET-UP FAILED: the project could not be fetched" in told.stderr


def piped(text: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in KAGGLE} | COLAB
    command = ["bash", "-s", "--", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, cwd=folder)

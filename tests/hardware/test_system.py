"""The hardware check on machines that are not here: each is a double at the lowest boundary only."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from doubles import stub_driver, stub_linux, stub_torch

from scfm_lib.estimator.advice import check
from scfm_lib.estimator.text import check_text
from scfm_lib.hardware import system as machine

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture
def no_driver(monkeypatch) -> None:
    stub_driver(monkeypatch, None, found=False)


def with_torch(monkeypatch, path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(path))


@pytest.mark.usefixtures("no_driver")
def test_this_machine_without_a_gpu() -> None:
    found = check()
    assert {"platform", "cpu", "memory_bytes", "gpus", "presets"} <= found.keys()
    assert found["gpus"] == []
    assert found["target"]["kind"] == "cpu"
    assert found["cpu"]["fp32_flops"] > 1e9
    assert 0 < found["memory_bytes"]["available"] <= found["memory_bytes"]["total"]
    verdicts = [found["presets"][name] for name in ("minimal", "default", "large")]
    hours = [verdict["hours"]["typical"] for verdict in verdicts]
    assert hours == sorted(hours)
    assert all(verdict["reason"] for verdict in verdicts)
    assert json.loads(json.dumps(found)) == found
    assert "none found" in check_text(found)


def test_p100_answers_available_but_has_no_kernel_code(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path, "Tesla P100-PCIE-16GB", (6, 0), kernel=NO_KERNEL))
    stub_driver(monkeypatch, "Tesla P100-PCIE-16GB")
    found = check()
    (gpu,) = found["gpus"]
    assert not gpu["works"]
    assert gpu["code"] is False
    assert "no kernel image" in gpu["problem"]
    assert found["target"]["kind"] == "cpu"
    assert "no kernel image" in found["target"]["why"]
    assert "DOES NOT WORK" in check_text(found)


def test_t4_has_bf16_by_emulation_only(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path, "Tesla T4", (7, 5)))
    stub_driver(monkeypatch, "Tesla T4")
    found = check()
    (gpu,) = found["gpus"]
    assert gpu["works"]
    assert gpu["code"]
    assert gpu["bf16"] == "emulated"
    assert found["target"]["kind"] == "cuda"
    assert found["presets"]["default"]["verdict"] == "excellent"
    assert gpu["held_by"] == [{"pid": 2**22 + 1, "name": None, "bytes": 10**9}]
    assert "bf16 emulated" in check_text(found)


def test_a_driver_that_answers_not_supported(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path, "NVIDIA Thor", (8, 9)))
    stub_driver(monkeypatch, "NVIDIA Thor", silent=("MemoryInfo", "ComputeRunningProcesses", "CudaComputeCapability"))
    found = check()
    (gpu,) = found["gpus"]
    assert gpu["memory_total"] == 16 * 10**9  # torch knows it
    assert gpu["compute_capability"] == "8.9"
    assert any("memory: the driver answers 'Not Supported'" in note for note in gpu["notes"])
    assert found["presets"]["minimal"]["verdict"] is None  # a card that gpus.yaml does not know is not guessed at
    assert "not known" in check_text(found)


def test_without_the_drivers_library(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path, "Tesla T4", (7, 5)))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = check()
    assert found["gpus"][0]["name"] == "Tesla T4"
    assert found["gpus"][0]["works"]
    assert any("nvidia-ml-py" in note for note in found["notes"])


def test_an_nvidia_card_under_a_cpu_build_of_torch(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path, version="2.13.0+cpu", cuda=None))
    stub_driver(monkeypatch, "NVIDIA GeForce RTX 3050 Laptop GPU")
    found = machine.machine()
    (gpu,) = found["gpus"]
    assert gpu["laptop"]
    assert not gpu["works"]
    assert any("--index-url https://download.pytorch.org/whl" in note for note in found["notes"])


@pytest.mark.usefixtures("no_driver")
def test_apple_shares_its_memory(monkeypatch, tmp_path) -> None:
    with_torch(monkeypatch, stub_torch(tmp_path / "torch", mps=True, cuda=None))
    root = stub_linux(tmp_path / "root", {"proc/cpuinfo": "model name\t: Apple M1 Pro\n"})
    monkeypatch.setattr(machine, "ROOT", root)
    found = check()
    (gpu,) = found["gpus"]
    assert gpu["name"] == "Apple M1 Pro"
    assert gpu["memory_total"] == found["memory_bytes"]["total"] == psutil.virtual_memory().total
    assert "shared" in gpu["notes"][0]
    assert found["target"]["kind"] == "mps"
    assert found["presets"]["minimal"]["verdict"] in {"excellent", "good"}


GIB = 2**30
VERSION_2 = {
    "proc/self/cgroup": "0::/docker/abc\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/docker/cpu.max": "100000 100000\n",
    "sys/fs/cgroup/docker/memory.max": f"{4 * GIB}\n",
    "sys/fs/cgroup/docker/memory.current": f"{3 * GIB}\n",
    "sys/fs/cgroup/docker/memory.stat": f"anon 5\ninactive_file {GIB}\n",
}
VERSION_1 = {
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"cache 5\ntotal_inactive_file {GIB}\n",
}


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("files", [VERSION_1, VERSION_2])
def test_a_container_with_one_core_and_four_gib(monkeypatch, tmp_path, files) -> None:
    monkeypatch.setattr(machine, "ROOT", stub_linux(tmp_path, files))
    assert machine.cgroup_cores() == 1
    assert machine.usable_cores() == 1
    assert machine.memory() == {"total": 4 * GIB, "available": 2 * GIB, "limit": 4 * GIB}
    found = check()
    assert found["threads"]["threads"] == 1
    assert found["presets"]["large"]["verdict"] == "not practical"
    assert "to be had" in found["presets"]["large"]["reason"]
    assert "container" in found["platform"]["places"]


def test_without_limits(monkeypatch, tmp_path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}
    monkeypatch.setattr(machine, "ROOT", stub_linux(tmp_path, files))
    assert machine.cgroup_cores() is None
    assert machine.cgroup_memory() is None
    unlimited = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    monkeypatch.setattr(machine, "ROOT", stub_linux(tmp_path / "v1", unlimited))
    assert machine.cgroup_memory() is None


def test_places(monkeypatch, tmp_path) -> None:
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    wsl = stub_linux(tmp_path, {"proc/version": "Linux version 5.15.90.1-microsoft-standard-WSL2\n"})
    monkeypatch.setattr(machine, "ROOT", wsl)
    assert machine.places() == ["wsl"]
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20261101")
    assert machine.places() == ["colab", "wsl"]
    monkeypatch.setattr(machine, "ROOT", tmp_path / "nothing")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert machine.places() == ["colab", "kaggle"]


def test_a_torch_that_does_not_start_is_said(monkeypatch, tmp_path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    with_torch(monkeypatch, tmp_path)
    found = machine.machine()
    assert any("libcudart" in note for note in found["notes"])
    assert found["platform"]["torch"]["version"] is None


def test_the_machine_is_read_without_torch() -> None:
    """So that a notebook can set the threads before torch is imported."""
    code = (
        "import sys; from scfm_lib.hardware.system import usable_cores; usable_cores(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_tpu_chosen_by_mistake_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(machine, "ROOT", stub_linux(tmp_path, {"dev/accel0": ""}))
    assert "tpu" in machine.places()
    monkeypatch.undo()
    stub_driver(monkeypatch, None, found=False)
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    found = check()
    assert "tpu" in found["platform"]["places"]
    assert "choose a T4 GPU" in found["target"]["why"]
    assert "choose a T4 GPU" in check_text(found)

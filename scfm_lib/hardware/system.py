"""What is in this machine, without importing torch: cores, memory, disk, where it runs, and the cards its driver names.

What cannot be read is None and said in `notes`; nothing is guessed. Torch's own view of the cards comes from
`torch_probe.py` in a process of its own, so that CUDA stays untouched here (a notebook can still start processes on two
cards).
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

ROOT = Path("/")  # where /proc and /sys are
PROBE_SECONDS = 60  # a driver that hangs must not hang us


def usable_cores() -> int:
    """Cores this process may use: the affinity mask and the cgroup's limit, not only what the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = cgroup_cores()
    return min(cores, max(1, int(limit))) if limit else cores


def cgroup_cores() -> float | None:
    """Cores that the cgroup (a container's or Colab's limit) grants; None: no limit, or not Linux."""
    limits = []
    for folder in _cgroups("cpu"):
        if quota := _words(folder / "cpu.max"):  # version 2: "max 100000" or "50000 100000"
            limits += [int(quota[0]) / int(quota[1])] if quota[0] != "max" else []
        elif quota := _words(folder / "cpu.cfs_quota_us"):  # version 1: -1 is no limit
            period = _words(folder / "cpu.cfs_period_us")
            limits += [int(quota[0]) / int(period[0])] if int(quota[0]) > 0 and period else []
    return min(limits, default=None)


def cgroup_memory() -> tuple[int, int] | None:
    """(limit, in use) in bytes of the tightest cgroup; cached files, which give way, are not in use. None: no limit."""
    found = []
    for folder in _cgroups("memory"):
        for limit_file, use_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _words(folder / limit_file)
            if not limit or limit[0] == "max" or int(limit[0]) >= 2**60:  # version 1 writes a huge number for none
                continue
            words = _words(folder / "memory.stat")
            stat = dict(zip(words[::2], words[1::2], strict=False))
            use = _words(folder / use_file)
            found.append((int(limit[0]), max(0, int(use[0]) - int(stat.get(cached, 0))) if use else 0))
    return min(found, default=None)


def _cgroups(controller: str) -> list[Path]:
    """Folders that may limit this process: its own cgroup and all above it, in version 1 and 2."""
    folders = []
    for line in _words(ROOT / "proc/self/cgroup", lines=True):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = ROOT / "sys/fs/cgroup" / (controller if controllers else "")
        own = base / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder == base or base in folder.parents]
    plain = ROOT / "sys/fs/cgroup"
    return list(dict.fromkeys([*folders, plain, plain / controller]))


def _words(file: Path, lines: bool = False) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return text.splitlines() if lines else text.split()


def places() -> list[str]:
    """Which of colab, kaggle, tpu (a machine with one), wsl, container this is."""
    version = " ".join(_words(ROOT / "proc/version")).lower()
    cgroup = " ".join(_words(ROOT / "proc/self/cgroup"))
    found = {
        "colab": "COLAB_RELEASE_TAG" in os.environ,
        "kaggle": "KAGGLE_KERNEL_RUN_TYPE" in os.environ,
        "tpu": any(os.environ.get(name) for name in ("TPU_WORKER_ID", "TPU_NAME", "COLAB_TPU_ADDR"))
        or any((ROOT / "dev").glob("accel[0-9]*")),
        "wsl": "microsoft" in version,
        "container": (ROOT / ".dockerenv").exists()
        or (ROOT / "run/.containerenv").exists()
        or any(word in cgroup for word in ("docker", "kubepods", "containerd")),
    }
    return [place for place, here in found.items() if here]


def cpu_model() -> str | None:
    """The processor's name."""
    for line in _words(ROOT / "proc/cpuinfo", lines=True):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or None
    return platform.processor() or None


def memory() -> dict[str, int | None]:
    """Bytes of RAM: `total` and `available` to this process, and the cgroup's `limit`, which the two respect."""
    machine, limited = psutil.virtual_memory(), cgroup_memory()
    total, available = machine.total, machine.available
    if limited:
        total, available = min(total, limited[0]), min(available, limited[0] - limited[1])
    return {"total": total, "available": max(0, available), "limit": limited[0] if limited else None}


def driver_cards() -> tuple[list[dict[str, Any]], list[str]]:
    """The cards NVIDIA's driver names (memory in bytes, who holds it), and what could not be read."""
    try:
        import pynvml
    except ImportError:
        return [], ["the NVIDIA driver was not asked: pip install nvidia-ml-py"]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], [] if "not found" in str(error).lower() else [f"the NVIDIA driver does not answer: {error}"]
    cards = [_driver_card(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
    pynvml.nvmlShutdown()
    return cards, []


def _driver_card(pynvml: Any, number: int) -> dict[str, Any]:
    notes: list[str] = []

    def ask(what: str, question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except pynvml.NVMLError as error:  # integrated, MIG and WSL cards answer "Not Supported"
            notes.append(f"{what}: the driver answers {str(error)!r}")
            return None

    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    name = ask("name", pynvml.nvmlDeviceGetName, handle)
    used = ask("memory", pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = ask("compute capability", pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    holders = ask("processes", pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    mig = ask("MIG", pynvml.nvmlDeviceGetMigMode, handle) if name and ("A100" in name or "H100" in name) else None
    if mig and mig[0]:
        notes.append("MIG is on: torch sees a slice of this card, with less memory than is shown here")
    name = name.decode() if isinstance(name, bytes) else name
    return {
        "name": name,
        "laptop": bool(name and "laptop" in name.lower()),
        "memory_total": used.total if used else None,
        "memory_free": used.free if used else None,
        "held_by": [
            {"pid": h.pid, "name": _process_name(h.pid), "bytes": getattr(h, "usedGpuMemory", None)} for h in holders
        ],
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "notes": notes,
    }


def _process_name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # in another container, or gone
        return None


def start_probe() -> subprocess.Popen:
    """Starts `torch_probe.py`, which imports torch and runs a kernel on every card; for `read_probe`."""
    probe = Path(__file__).with_name("torch_probe.py")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # -P: this package's files must not be found under the names of other packages
    return subprocess.Popen([sys.executable, "-P", str(probe)], **pipes)


def read_probe(probe: subprocess.Popen) -> dict[str, Any]:
    """What torch says of itself and its cards, or `problem`."""
    try:
        out, err = probe.communicate(timeout=PROBE_SECONDS)
        return json.loads(out.splitlines()[-1])
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return {"problem": f"torch did not answer within {PROBE_SECONDS} s"}
    except (IndexError, json.JSONDecodeError):
        last = (err.strip().splitlines() or ["no message"])[-1]
        return {"problem": f"torch does not start: {last[:120]}"}


def machine(run_dir: str | Path = ".", torch_view: dict[str, Any] | None = None) -> dict[str, Any]:
    """All of it, ready for JSON. Memory and disk in bytes.

    Args:
        run_dir: where runs will be written; its disk is looked at.
        torch_view: from `read_probe`, where it was asked already.
    """
    torch_view = torch_view if torch_view is not None else read_probe(start_probe())
    cards, notes = driver_cards()
    folder = Path(run_dir).resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if "problem" in torch_view:
        notes.append(torch_view["problem"])
    ram = memory()
    return {
        "platform": {
            "system": platform.system(),
            "release": platform.release(),
            "python": platform.python_version(),
            "places": places(),
            "torch": {key: torch_view.get(key) for key in ("version", "cuda", "hip", "mps")},
        },
        "cpu": {
            "model": cpu_model(),
            "physical_cores": psutil.cpu_count(logical=False),
            "logical_cores": psutil.cpu_count(),
            "limit": cgroup_cores(),
            "usable_cores": usable_cores(),
            "fp32_flops": torch_view.get("fp32_flops"),
            "threads_set": os.environ.get("OMP_NUM_THREADS"),
        },
        "memory_bytes": ram,
        "disk_bytes": {"path": str(existing), "free": shutil.disk_usage(existing).free},
        "gpus": _joined(cards, torch_view, ram["total"], notes),
        "notes": notes,
    }


def _joined(cards: list[dict], torch_view: dict[str, Any], ram: int, notes: list[str]) -> list[dict[str, Any]]:
    """The driver's cards with torch's view of the same card beside them (by name), and what only torch sees."""
    seen = list(torch_view.get("devices", []))
    if cards and not seen and "problem" not in torch_view:
        why = "is a build for CPUs only" if not torch_view.get("cuda") else "sees no card"
        notes.append(
            f"there is an NVIDIA card, but torch {torch_view.get('version')} {why}: "
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"
        )
    joined = []
    for card in cards:
        match = next((d for d in seen if d["name"] == card["name"]), None)
        if match:
            seen.remove(match)
        joined.append(_card(card, match, "cuda"))
    blank = {"memory_total": None, "memory_free": None, "held_by": [], "compute_capability": None, "notes": []}
    joined += [_card(blank | {"name": d["name"], "laptop": "laptop" in d["name"].lower()}, d, "cuda") for d in seen]
    if torch_view.get("mps"):
        apple = blank | {"name": cpu_model() or "Apple GPU", "laptop": False, "memory_total": ram}
        apple["notes"] = ["its memory is the machine's, shared with everything else"]
        joined.append(_card(apple, {"kernel": torch_view.get("mps_kernel"), "bf16": "emulated"}, "mps"))
    return joined


def _card(card: dict[str, Any], torch_card: dict[str, Any] | None, device: str) -> dict[str, Any]:
    own = {"kernel": "torch does not see this card", "bf16": None, "code": None} if torch_card is None else torch_card
    for key in ("memory_total", "memory_free", "compute_capability"):
        card[key] = card[key] if card[key] is not None else own.get(key)
    return card | {
        "device": device,
        "works": own["kernel"] is None,  # a kernel ran; is_available() alone is not enough
        "problem": own["kernel"],
        "code": own.get("code"),
        "bf16": own.get("bf16"),
    }

"""Stand-ins for what this machine lacks, at the lowest boundary: the driver's library, torch itself, files of Linux."""

import sys
import textwrap
import types
from pathlib import Path

TORCH = """
    import contextlib, types
    __version__ = "{version}"
    version = types.SimpleNamespace(cuda={cuda!r}, hip=None)
    backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: {mps}))

    class _Tensor:
        def __mul__(self, other): return self
        def __matmul__(self, other): return self
        def sum(self): return self
        def item(self): return 16.0

    def ones(*shape, device="cpu"):
        if device.startswith("cuda") and {kernel!r}:
            raise RuntimeError({kernel!r})
        return _Tensor()

    cuda = types.SimpleNamespace(
        is_available=lambda: {card!r} is not None,
        device_count=lambda: 1,
        get_device_name=lambda number: {card!r},
        get_device_capability=lambda number: {capability},
        get_arch_list=lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"],
        is_bf16_supported=lambda including_emulation=True: including_emulation or {capability} >= (8, 0),
        mem_get_info=lambda number: (15 * 10**9, 16 * 10**9),
    )
"""


def stub_torch(
    folder: Path,
    card: str | None = None,
    capability: tuple[int, int] = (0, 0),
    kernel: str | None = None,
    mps: bool = False,
    version: str = "2.13.0+cu128",
    cuda: str | None = "12.8",
) -> Path:
    """A folder for PYTHONPATH whose `torch` answers the questions of `probe.py` as such a machine would."""
    package = folder / "torch"
    package.mkdir(parents=True)
    text = textwrap.dedent(TORCH).format(
        version=version, cuda=cuda, mps=mps, kernel=kernel, card=card, capability=capability
    )
    (package / "__init__.py").write_text(text)
    return folder


def stub_driver(monkeypatch, name: str | None, silent: tuple[str, ...] = (), found: bool = True) -> None:
    """`pynvml` for one card; questions named in `silent` answer "Not Supported"."""
    driver = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def answer(question: str, value):
        def ask(*_):
            if question in silent:
                raise NVMLError("Not Supported")
            return value

        return ask

    def init() -> None:
        if not found:
            raise NVMLError("NVML Shared Library Not Found")

    driver.NVMLError = NVMLError
    driver.nvmlInit, driver.nvmlShutdown = init, lambda: None
    driver.nvmlDeviceGetCount = lambda: 1
    driver.nvmlDeviceGetHandleByIndex = lambda number: number
    memory = types.SimpleNamespace(total=16 * 10**9, free=15 * 10**9)
    holder = types.SimpleNamespace(pid=2**22 + 1, usedGpuMemory=10**9)
    for question, value in {
        "Name": name,
        "MemoryInfo": memory,
        "CudaComputeCapability": (7, 5),
        "ComputeRunningProcesses": [holder],
        "MigMode": [0, 0],
    }.items():
        setattr(driver, f"nvmlDeviceGet{question}", answer(question, value))
    monkeypatch.setitem(sys.modules, "pynvml", driver)


def stub_linux(folder: Path, files: dict[str, str]) -> Path:
    """A root with these files, such as `sys/fs/cgroup/cpu.max`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder

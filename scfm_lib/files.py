"""Where files lie, and how they are written: whole or not at all, and again where a network drive dropped."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED_MODEL = PROJECT / "data" / "minimal"  # made by `make checkpoint`; a wheel alone has none
RECORDED = PROJECT / "data" / "recorded_scores.json"  # made by benchmarks/quality.py
DRIVE = Path("/content/drive/MyDrive")  # Colab, once Drive is mounted: outlives the session
KAGGLE = Path("/kaggle/working")  # kept with a saved version of a Kaggle notebook


def data_dir() -> Path:
    """`SCFM_DATA_DIR`, else the project's `data/`, else `data/` here (installed without its project)."""
    if os.environ.get("SCFM_DATA_DIR"):
        return Path(os.environ["SCFM_DATA_DIR"])
    return (PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()) / "data"


def work_dir() -> Path:
    """Where runs go: `SCFM_WORK_DIR`, else what outlives the session on Colab and Kaggle, else `runs/`.

    Inside the project that is the project's `runs/`, so that notebooks and commands find each other's; elsewhere
    it is `runs/` here.
    """
    if os.environ.get("SCFM_WORK_DIR"):
        return Path(os.environ["SCFM_WORK_DIR"])
    if os.environ.get("COLAB_RELEASE_TAG") and DRIVE.is_dir():
        return DRIVE / "scfm-runs"
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return KAGGLE / "runs"
    inside = (PROJECT / "pyproject.toml").exists() and Path.cwd().is_relative_to(PROJECT)
    return (PROJECT if inside else Path.cwd()) / "runs"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to, which takes the place of `path` when the block ends without an error.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left, and an older `path` stays as it was.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")  # the same ending: writers look at it
    try:
        try:
            yield temporary
        except RuntimeError as error:  # torch's and HDF5's writers hide why they failed
            if shutil.disk_usage(path.parent).free < 1e6:
                raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
            raise
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else after a power cut the new name could hold an empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill, which is renamed to `path` when the block ends without an error.

    Raises:
        OSError: as `new_file`; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


DROPPED = {errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNABORTED}  # what a lost drive answers
WAITS = (2.0, 10.0, 30.0, 60.0)  # seconds; Colab's Drive usually comes back within a minute


def patiently(write: Callable[[], Result]) -> Result:
    """Calls `write`, again after a while if the drive it writes to has dropped (Google Drive on Colab, network disks).

    Raises:
        OSError: it did not come back, or another reason, such as a full disk.
    """
    for wait in WAITS:
        try:
            return write()
        except OSError as error:
            if error.errno not in DROPPED:
                raise
            time.sleep(wait)
    return write()

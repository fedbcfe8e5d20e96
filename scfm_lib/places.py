"""Where files lie: data sets that were downloaded, and what runs and notebooks write; and waiting for a lost drive."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

PROJECT = Path(__file__).resolve().parent.parent
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

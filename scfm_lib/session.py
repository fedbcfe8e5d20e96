"""Machines that take themselves away: how long a Colab or Kaggle session still lasts."""

import os
import time

import psutil

# Hours a session lasts at most, by the providers' pages (Colab's FAQ, Kaggle's notebook documentation). Neither
# promises them: Colab may end sooner.
HOURS = {"COLAB_RELEASE_TAG": 12.0, "KAGGLE_KERNEL_RUN_TYPE": 12.0}
KAGGLE_TPU_HOURS = 9.0
RESERVE = 600.0  # seconds kept to save, judge and copy


def seconds_left() -> float | None:
    """Seconds until this session is taken away, less a reserve of ten minutes; None on a machine of your own.

    A session begins when the machine's first process does.
    """
    hours = next((HOURS[name] for name in HOURS if os.environ.get(name)), None)
    if hours is None:
        return None
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") and os.environ.get("TPU_WORKER_ID"):
        hours = KAGGLE_TPU_HOURS
    return max(0.0, started() + 3600 * hours - RESERVE - time.time())


def started() -> float:
    """When this machine's first process began, in seconds since 1970."""
    return psutil.Process(1).create_time()

"""When a run stops: its last step, a limit of steps or hours, Ctrl-C, SIGTERM, the end of a Colab or Kaggle session."""

import math
import os
import signal
import threading
import time
from typing import Any, Self

import psutil

from ..errors import InputError

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


class Stop:
    """The stop conditions of a run; inside a `with` block Ctrl-C and SIGTERM are among them.

    A signal ends the run after the current step, with a checkpoint, instead of in the middle of one; a second one ends
    it at once. Outside the main thread Python delivers no signals, so there the other conditions hold alone.

    Args:
        max_steps: stop after this step; a run that is there already takes none.
        max_hours: stop so long after now; on Colab and Kaggle, when unset, before the session ends.

    Raises:
        InputError: a negative limit.
    """

    def __init__(self, max_steps: int | None = None, max_hours: float | None = None):
        for name, limit in (("max-steps", max_steps), ("max-hours", max_hours)):
            if limit is not None and not limit >= 0:
                raise InputError(f"--{name} {limit} is not a number from 0 up; leave it out to train to the end")
        seconds = seconds_left() if max_hours is None else 3600 * max_hours
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds  # by `time.monotonic()`
        self.last_step = math.inf if max_steps is None else max_steps
        self.signal: int | None = None  # the one that came
        self._before: dict[int, Any] = {}

    def now(self, step: int) -> bool:
        """Whether the run ends after this step."""
        return step >= self.last_step or self.signal is not None or time.monotonic() > self.deadline

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

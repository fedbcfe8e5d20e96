"""Ctrl-C and SIGTERM, turned into a wish to stop that the loop can see."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stop(threading.Event):
    """Set when a signal came; `signal` is its number."""

    signal: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM end the run after the current step, with a checkpoint, instead of in the middle of one."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        if stop.is_set():  # a second Ctrl-C means now
            raise KeyboardInterrupt
        stop.signal = number
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

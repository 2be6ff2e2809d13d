"""Ctrl-C between two steps of a race instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def whole_steps() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done; a second one gets through at once.

    A lockstep step that is cut in two leaves some lanes a step ahead of the others. Outside the main thread, where
    Python delivers no signals, this does nothing.

    Example:
        >>> with whole_steps():
        ...     print("done")
        done
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            signal.signal(signal.SIGINT, previous)
            previous(number, frame)
        held.append((number, frame))

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if len(held) == 1:
            previous(*held[0])

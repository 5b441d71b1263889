"""Ctrl-C and SIGTERM end a training after the current step, when everything is whole and can be saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop (Ctrl-C or SIGTERM). Its state is saved; the message tells how to go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Remembers the signal that asked for an end; 0 until then."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self, *, speak: bool) -> Iterator[None]:
        """Inside, the first SIGINT or SIGTERM is only remembered; a second SIGINT raises KeyboardInterrupt at once.

        Signals reach only the main thread, so in any other thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            if speak:
                print("\nStopping after this step and saving. Ctrl-C again: stop at once.", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

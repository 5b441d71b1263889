"""The progress of a training: a bar where there is a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 10.0


class TrainingProgress:
    """Shows loss, speed and the time left. `update` is called after every step."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title = title
        self.quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._start: tuple[float, float] | None = None
        self._last_line = time.monotonic()
        if self._console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(title, total=1.0, text="")

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, done: float, loss: float, tokens_per_second: float, seconds_left: float | None) -> None:
        """`done`: the share of the budget used; `seconds_left`: known for a budget in seconds, else estimated here."""
        if self.quiet:
            return
        now = time.monotonic()
        if seconds_left is None:
            seconds_left = self._estimate(done, now)
        left = "?" if seconds_left is None else clock(seconds_left)
        text = f"step {step:,}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {left} left"
        if self._bar:
            self._bar.update(self._task, completed=done, text=text)
        elif now - self._last_line >= LINE_SECONDS or done >= 1:
            self._last_line = now
            print(f"{self.title}: {done:4.0%}  {text}", file=sys.stderr, flush=True)

    def _estimate(self, done: float, now: float) -> float | None:
        """From the pace since the end of the first step, which compiles and warms caches up and so tells nothing."""
        if self._start is None:
            self._start = (done, now)
            return None
        before, then = self._start
        return (1 - done) * (now - then) / (done - before) if done > before else None

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self.quiet:
            self._console.print(text, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """`seconds` as m:ss or h:mm:ss."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"

"""How often one user may ask."""

from __future__ import annotations

import time

from nanohydra.serve.errors import TooMany


class Rates:
    """A bucket for each user: `per_minute` requests at once, filled again over a minute (0: no limit)."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: dict[int, tuple[float, float]] = {}  # what is left, as of when

    def take(self, user_id: int) -> None:
        """Counts one request. Raises TooMany where the bucket is empty."""
        if not self.per_minute:
            return
        now = time.monotonic()
        left, then = self._buckets.get(user_id, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - then) * self.per_minute / 60)
        if left < 1:
            self._buckets[user_id] = left, now
            wait = (1 - left) * 60 / self.per_minute
            raise TooMany(f"At most {self.per_minute} requests a minute.", code="rate_limit_exceeded", retry_after=wait)
        self._buckets[user_id] = left - 1, now

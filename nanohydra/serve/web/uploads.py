"""Files on their way into a lesson: a browser sends one, and the page that asked for it takes it up."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

KEPT_SECONDS = 900.0


@dataclass(frozen=True)
class Upload:
    """A file as it came."""

    id: str
    name: str
    content: bytes
    came: float = field(default_factory=time.monotonic)


class Uploads:
    """In memory, the newest of each user, for a quarter of an hour."""

    def __init__(self) -> None:
        self._kept: dict[int, Upload] = {}

    def keep(self, user_id: int, name: str, content: bytes) -> Upload:
        """Keeps a file in the place of the user's last one."""
        moment = time.monotonic()
        self._kept = {user: upload for user, upload in self._kept.items() if moment - upload.came < KEPT_SECONDS}
        self._kept[user_id] = Upload(secrets.token_urlsafe(12), name, content)
        return self._kept[user_id]

    def of(self, user_id: int, id: str) -> Upload | None:
        """A user's file, if it is still there."""
        found = self._kept.get(user_id)
        return found if found is not None and found.id == id else None

    def drop(self, user_id: int) -> None:
        """Forgets a user's file."""
        self._kept.pop(user_id, None)

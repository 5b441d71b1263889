"""What lessons are said to be in plain words: states, stages, times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

BADGES = {"published": "badge good", "rejected": "badge bad", "failed": "badge bad"}
STATES = {
    "queued": "waiting",
    "running": "being learned",
    "published": "learned",
    "rejected": "not learned",
    "failed": "failed",
    "cancelled": "cancelled",
    "reverted": "reverted",
}
MEANINGS = {
    "queued": "It waits for the lesson before it. You may close this page.",
    "running": "The model is learning it. You may close this page: it goes on, and the receipt will be here.",
    "published": "The model knows it by heart: it passed its exam.",
    "rejected": "The exam was not passed, so the model was left as it was.",
    "failed": "It could not be learned. The model was left as it was.",
    "cancelled": "Learning was stopped. The model was left as it was.",
    "reverted": "It was taken back: neither the model nor its memory has it any more.",
}
STAGES = (
    ("prepare", "Write exercises and the exam"),
    ("train", "Learn"),
    ("measure", "Take the exam"),
    ("judge", "Decide"),
    ("save", "Save"),
)
OPEN = ("queued", "running")


def stage_of(progress: Mapping[str, Any]) -> int:
    """Which of STAGES it is in; -1 before the first."""
    return next((i for i, (name, _) in enumerate(STAGES) if name == progress.get("stage")), -1)


def duration(seconds: float) -> str:
    """About how long: "40 seconds", "2 minutes"."""
    if seconds < 90:
        return counted(max(1, round(seconds)), "second")
    if seconds < 5400:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def counted(count: int, thing: str) -> str:
    """ "1 fact", "3 facts"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def day(moment: datetime) -> str:
    """A day as people write it: "20 November 2026"."""
    local = moment.astimezone()
    return f"{local.day} {local:%B %Y}"


def minute(moment: datetime) -> str:
    """A moment to the minute, in the server's time zone: "20 November 2026, 14:05"."""
    return f"{day(moment)}, {moment.astimezone():%H:%M}"


def fact_state(fact: Mapping[str, Any], newer: str | None = None) -> tuple[str, str]:
    """A fact's badge and what it says: since when it holds, or until when it held and what holds now (`newer`)."""
    since, until = (
        moment and day(datetime.fromisoformat(moment)) for moment in (fact["valid_from"], fact["valid_until"])
    )
    if fact["forgotten"]:
        return "badge bad", f"forgotten on {until}"
    if until is None:
        return "badge good", f"since {since}"
    held = f"held on {since}" if since == until else f"held from {since} to {until}"
    return "badge", held + (f", then: {newer}" if newer else "")

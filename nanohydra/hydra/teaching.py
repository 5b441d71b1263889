"""From material to a lesson on the queue: what is new in it, what contradicts earlier lessons, what is kept. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nanohydra.errors import UserError
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.history import strike
from nanohydra.hydra.lesson_job import as_fact
from nanohydra.hydra.material import Fact, Known, Material
from nanohydra.hydra.novelty import Novelty, compare
from nanohydra.store import Lesson, Store


@dataclass(frozen=True)
class Found:
    """What was understood, and how it stands to what is known."""

    material: Material
    novelty: Novelty


def look(store: Store, user_id: int, material: Material) -> Found:
    """Compares material with the user's own current facts."""
    return Found(material, compare(material, known_to(store, user_id)))


def known_to(store: Store, user_id: int) -> list[Known]:
    """The current facts of a user's own lessons."""
    mine = {lesson.id for lesson in store.lessons(user_id) if lesson.user_id == user_id}
    return [
        Known(as_fact(fact), str(fact.id), str(fact.lesson_id), fact.valid_from.isoformat(timespec="seconds"))
        for fact in store.facts(user_id)
        if fact.lesson_id in mine
    ]


def add(
    store: Store,
    user_id: int,
    found: Found,
    base: tuple[str, str],
    config: LearnConfig | Mapping[str, Any],
    leave_out: Collection[str] = (),
    key: str | None = None,
    body: Any = None,
) -> tuple[Lesson, bool]:
    """Puts a lesson on the queue; False with the one there was for this key.

    Facts that are known already are left out, and so are those whose keys are in `leave_out`; passages lose what they say of
    the latter. A fact that contradicts an earlier one takes its place. base: its name and id. body: what `key` stands for.
    UserError where nothing is left."""
    material, novelty = found.material, found.novelty
    known, out = {fact.key for fact in novelty.known}, set(leave_out)
    pairs = [*novelty.contradicting, *((fact, old) for fact, old in novelty.unsure if fact.key == old.fact.key)]
    supersedes = {fact.key: int(old.id) for fact, old in pairs}
    facts = [fact for fact in material.facts if fact.key not in known | out]
    dropped = [fact for fact in material.facts if fact.key in out]
    passages = [{**p.to_data(), "text": _without(p.text, p.number, dropped)} for p in material.passages]
    if not facts and dropped:
        raise UserError(
            "Nothing of it is left to teach: what is not known already was left out, as unsure or by choice."
        )
    if not facts and known:
        raise UserError("Everything in it is known already, so there is no lesson to make of it.")
    rows = [{**f.to_data(), "key": f.key, "supersedes": supersedes.get(f.key)} for f in facts]
    settings = config if isinstance(config, Mapping) else plain_settings(config)
    data = {"facts": rows, "passages": passages}
    return store.add_lesson(user_id, material.name, base[1], base[0], data, settings, key, body=body)


def plain_settings(config: LearnConfig) -> dict[str, Any]:
    """Those of a lesson that differ from the defaults, as plain data: later versions may have better defaults."""
    return _different(config, LearnConfig())


def _different(value: Any, usual: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in value.__dataclass_fields__:
        ours, theirs = getattr(value, name), getattr(usual, name)
        if ours == theirs:
            continue
        found[name] = _different(ours, theirs) if hasattr(ours, "__dataclass_fields__") else ours
    return found


def _without(text: str, number: int, dropped: list[Fact]) -> str:
    for fact in dropped:
        if fact.passage == number:
            text = strike(text, fact.subject, fact.value)
    return text

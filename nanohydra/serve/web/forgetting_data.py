"""What receipts tell together: recall of every lesson after every later one, drift, wrong routes. No page, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanohydra.serve.web.charts import Series
from nanohydra.store import Lesson


@dataclass(frozen=True)
class Stage:
    """The state after one lesson was published."""

    lesson: Lesson
    recall: tuple[float | None, ...]
    """Of each taught lesson, in the order of the columns; None where it was not measured, or not taught yet."""


@dataclass(frozen=True)
class Forgetting:
    """The R matrix of what is served now: a row after each published lesson, a column for each lesson with facts."""

    columns: tuple[Lesson, ...]
    stages: tuple[Stage, ...]

    @property
    def forgotten(self) -> float | None:
        """The mean, over lessons with a later measure, of the best recall minus the last one; None without any."""
        falls = []
        for series in self.series():
            if len(series.points) > 1:
                values = [y for _, y in series.points]
                falls.append(max(values[:-1]) - values[-1])
        return sum(falls) / len(falls) / 100 if falls else None

    @property
    def last(self) -> float | None:
        """The mean of each lesson's latest recall."""
        values = [series.points[-1][1] for series in self.series() if series.points]
        return sum(values) / len(values) / 100 if values else None

    def series(self) -> list[Series]:
        """Recall of each lesson in percent, over the number of published lessons."""
        found = []
        for i, lesson in enumerate(self.columns):
            points = [(n, 100 * r) for n, stage in enumerate(self.stages, 1) if (r := stage.recall[i]) is not None]
            found.append(Series(lesson.name, points, i))
        return found

    def measured(self, name: str, ways: Sequence[tuple[str, str]]) -> list[Series]:
        """A measure of each receipt in percent over the lessons: one line for each of `ways` (key, title)."""
        found = []
        for i, (way, title) in enumerate(ways):
            points = []
            for n, stage in enumerate(self.stages, 1):
                value = estimate(stage.lesson.receipt, name, way)
                if value is not None:
                    points.append((n, 100 * value))
            found.append(Series(title, points, i))
        return found


def estimate(receipt: Mapping[str, Any] | None, name: str, way: str) -> float | None:
    """One measured value of a receipt."""
    found = ((receipt or {}).get("measures", {}).get(name) or {}).get(way)
    return None if found is None else found["value"]


def forgetting_of(lessons: Sequence[Lesson], base_id: str | None = None) -> Forgetting:
    """From the lessons that somebody may see: those of the base (None: of any) that are published, in the order in which
    they were."""
    served = [lesson for lesson in lessons if lesson.state == "published" and lesson.receipt]
    served = [lesson for lesson in served if base_id in (None, lesson.base_id)]
    served.sort(key=lambda lesson: (lesson.finished or lesson.created, lesson.id))
    columns = [lesson for lesson in served if lesson.kind == "lesson"]
    stages = []
    for lesson in served:
        receipt = lesson.receipt or {}
        known = {str(result["lesson"]): result["recall"]["value"] for result in receipt["earlier"]}
        own = estimate(receipt, "recall", "routed") if lesson.kind == "lesson" else None
        known[str(lesson.id)] = own
        stages.append(Stage(lesson, tuple(known.get(str(column.id)) for column in columns)))
    return Forgetting(tuple(columns), tuple(stages))

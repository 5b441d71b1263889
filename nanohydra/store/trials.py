"""Trials: two adapters compared on what people think of their answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from nanohydra.errors import UserError
from nanohydra.store.accounts import find_user, visible
from nanohydra.store.database import Database, NotFound, one_at_a_time
from nanohydra.store.history import write_line
from nanohydra.store.lesson_models import Trial, Vote
from nanohydra.store.models import Adapter, clean, now

ARMS = ("a", "b")
LENGTH = 255


class Trials(Database):
    """A trial is its user's. A unit (a conversation, an answer) has one arm and one vote, the last."""

    def add_trial(self, user_id: int, name: str, a: str | None, b: str | None) -> Trial:
        """Begins a trial of two adapters that the user may name (None: the base). NotFound; UserError for a taken name."""
        if a == b:
            raise UserError("A trial compares two adapters. Name another one.")
        if not 0 < len(name) <= LENGTH:
            raise UserError(f"A trial's name has 1 to {LENGTH} characters.")
        trial = Trial(user_id=user_id, name=name, a=a, b=b)
        try:
            with self._writing() as session:
                one_at_a_time(session)
                find_user(session, user_id)
                for adapter in (a, b):
                    found = session.scalar(select(Adapter).where(Adapter.name == adapter, visible(user_id)))
                    if adapter is not None and found is None:
                        raise NotFound(f"There is no adapter {adapter!r}.")
                session.add(trial)
                session.flush()
                write_line(session, user_id, "trial", None, {"trial": trial.id, "name": name, "a": a, "b": b})
        except IntegrityError as e:
            raise UserError(f"You have a trial {name!r} already. Choose another name.") from e
        return trial

    def trials(self, user_id: int) -> list[Trial]:
        """A user's trials, newest first."""
        with self._reading() as session:
            return list(session.scalars(select(Trial).where(Trial.user_id == user_id).order_by(Trial.id.desc())))

    def vote(self, trial_id: int, unit: str, arm: str, score: float) -> None:
        """Keeps what was thought of a unit, in place of an earlier vote. NotFound; UserError where the trial has ended."""
        if arm not in ARMS:
            raise UserError(f"There is no arm {arm!r}: a or b.")
        if not 0 < len(unit) <= LENGTH or not math.isfinite(score):
            raise UserError(f"A vote has a unit of 1 to {LENGTH} characters and a finite score.")
        with self._writing() as session:
            one_at_a_time(session)
            trial = session.get(Trial, trial_id)
            if trial is None:
                raise NotFound(f"There is no trial {trial_id}.")
            if trial.ended is not None:
                raise UserError(f"The trial {trial.name!r} has ended.")
            session.merge(Vote(trial_id=trial_id, unit=clean(unit), arm=arm, score=score, at=now()))

    def votes(self, trial_id: int, user_id: int) -> list[Vote]:
        """The votes of a user's trial, oldest first. NotFound."""
        with self._reading() as session:
            if session.scalar(select(Trial.id).where(Trial.id == trial_id, Trial.user_id == user_id)) is None:
                raise NotFound(f"There is no trial {trial_id}.")
            return list(session.scalars(select(Vote).where(Vote.trial_id == trial_id).order_by(Vote.at, Vote.unit)))

    def end_trial(self, trial_id: int, user_id: int, verdict: Mapping[str, Any]) -> Trial:
        """Ends a trial with what it showed (plain data). NotFound. Ending it twice keeps the first verdict."""
        with self._writing() as session:
            one_at_a_time(session)
            query = select(Trial).where(Trial.id == trial_id, Trial.user_id == user_id)
            trial = session.scalar(query.with_for_update())
            if trial is None:
                raise NotFound(f"There is no trial {trial_id}.")
            if trial.ended is None:
                trial.ended, trial.verdict = now(), dict(verdict)
                detail = {"trial": trial_id, "name": trial.name, "verdict": dict(verdict)}
                write_line(session, user_id, "trial ended", None, detail)
        return trial

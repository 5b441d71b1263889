"""Trials: two adapters compared on what people think of their answers, each conversation always with the same one."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from nanohydra.hydra import history
from nanohydra.hydra.trials import arm_of, verdict
from nanohydra.serve.api.answers import Json
from nanohydra.serve.api.caller import MayChat, MayTeach, Works
from nanohydra.serve.api.learn_schemas import TrialBody, VoteBody
from nanohydra.store import NotFound, Principal, Store, Trial

router = APIRouter()


@router.get("/trials")
async def trials(works: Works, user: MayTeach) -> Response:
    """The caller's trials with their verdicts as of now, newest first."""
    return Json({"trials": await asyncio.to_thread(_all, works.store, user)})


@router.post("/trials", status_code=201)
async def begin(body: TrialBody, works: Works, user: MayTeach) -> Response:
    """Begins a trial. From now on, a conversation of the caller's that one of the two would answer meets one of them, by
    chance and for good."""
    trial = await asyncio.to_thread(works.store.add_trial, user.user_id, body.name, body.a, body.b)
    return Json(await asyncio.to_thread(_told, works.store, trial, user), 201)


@router.post("/trials/{trial_id}/vote")
async def vote(trial_id: int, body: VoteBody, works: Works, user: MayChat) -> Response:
    """What was thought of a conversation, in place of an earlier vote. Which adapter it met is known here."""
    trial = await asyncio.to_thread(_mine, works.store, trial_id, user)
    arm = arm_of(trial.id, user.user_id, body.conversation)
    await asyncio.to_thread(works.store.vote, trial.id, body.conversation, arm, body.score)
    return Json(await asyncio.to_thread(_told, works.store, trial, user))


@router.post("/trials/{trial_id}/end")
async def end(trial_id: int, works: Works, user: MayTeach) -> Response:
    """Ends a trial with its verdict."""
    trial = await asyncio.to_thread(_mine, works.store, trial_id, user)
    found = verdict(await asyncio.to_thread(works.store.votes, trial_id, user.user_id))
    trial = await asyncio.to_thread(works.store.end_trial, trial.id, user.user_id, found)
    return Json(await asyncio.to_thread(_told, works.store, trial, user))


def _all(store: Store, user: Principal) -> list[dict[str, Any]]:
    return [_told(store, trial, user) for trial in store.trials(user.user_id)]


def _mine(store: Store, trial_id: int, user: Principal) -> Trial:
    found = next((trial for trial in store.trials(user.user_id) if trial.id == trial_id), None)
    if found is None:
        raise NotFound(f"There is no trial {trial_id}.")
    return found


def _told(store: Store, trial: Trial, user: Principal) -> dict[str, Any]:
    about = {name: getattr(trial, name) for name in ("id", "name", "a", "b")}
    moments = {name: history.moment(getattr(trial, name)) for name in ("created", "ended")}
    return {**about, **moments, "verdict": trial.verdict or verdict(store.votes(trial.id, user.user_id))}

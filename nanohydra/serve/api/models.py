"""What can be named as `model`: GET /v1/models, and the adapters of vLLM's and our own endpoints."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from nanohydra.errors import did_you_mean
from nanohydra.serve.api.answers import Json
from nanohydra.serve.api.caller import MayChat, MayTeach, Works
from nanohydra.serve.api.schemas import LoadBody, SwitchBody, UnloadBody
from nanohydra.serve.errors import Missing, Unavailable
from nanohydra.serve.services import Services
from nanohydra.store import Principal

router = APIRouter()


@router.get("/v1/models")
async def models(works: Works, user: MayChat) -> Response:
    """The base and the adapters that the caller may name."""
    return Json({"object": "list", "data": await _models(works, user)})


@router.get("/v1/models/{name}")
async def model(name: str, works: Works, user: MayChat) -> Response:
    """One of them."""
    known = {entry["id"]: entry for entry in await _models(works, user)}
    if name not in known:
        raise Missing(f'There is no model "{name}".{did_you_mean(name, known)}', code="model_not_found", param="model")
    return Json(known[name])


async def _models(works: Services, user: Principal) -> list[dict[str, Any]]:
    base = works.engine.base
    if base is None:
        raise Unavailable(works.engine.error or "The base is being loaded.")
    about = {"object": "model", "owned_by": "nanohydra", "max_model_len": base.max_seq_len}
    entries = [{"id": base.name, "created": works.engine.since, **about, "root": base.base_id, "parent": None}]
    for adapter in await works.adapters.visible(user):
        created = int(adapter.created.timestamp())
        entries.append(
            {"id": adapter.name, "created": created, **about, "root": adapter.content_id, "parent": base.name}
        )
    return entries


@router.get("/adapters")
async def adapters(works: Works, user: MayChat) -> Response:
    """The adapters that the caller may name, and which one is their default."""
    entries = [
        {
            "name": adapter.name,
            "id": adapter.content_id,
            "base": adapter.base,
            "mine": adapter.owner == user.user_id,
            "loaded": adapter.name in works.engine.adapters,
            "default": adapter.name == user.default_adapter,
        }
        for adapter in await works.adapters.visible(user)
    ]
    return Json({"adapters": entries, "default": user.default_adapter})


@router.post("/switch_adapter")
async def switch_adapter(body: SwitchBody, works: Works, user: MayChat) -> Response:
    """Sets the adapter of the caller's requests that name the base or nothing; nobody else's."""
    await asyncio.to_thread(works.store.set_default_adapter, user.user_id, body.adapter)
    return Json({"default": body.adapter})


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(body: LoadBody, works: Works, user: MayTeach) -> Response:
    """Loads a PEFT folder of the server's disk under a name, as the caller's own."""
    await works.adapters.load(body.lora_name, body.lora_path, user, replace=body.load_inplace)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(body: UnloadBody, works: Works, user: MayTeach) -> Response:
    """Takes a name away; the folder stays."""
    await works.adapters.unload(body.lora_name, user)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

"""Adapters as callers know them: by name, their own and everybody's; attached to the engine when first asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from nanohydra.errors import did_you_mean
from nanohydra.home import home
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError, Forbidden, Missing, Unavailable
from nanohydra.serve.protocol import Ready
from nanohydra.store import Adapter, Principal, Store

MOST_ATTACHED = 64
"""Adapters that the engine keeps in memory; what was used longest ago goes, and is attached again when it is asked for."""
DEFAULT = ("", "default")
"""Model names that mean the base with the caller's default adapter, as the base's own name does."""


def adapters_dir() -> Path:
    """Adapters that anybody who may teach may load from."""
    return home() / "adapters"


class Shelf:
    """The adapters of one base."""

    def __init__(self, engine: EngineClient, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._loading: dict[str, asyncio.Lock] = {}
        self._used: dict[str, None] = {}

    async def visible(self, user: Principal) -> list[Adapter]:
        """Those of this base that a user may name."""
        base = self._base().base_id
        return [a for a in await asyncio.to_thread(self._store.adapters, user.user_id) if a.base == base]

    async def resolve(self, model: str, user: Principal) -> str | None:
        """The adapter that a model's name means; None: the base. Raises Missing for a name of nothing."""
        names = [adapter.name for adapter in await self.visible(user)]
        base = self._base().name
        if model in (*DEFAULT, base):
            return user.default_adapter if user.default_adapter in names else None
        if model not in names:
            near = did_you_mean(model, [base, *names])
            raise Missing(f'There is no model "{model}".{near}', code="model_not_found", param="model")
        return model

    def named(self, model: str) -> bool:
        """Whether a model's name is an adapter's, not the base's or the default's."""
        return model not in (*DEFAULT, self._base().name)

    async def attach(self, name: str, user: Principal) -> None:
        """Makes sure that the engine has an adapter. Raises Missing where the user sees none of the name."""
        folder = next((Path(a.folder) for a in await self.visible(user) if a.name == name), None)
        if folder is None:
            raise Missing(f'There is no adapter "{name}" (any more).', code="model_not_found", param="model")
        async with self._loading.setdefault(name, asyncio.Lock()):
            if self._engine.adapters.get(name) != folder:
                await self._engine.load_adapter(name, folder)
        self._used[name] = self._used.pop(name, None)  # the last one is the newest
        for old in list(self._used)[:-MOST_ATTACHED]:
            del self._used[old]
            if old in self._engine.adapters:
                await self._engine.unload_adapter(old)

    async def load(self, name: str, folder: str, user: Principal, replace: bool = False) -> Adapter:
        """Checks, attaches and registers an adapter folder as the user's. UserError, or ApiError."""
        base = self._base()
        reserved = name in (*DEFAULT, base.name) or re.fullmatch(r"lesson-\d+", name)
        if reserved or not re.fullmatch(r"\w[\w.-]{0,63}", name, re.ASCII):
            raise ApiError(
                f'"{name}" cannot name an adapter: use letters, digits, ".", "-" and "_".', param="lora_name"
            )
        path = _folder(folder, user)
        if not replace and name in [adapter.name for adapter in await self.visible(user)]:
            raise ApiError(f'There is an adapter "{name}" already: unload it first.', param="lora_name")
        # Looked at under another name first: the one asked for may be somebody else's, whose requests must not notice.
        trial = f"{name}:{self._engine.new_id()}"
        content_id = await self._engine.load_adapter(trial, path)
        try:
            added = await asyncio.to_thread(
                self._store.register_adapter, name, path, base.base_id, content_id, user.user_id
            )
            await self._engine.load_adapter(name, path)
        finally:
            await self._engine.unload_adapter(trial)
        return added

    async def unload(self, name: str, user: Principal) -> None:
        """Takes a name of the user's own away (an admin's: any that they see). Raises Missing."""
        mine: Sequence[Adapter] = await self.visible(user)
        found = next((adapter for adapter in mine if adapter.name == name), None)
        if found is None:
            raise Missing(
                f'There is no adapter "{name}".{did_you_mean(name, [a.name for a in mine])}', param="lora_name"
            )
        if found.owner != user.user_id and "admin" not in user.scopes:
            raise Forbidden(f'The adapter "{name}" is everybody\'s: only an admin can unload it.')
        await asyncio.to_thread(self._store.remove_adapter, name)
        if name in self._engine.adapters:
            await self._engine.unload_adapter(name)

    def _base(self) -> Ready:
        if self._engine.base is None:
            raise Unavailable(self._engine.error or "The base is being loaded.")
        return self._engine.base


def _folder(folder: str, user: Principal) -> Path:
    """The folder that a request names; only an admin may have the server read anywhere on its disk."""
    if "\0" in folder:
        raise ApiError("A folder's name holds no NUL.", param="lora_path")
    try:
        path = Path(folder).expanduser()
    except RuntimeError as e:  # ~somebody, who has no home here
        raise ApiError(f'"{folder}" names a home that does not exist: give the whole path.', param="lora_path") from e
    path = (path if path.is_absolute() else adapters_dir() / path).resolve()
    if "admin" not in user.scopes and not path.is_relative_to(adapters_dir().resolve()):
        raise Forbidden(f"Only an admin can load an adapter from outside {adapters_dir()}.", param="lora_path")
    return path

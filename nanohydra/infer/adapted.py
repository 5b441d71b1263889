"""The adapters of a batch's requests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from nanohydra.adapt.attach import Adapters
from nanohydra.errors import UserError


class Adapted:
    """What an engine needs of the adapters attached to its model (None: it has none)."""

    def __init__(self, adapters: Adapters | None) -> None:
        self.adapters = adapters

    def salt(self, adapter: str | None, owner: str | None = None) -> bytes | None:
        """What keys and values of a request depend on beside its ids: the content hashes of base and adapters; and `owner`,
        where only that one's requests may share them. None where there is no such hash, as of an adapter in training. Raises
        UserError for an unknown adapter."""
        adapters = self.adapters
        base = (adapters.base if adapters is not None else None) or "base"
        if adapter is None:
            return _joined([base], owner)
        if adapters is None or adapter not in adapters.names:
            known = ", ".join(adapters.names) if adapters is not None else ""
            raise UserError(
                f'No adapter "{adapter}" is loaded. ' + (f"Loaded: {known}." if known else "Load it first.")
            )
        ids = [adapters[name].id for name in adapters.resolve(adapter)]
        return None if None in ids else _joined([base, *map(str, ids)], owner)

    def rows(self, rows: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within: row i of the batch uses the adapter rows[i]."""
        return nullcontext() if self.adapters is None else self.adapters.rows(rows)

    def head_rows(self, rows: Sequence[str | None]) -> AbstractContextManager[None]:
        """The same for computing the head alone, of other rows: most adapters leave it as it is, which costs nothing."""
        adapters = self.adapters
        if adapters is None or not any("lm_head" in adapters[name].layers for name in adapters.names):
            return nullcontext()
        return adapters.rows(rows)


def _joined(ids: Sequence[str], owner: str | None) -> bytes:
    return "\0".join([" ".join(ids), *([] if owner is None else [owner])]).encode()

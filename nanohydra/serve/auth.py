"""Who asks: by a bearer token, or as the local user on loopback."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from hashlib import sha256

from nanohydra.serve.config import ServeConfig
from nanohydra.store import Principal, Store

PROXY_HEADERS = frozenset(
    ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "cf-connecting-ip")
)
"""Any of these says that somebody else asks, through a proxy on this machine."""


class Auth:
    """Tells the caller of a request. Synchronous, as the store is: call it from a thread pool."""

    def __init__(self, config: ServeConfig, store: Store) -> None:
        self._open = config.open
        self._store = store
        self._token = None if config.token is None else sha256(config.token.encode()).digest()

    def principal(self, headers: Mapping[str, str], client: str | None) -> Principal | None:
        """Who sends a request with these headers (names in lower case) from this address; None: nobody known.

        On loopback any key that is none of ours is as good as none, since OpenAI's clients insist on sending one.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if token:
            known = self.token(token)
            if known is not None or token.startswith("nh_"):
                return known
        proxied = any(name in headers for name in PROXY_HEADERS)
        return self._store.local_user() if self._open and not proxied and _on_loopback(client) else None

    def token(self, token: str) -> Principal | None:
        """Whose token this is."""
        if self._token is not None and hmac.compare_digest(self._token, sha256(token.encode()).digest()):
            return self._store.local_user()
        return self._store.authenticate(token)


def _on_loopback(client: str | None) -> bool:
    try:
        return ipaddress.ip_address(client or "").is_loopback
    except ValueError:
        return False

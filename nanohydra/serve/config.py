"""How the server is set up: settings only, no torch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig


@dataclass(frozen=True)
class ServeConfig:
    """What is served, to whom, and within which bounds."""

    base: str = "demo"
    """A name under the bases folder, or a model folder."""
    host: str = "127.0.0.1"
    """The address to listen on. On loopback the local user needs no token; anywhere else everybody does."""
    port: int = 8000
    """The port to listen on (0: a free one)."""
    token: str | None = None
    """A token with all rights, asked for on loopback too (none: only the database's tokens count). Better given as
    NANOHYDRA_TOKEN in the environment: everybody on the machine can read a command line."""
    database: str | None = None
    """The database's URL (none: SQLite in the home folder)."""
    int8: bool = False
    """int8 weights: less memory, faster on a CPU, at a small cost in quality."""
    draft: str | None = None
    """A smaller base of the same tokenizer that guesses ahead: answers stay the same and come sooner where it is often right."""
    engine: EngineConfig = field(
        default_factory=lambda: EngineConfig(max_slots=10, kv_tokens=16384, prefix_tokens=8192)
    )
    """How the engine uses memory and time; the defaults are for ten people, 1.1 GB with SmolLM2-135M."""
    temperature: float = 1.0
    """Of requests that leave it open, unless the base's generation_config.json has one."""
    max_tokens: int = 1024
    """Most tokens of an answer whose request leaves it open."""
    max_waiting: int = 256
    """Requests that may wait or run; further ones are turned away with 429."""
    max_open_per_user: int = 16
    """Answers to one user, and their batches of embeddings, that may wait or run; further ones are turned away with 429."""
    requests_per_minute: int = 0
    """Requests that one user may make in a minute (0: any number)."""
    max_body_bytes: int = 4 * 2**20
    """Largest body of a request."""
    max_choices: int = 16
    """Largest number of answers (n x prompts) of one request."""
    ping_seconds: float = 15.0
    """A stream that is silent for this long gets a comment, so that nothing between closes it."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages elsewhere that may call the API, such as https://example.org."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which a proxy reaches the server. With any, everybody needs a token."""
    teach: bool = True
    """Whether lessons are taken: they are answered from at once, and made into adapters meanwhile."""
    teach_worker: bool = True
    """Whether this server keeps the process that makes lessons (no: run `python -m nanohydra.hydra.worker` beside it)."""
    teach_threads: int = 0
    """Threads that training may use (0: as many as there are processors)."""
    teach_hour: int | None = 3
    """Hour of the day (local time) at which lessons are consolidated and their facts asked again (none: never by itself)."""
    teach_max_open: int = 16
    """Lessons of one user that may wait or be made; further ones are turned away with 429."""
    teach_max_characters: int = 400_000
    """Longest text of one lesson, after a file has been read."""
    teach_max_facts: int = 400
    """Most facts of one lesson."""
    memory: bool = True
    """Whether answers use what was taught, where a request does not say. A request can always turn it off."""
    web: bool = True
    """Whether the web app is offered (needs nicegui)."""

    def __post_init__(self) -> None:
        bounds = {
            "port": (0 <= self.port < 65536, "between 0 and 65535"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "max_waiting": (self.max_waiting >= 1, "at least 1"),
            "max_open_per_user": (
                self.max_open_per_user >= self.max_choices,
                f"at least max_choices, {self.max_choices}",
            ),
            "requests_per_minute": (self.requests_per_minute >= 0, "0 or more"),
            "max_body_bytes": (self.max_body_bytes >= 1024, "at least 1024"),
            "max_choices": (self.max_choices >= 1, "at least 1"),
            "teach_threads": (self.teach_threads >= 0, "0 or more"),
            "teach_hour": (self.teach_hour is None or 0 <= self.teach_hour < 24, "between 0 and 23"),
            "teach_max_open": (self.teach_max_open >= 1, "at least 1"),
            "teach_max_characters": (self.teach_max_characters >= 100, "at least 100"),
            "teach_max_facts": (self.teach_max_facts >= 1, "at least 1"),
            "ping_seconds": (self.ping_seconds > 0, "above 0"),
        }
        for name, (good, rule) in bounds.items():
            if not good:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {rule}.")
        if self.token is not None and len(self.token) < 16:
            raise UserError("A token has at least 16 characters, lest it be guessed: try `openssl rand -hex 24`.")
        for origin in self.cors_origins:
            if origin == "*" or "://" not in origin or origin.endswith("/"):
                raise UserError(f'"{origin}" is no origin: write https://example.org, one for each page.')

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def open(self) -> bool:
        """Whether the local user needs no token."""
        return self.loopback and self.token is None and not self.allowed_hosts

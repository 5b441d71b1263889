"""What the API's process and the engine's process say to each other: one JSON object a line, over two pipes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from nanohydra.data.chat import Part
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.infer.streaming import FinishReason, Logprob, Timing

FailureKind = Literal["invalid", "engine", "unavailable"]


@dataclass(frozen=True)
class Usage:
    """What one request cost."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that did not have to be read again."""


# -- to the engine ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """The first line: what to load."""

    base: str
    int8: bool
    engine: EngineConfig
    draft: str | None = None
    """A smaller base of the same tokenizer, which guesses ahead."""


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt to continue. Its events carry the same id."""

    id: str
    prompt: list[int]
    params: SamplingParams
    adapter: str | None = None
    owner: str | None = None
    """Whose requests alone share its beginning in the prefix cache."""


@dataclass(frozen=True)
class Abort:
    """Take a request back; no event of it follows, except those under way."""

    id: str


@dataclass(frozen=True)
class LoadAdapter:
    """Attach an adapter folder under a name, in place of what had the name. Answered by Reply or Failed."""

    id: str
    name: str
    folder: str


@dataclass(frozen=True)
class UnloadAdapter:
    """Detach an adapter; requests that use it end first. Answered by Reply or Failed."""

    id: str
    name: str


@dataclass(frozen=True)
class EmbedRequest:
    """Embed prompts. Answered by Reply(vectors) or Failed."""

    id: str
    prompts: list[list[int]]
    adapter: str | None = None


@dataclass(frozen=True)
class EmbedTexts:
    """Vectors of texts for retrieval (agent.embedding), not of the base. Answered by Reply(vectors), or by Failed where the
    embedder is not installed; the first one waits until it is loaded."""

    id: str
    texts: list[str]


@dataclass(frozen=True)
class StatsRequest:
    """Answered by Reply with the engine's numbers."""

    id: str


# -- from the engine --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The base is loaded."""

    name: str
    folder: str
    """Where the base lies: its tokenizer is read from there."""
    base_id: str
    """The base's content hash."""
    max_seq_len: int
    """Most tokens of prompt and answer together."""
    hidden_size: int
    """Length of an embedding."""
    parameters: int
    sampling: dict[str, Any] = field(default_factory=dict)
    """How its makers draw answers: temperature, top_p, top_k, min_p, repetition_penalty where they say so."""


@dataclass(frozen=True)
class Token:
    """What is new in an answer: see infer.streaming.Delta."""

    id: str
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob | None] = field(default_factory=list)
    part: Part | None = None


@dataclass(frozen=True)
class Finished:
    """The end of an answer."""

    id: str
    reason: FinishReason
    usage: Usage
    timing: Timing


@dataclass(frozen=True)
class Failed:
    """The end of a request that has no answer. invalid: the request is at fault; engine: it broke down;
    unavailable: try again."""

    id: str
    kind: FailureKind
    message: str


@dataclass(frozen=True)
class Reply:
    """The answer to anything but a prompt."""

    id: str
    value: dict[str, Any]


Command = GenerateRequest | Abort | LoadAdapter | UnloadAdapter | EmbedRequest | EmbedTexts | StatsRequest
Event = Token | Finished | Failed
Message = Start | Command | Event | Ready | Reply


def encode(message: Message) -> bytes:
    """One line, with its line break; line breaks inside strings are escaped by JSON."""
    return json.dumps({"type": type(message).__name__, **vars(message)}, default=asdict).encode() + b"\n"


def decode(line: bytes) -> Any:
    """The message of a line. Raises ValueError where it is none."""
    try:
        values = json.loads(line)
        kind = _TYPES[values.pop("type")]
        for name, read in _NESTED.items():
            if values.get(name) is not None and name in kind.__dataclass_fields__:
                values[name] = read(values[name])
        return kind(**values)
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"not a message: {e}") from e


def _params(values: dict[str, Any]) -> SamplingParams:
    return SamplingParams(**values | {"stop": tuple(values["stop"])})


def _logprob(values: dict[str, Any] | None) -> Logprob | None:
    if values is None:
        return None
    return Logprob(values["id"], values["logprob"], tuple((id, p) for id, p in values["top"]))


_TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}
_NESTED: dict[str, Any] = {
    "params": _params,
    "engine": lambda values: EngineConfig(**values),
    "logprobs": lambda values: [_logprob(value) for value in values],
    "usage": lambda values: Usage(**values),
    "timing": lambda values: Timing(**values),
}

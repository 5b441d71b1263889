"""Bodies of requests about lessons. Unlike OpenAI's, fields that are not known are refused: nobody else sends these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from nanohydra.serve.api.schemas import Body
from nanohydra.serve.errors import ApiError

Short = Annotated[str, Field(min_length=1, max_length=4000)]


class Strict(Body):
    """What these bodies share."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")


class PairBody(Strict):
    """A question and its answer."""

    question: Short
    answer: Short


class TurnBody(Strict):
    """A turn of a conversation to learn from."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = Field(max_length=100_000)


class LearnBody(Strict):
    """POST /learn: text, pairs, a conversation, or a form with a `file`; at least one of them."""

    text: str | None = None
    pairs: list[PairBody] = Field(default_factory=list, max_length=2000)
    messages: list[TurnBody] = Field(default_factory=list, max_length=4096)
    name: str = Field("", max_length=200)
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of the lesson (hydra.config.LearnConfig), such as {"seconds": 60}."""
    replace: bool = True
    """Whether a fact that contradicts an earlier lesson takes its place; if not, such facts are left out and told."""
    unsure: bool = False
    """Whether to teach facts that may be known already in other words; they are told in any case."""


class RevertBody(Strict):
    """POST /revert."""

    lesson: int


class ForgetBody(Strict):
    """POST /forget: facts by their numbers, or all whose subject is `about`."""

    facts: list[int] = Field(default_factory=list, max_length=1000)
    about: str = Field("", max_length=1000)
    reason: str = Field("", max_length=1000)


class AgainBody(Strict):
    """POST /lessons/{id}/again."""

    seconds: float | None = Field(None, gt=0, le=3600)


class ShareBody(Strict):
    """POST /lessons/{id}/share."""

    shared: bool = True


class TrialBody(Strict):
    """POST /trials: two adapters by name; null is the base."""

    name: str = Field(min_length=1, max_length=200)
    a: str | None
    b: str | None


class VoteBody(Strict):
    """POST /trials/{id}/vote: what somebody thought of a conversation's answers, 0 (bad) to 1 (good)."""

    conversation: str = Field(min_length=1, max_length=200)
    score: float = Field(ge=0, le=1)


def invalid(error: ValidationError) -> ApiError:
    """What is wrong with a body, without repeating it."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ApiError(f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None)

"""Bodies of requests, as OpenAI and vLLM name their fields. Fields that are not known are let pass, as clients send many."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nanohydra.infer.config import SamplingParams
from nanohydra.serve.errors import ApiError

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=2**20)]


class Body(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(allow_inf_nan=False)


class StreamOptions(Body):
    """include_usage: a last chunk tells what the answer cost."""

    include_usage: bool = False


class Sampling(Body):
    """How answers are drawn. `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are vLLM's additions."""

    model: str = Field("", max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False

    @property
    def choices(self) -> int:
        """How many answers."""
        return self.n or 1

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def params(
        self,
        defaults: SamplingParams,
        choice: int,
        max_tokens: int | None,
        logprobs: int | None = None,
        json_schema: str | None = None,
    ) -> SamplingParams:
        """The settings of one choice: each has the seed after the one before it. Raises ApiError, UserError.

        defaults: what to take where the request leaves it open.
        """
        for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, name):
                raise ApiError(f"{name} is not offered here: use repetition_penalty, or leave it out.", param=name)
        given: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k if self.top_k is None else max(0, self.top_k),
            "top_p": self.top_p if self.top_p is None else max(1e-6, self.top_p),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        return replace(
            defaults,
            **{name: value for name, value in given.items() if value is not None},
            seed=None if self.seed is None else self.seed + choice,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            json_schema=json_schema,
        )


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """What an assistant called; `arguments` is JSON text."""

    name: str = Field(max_length=128)
    arguments: str = "{}"


class ToolCallBody(Body):
    """A call in an earlier turn."""

    id: str = Field("", max_length=128)
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageBody(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None


class FunctionBody(Body):
    """A function that the caller offers; `parameters` is a JSON Schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(Body):
    """A tool."""

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchemaBody(Body):
    """A named JSON Schema."""

    name: str = "answer"
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None


class MemoryBody(Body):
    """Our own addition to a chat: what of the caller's lessons may answer, and what names the conversation in trials."""

    memory: Literal["on", "off", "weights", "retrieval"] = "on"
    conversation: str | None = Field(default=None, min_length=1, max_length=200)


class ChatBody(Sampling):
    """POST /v1/chat/completions."""

    messages: list[MessageBody] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[ToolBody] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    nanohydra: MemoryBody = MemoryBody()


class CompletionBody(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | Ids | list[Ids]
    max_tokens: int | None = Field(16, ge=1, lt=2**31)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=128)


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str = Field("", max_length=256)
    input: str | list[str] | Ids | list[Ids]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


class TokenizeBody(Body):
    """POST /tokenize: a text, or a conversation by the chat template."""

    model: str = Field("", max_length=256)
    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, min_length=1, max_length=4096)
    tools: list[ToolBody] | None = Field(None, max_length=128)
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str = Field("", max_length=256)
    tokens: Ids


class LoadBody(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadBody(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: str


class SwitchBody(Body):
    """POST /switch_adapter: null goes back to the base."""

    adapter: str | None

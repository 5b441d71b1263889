"""How text is generated: settings only, no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass

from nanohydra.errors import UserError

FORM_CHARACTERS = 64 * 1024
"""Longest form of an answer."""


@dataclass(frozen=True)
class SamplingParams:
    """How one request is continued. The defaults are greedy decoding."""

    max_tokens: int = 256
    """Most tokens to write."""
    temperature: float = 0.0
    """Divides the logits: 0 takes the most likely token, 1 samples the model's own distribution."""
    top_k: int = 0
    """Keep only the k most likely tokens (0: all)."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probabilities sum to at least this."""
    min_p: float = 0.0
    """Drop tokens less likely than this times the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1, tokens already in the text become less likely (CTRL, Keskar et al. 2019)."""
    seed: int | None = None
    """The same seed gives the same text, whatever else is in the batch (none: drawn anew for each request)."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    ignore_eos: bool = False
    """Go on to max_tokens even where the model ends its turn (for benchmarks)."""
    logprobs: int | None = None
    """Tell the log-probability of each token and of this many most likely ones, before temperature (none: do not)."""
    json_schema: str | None = None
    """The answer is JSON that this JSON Schema accepts (needs llguidance)."""
    grammar: str | None = None
    """The answer is of this grammar, in the notation of the Lark parser (needs llguidance)."""
    regex: str | None = None
    """The whole answer matches this regular expression (needs llguidance)."""

    def __post_init__(self) -> None:
        bounds = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "between 0.01 and 100"),
            "logprobs": (self.logprobs is None or 0 <= self.logprobs <= 20, "between 0 and 20"),
        }
        for name, (good, rule) in bounds.items():
            if not good:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {rule}.")
        if "" in self.stop:
            raise UserError("A stop string is empty: leave it out.")
        if sum(form is not None for form in (self.json_schema, self.grammar, self.regex)) > 1:
            raise UserError("An answer has one form: give json_schema, grammar or regex, not several.")
        if self.form is not None:
            _check_form(*self.form)

    @property
    def greedy(self) -> bool:
        """True where no chance is involved: below this, float32 would turn the logits to infinities."""
        return self.temperature < 1e-4

    @property
    def form(self) -> tuple[str, str] | None:
        """The answer's form: the name of its field, and what it is (none: the answer is free)."""
        forms = {"json_schema": self.json_schema, "grammar": self.grammar, "regex": self.regex}
        return next(((name, form) for name, form in forms.items() if form is not None), None)


def _check_form(name: str, form: str) -> None:
    if len(form) > FORM_CHARACTERS:
        raise UserError(f"{name} has {len(form)} characters, and at most {FORM_CHARACTERS} are taken: simplify it.")
    if name != "json_schema":
        return
    try:
        schema = json.loads(form)
    except ValueError as e:
        raise UserError(f"json_schema is not valid JSON ({e}): give a JSON Schema as text.") from e
    except RecursionError as e:
        raise UserError("json_schema is nested too deeply: simplify it.") from e
    if not isinstance(schema, dict | bool):
        raise UserError('json_schema must be a JSON object, such as {"type": "object"}.')


@dataclass(frozen=True)
class EngineConfig:
    """How an engine uses memory and time."""

    max_slots: int = 8
    """Requests that run at once; others wait."""
    max_seq_len: int = 4096
    """Most tokens of prompt and answer together (the model's context where that is shorter)."""
    prefill_tokens: int = 512
    """Most prompt tokens (padding included) that are read between two decode steps."""
    kv_tokens: int | None = None
    """Memory of running requests in tokens, shared by all; the newest request waits again where it runs out (none: enough
    for every slot at its longest)."""
    prefix_tokens: int = 0
    """Memory, in tokens, for beginnings of prompts that have been read already, to be used again (0: none)."""
    speculate: int = 0
    """Most tokens to guess ahead and check in one step (0: none); answers stay what they are."""
    speculate_slots: int = 4
    """Guess only while at most this many requests write, as checking costs more than it gains in a full batch."""
    cuda_graphs: bool = False
    """On a GPU, record decode steps and replay them: for weights that never change."""

    def __post_init__(self) -> None:
        least = {
            "max_slots": 1,
            "max_seq_len": 2,
            "prefill_tokens": 1,
            "kv_tokens": 2,
            "prefix_tokens": 0,
            "speculate": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name} is {value}: it must be at least {bound}.")

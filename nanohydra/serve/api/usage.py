"""What the answers to one request cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanohydra.serve.protocol import Usage


class Bill:
    """Adds up a request's answers, and notes the sum for the log. A prompt counts once, however many answers it has."""

    def __init__(self, facts: dict[str, Any], adapter: str | None) -> None:
        self._facts = facts
        self._prompts: dict[int, Usage] = {}
        self._written = 0
        facts["adapter"] = adapter

    def add(self, prompt: int, usage: Usage, reason: str) -> None:
        """One answer to the prompt of a number."""
        self._prompts.setdefault(prompt, usage)
        self._written += usage.completion_tokens
        self._facts["finish_reason"] = reason
        self._facts |= {k: v for k, v in self.usage().items() if isinstance(v, int)}

    def note(self, memory: Mapping[str, Any]) -> None:
        """Where an answer comes from, for the log: how, and which adapter."""
        self._facts |= {"adapter": memory["adapter"], "memory": memory.get("mode")}

    def usage(self) -> dict[str, Any]:
        """As OpenAI tells it."""
        read = sum(usage.prompt_tokens for usage in self._prompts.values())
        cached = sum(usage.cached_tokens for usage in self._prompts.values())
        return {
            "prompt_tokens": read,
            "completion_tokens": self._written,
            "total_tokens": read + self._written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

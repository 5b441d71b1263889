"""How text is generated: settings only, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nanohydra.errors import UserError


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

    def __post_init__(self) -> None:
        bounds = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0"),
        }
        for name, (good, rule) in bounds.items():
            if not good:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {rule}.")
        if "" in self.stop:
            raise UserError("A stop string is empty: leave it out.")

    @property
    def greedy(self) -> bool:
        """True where no chance is involved."""
        return self.temperature == 0

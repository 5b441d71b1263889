"""What an adapter is told: method, rank, place. No torch here: the command line reads this to print its help."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from nanohydra.errors import UserError

ALL_LINEAR = "all-linear"

T = TypeVar("T")


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter. The defaults put LoRA on every linear layer of the blocks, as PEFT's `all-linear` does."""

    method: Literal["lora", "loha", "lokr"] = "lora"
    """lora: B A (Hu et al., arXiv 2106.09685). loha: (B1 A1) * (B2 A2), elementwise (arXiv 2108.06098). lokr: a
    Kronecker product (arXiv 2309.14859)."""

    rank: int = 16
    """Rank r of the update."""

    alpha: float = 32.0
    """The update is scaled by alpha / r."""

    rslora: bool = False
    """lora: scale by alpha / sqrt(r) instead, which keeps high ranks learning (arXiv 2312.03732)."""

    dora: bool = False
    """lora: learn the length of each output's weight vector apart from its direction (arXiv 2402.09353)."""

    dropout: float = 0.0
    """lora: share of the inputs dropped on the way into the update, in training."""

    target_modules: str | tuple[str, ...] = ALL_LINEAR
    """The linear layers to adapt: all-linear (every one but the head), names such as q_proj (the last part of a path,
    or all of it), or one regular expression for the whole path."""

    exclude_modules: tuple[str, ...] = ()
    """Names to leave out, matched as in target_modules."""

    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0. null: all."""

    top_layers: int | None = None
    """Only this many of the last layers: what lies below is neither stored for nor visited by the backward pass."""

    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks by regular expression, matched against the end of a module's path; the first match counts."""

    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other alphas, likewise."""

    decompose_factor: int = -1
    """lokr: size of the first Kronecker factor's sides. -1: as near the square root as divisors allow."""

    decompose_both: bool = False
    """lokr: write the first Kronecker factor as a low-rank product too."""

    def __post_init__(self) -> None:
        if self.method not in ("lora", "loha", "lokr"):
            raise UserError(f'adapter.method "{self.method}" is unknown: choose lora, loha or lokr.')
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise UserError(f"adapter.rank is {rank}: it must be at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"adapter.dropout is {self.dropout}: it must be at least 0 and below 1.")
        if self.method != "lora" and (self.rslora or self.dora or self.dropout):
            raise UserError("adapter.rslora, adapter.dora and adapter.dropout belong to the method lora.")
        if self.layers is not None and self.top_layers is not None:
            raise UserError("Give adapter.layers or adapter.top_layers, not both.")
        if self.top_layers is not None and self.top_layers < 1:
            raise UserError(f"adapter.top_layers is {self.top_layers}: it must be at least 1.")
        patterns = [*self.rank_pattern, *self.alpha_pattern]
        if isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            patterns.append(self.target_modules)
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as e:
                raise UserError(f'adapter: "{pattern}" is not a regular expression: {e}.') from e

    def rank_of(self, path: str) -> int:
        """The rank r at a module path."""
        return _first_match(self.rank_pattern, path, self.rank)

    def scale_of(self, path: str) -> float:
        """What the update at a module path is multiplied by."""
        alpha, rank = _first_match(self.alpha_pattern, path, self.alpha), self.rank_of(path)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def select(self, linears: Iterable[str], heads: Iterable[str] = ("lm_head",)) -> list[str]:
        """The paths to adapt among the model's linear layers, in order. `heads` are those that all-linear leaves out.

        Raises UserError where nothing matches.
        """
        linears, heads = list(linears), set(heads)
        if self.target_modules == ALL_LINEAR:
            chosen = [path for path in linears if path not in heads]
        elif isinstance(self.target_modules, str):
            chosen = [path for path in linears if re.fullmatch(self.target_modules, path)]
        else:
            chosen = [path for path in linears if _named(path, self.target_modules)]
        chosen = [path for path in chosen if not _named(path, self.exclude_modules)]
        wanted = self.layers
        if self.top_layers is not None:
            count = 1 + max((layer for path in linears if (layer := layer_of(path)) is not None), default=-1)
            wanted = tuple(range(max(0, count - self.top_layers), count))
        if wanted is not None:
            chosen = [path for path in chosen if layer_of(path) in wanted]
        if not chosen:
            names = sorted({path.rsplit(".", 1)[-1] for path in linears})
            where = "" if wanted is None else f" in layers {', '.join(map(str, wanted))}"
            raise UserError(f"adapter: no linear layer{where} matches the targets. Known names: {', '.join(names)}.")
        return chosen


def layer_of(path: str) -> int | None:
    """The layer number in a module path: the first part that is a number (model.layers.3.mlp.up_proj: 3)."""
    return next((int(part) for part in path.split(".") if part.isdecimal()), None)


def _named(path: str, names: Iterable[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _first_match(patterns: Mapping[str, T], path: str, default: T) -> T:
    # The rule of PEFT's rank_pattern: the expression matches the end of the path, from the start of one of its parts.
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)

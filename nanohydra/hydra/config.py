"""What teaching is told: how a lesson is trained, measured and judged. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nanohydra.errors import UserError
from nanohydra.strict import build


@dataclass(frozen=True)
class Gate:
    """What a lesson must reach to be published. `routed` is what the user meets: the router decides who answers."""

    recall: float = 0.9
    """Least share of right answers to the set-aside wordings, routed."""

    general: float = 0.98
    """Least share kept of the general questions that the base answers rightly, routed."""

    false_attributions: float = 0.05
    """Largest share of near-miss and unseen names that are given a taught value, routed."""

    drift_forced: float = 0.05
    """The rise of perplexity on a general text must stay below this with the adapter forced on (0.05 is 5%)."""

    drift_routed: float = 0.005
    """Largest rise of perplexity on a general text, routed."""

    def __post_init__(self) -> None:
        for name in ("recall", "general", "false_attributions"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"gate.{name} is a share between 0 and 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Measuring:
    """How much is measured: more takes longer and gives narrower intervals."""

    wordings: int = 4
    """Questions asked about each fact, in wordings set aside before training."""

    questions: int = 160
    """Most questions about all facts together: a lesson of many facts has fewer wordings of each."""

    strangers: int = 100
    """Near-miss and unseen names that are asked about."""

    general: int = 200
    """General questions that the base answers rightly, asked again."""

    text_tokens: int = 4096
    """Tokens of general text that perplexity is measured on."""

    earlier: int = 40
    """Facts of all earlier lessons together that are asked again, in one wording each."""

    max_tokens: int = 24
    """Longest answer that is read."""

    general_tokens: int = 14
    """The same for general questions, which the base answers within so many."""

    def __post_init__(self) -> None:
        for name in (
            "wordings",
            "questions",
            "strangers",
            "general",
            "text_tokens",
            "earlier",
            "max_tokens",
            "general_tokens",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"measure.{name} must be at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class LessonTraining:
    """How one adapter is trained on the frozen base. None: the default for a base of this size (docs/log.md)."""

    rank: int = 16
    """Rank of the LoRA update."""

    alpha: float = 32.0
    """The update is scaled by alpha / rank."""

    top_share: float | None = None
    """The adapter is on this share of the layers, the last ones; what lies below is computed once for each row."""

    lr: float | None = None
    """Peak learning rate."""

    steps: int | None = None
    """Optimizer steps, at most: the budget of seconds may end training before, with the cooldown finished."""

    batch_size: int | None = None
    """Rows a step."""

    row_tokens: int = 256
    """Tokens in a row."""

    wordings: int | None = None
    """Training chats of each fact, in different wordings."""

    frames: int | None = None
    """Further training chats of each fact, with its question in other frames."""

    replay_share: float | None = None
    """Share of the rows that are the base's own samples."""

    contrast: float | None = None
    """Chats about strangers (near-miss and unseen names), for each chat about a fact."""

    kl_weight: float | None = None
    """Weight of KL(base || adapter) on replayed rows."""

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("rank", "row_tokens", "wordings"):
            if given.get(name, 1) < 1:
                raise UserError(f"train.{name} must be at least 1, not {given[name]}.")
        for name in ("lr", "steps", "batch_size"):
            if not given.get(name, 1) > 0:
                raise UserError(f"train.{name} must be above 0, not {given[name]}.")
        for name in ("frames", "contrast", "kl_weight"):
            if given.get(name, 0) < 0:
                raise UserError(f"train.{name} must not be negative, but is {given[name]}.")
        if not 0 <= given.get("replay_share", 0) < 1:
            raise UserError(f"train.replay_share must be at least 0 and below 1, not {self.replay_share}.")
        if not 0 < given.get("top_share", 1) <= 1:
            raise UserError(f"train.top_share must be above 0 and at most 1, not {self.top_share}.")


@dataclass(frozen=True)
class LearnConfig:
    """Everything about one lesson but the lesson itself."""

    seed: int = 0
    """Seed of wordings, strangers, weights and order."""

    seconds: float = 120.0
    """Time for the whole lesson: data, training, measuring and gate. Training ends early where it must."""

    train: LessonTraining = field(default_factory=LessonTraining)
    """How the adapter is trained."""

    measure: Measuring = field(default_factory=Measuring)
    """What is measured."""

    gate: Gate = field(default_factory=Gate)
    """What must be reached."""

    retries: int = 1
    """How often training goes on with other settings where the gate says no and there is time."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"seconds must be above 0, not {self.seconds}.")

    @staticmethod
    def read(values: Mapping[str, Any]) -> LearnConfig:
        """From nested data, strictly: UserError for what is unknown or wrong."""
        return build(LearnConfig, values, what="The lesson's settings")


@dataclass(frozen=True)
class Progress:
    """What a lesson tells while it is made."""

    stage: Literal["prepare", "train", "measure", "judge", "save"]
    """What it is doing."""
    step: int
    """How far within the stage."""
    of: int
    """The stage's end."""
    seconds_left: float
    """Of the lesson's budget."""
    detail: str = ""
    """A few words for a person, such as the loss."""

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))

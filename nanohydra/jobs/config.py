"""A recipe: all that a training needs to be repeated, as one YAML file. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.presets import preset
from nanohydra.strict import build
from nanohydra.train.config import TrainConfig


@dataclass(frozen=True)
class ModelSection:
    """Which model: a named shape with changes, or an existing base."""

    preset: str = "demo"
    """A named shape, from tiny-0.5m to 1b."""

    config: dict[str, Any] = field(default_factory=dict)
    """Settings of ModelConfig that differ from the preset, such as {positions: alibi, hidden_size: 256}."""

    base: str | None = None
    """Go on from this base (a name under the bases folder, or a model folder) instead of new weights."""

    def shape(self, **overrides: Any) -> ModelConfig:
        """The architecture: the preset, then `overrides` (vocabulary, context), then this section's own settings."""
        return preset(self.preset, **{**overrides, **self.config})


@dataclass(frozen=True)
class DataSection:
    """What it learns from."""

    corpus: str = "tinyworld"
    """tinyworld, a corpus by its name on the hub, or a local file, folder or pattern (txt, jsonl, parquet, csv)."""

    split: str = "train"
    """The split to train on."""

    text_field: str | None = None
    """Which field of a row is the text (default: found by itself)."""

    validation: str | None = None
    """The split to validate on. None: the last `validation_share` of the text, never trained on."""

    validation_share: float = 0.1
    """How much of the text, at its end, is held out where there is no validation split."""

    tokenizer: str = "bpe"
    """bpe (trained on the text), characters, or a folder or base whose tokenizer is used."""

    vocab_size: int = 2048
    """Size of a trained tokenizer."""

    seq_len: int = 256
    """Tokens of a training row."""

    sampling: Literal["epochs", "random"] = "epochs"
    """epochs: every token once an epoch, in a new order each time. random: windows that start anywhere."""

    max_megabytes: float | None = None
    """Use at most this much text. None: all."""

    world_tokens: int = 2_000_000
    """tinyworld: about how many tokens of text are generated, the validation share included."""

    separate_documents: bool = False
    """Whether a token sees only its own document, and positions restart with each (in tinyworld it always does)."""

    tinyworld: TinyworldConfig = field(default_factory=TinyworldConfig)
    """The generated world, for corpus: tinyworld."""


@dataclass(frozen=True)
class EvalSection:
    """What is measured when the training is done."""

    exam: int = 0
    """Questions of each kind of the tinyworld exam. 0: no exam."""

    validation_rows: int = 0
    """Rows of the validation text scored while training goes on. 0: all of it."""


@dataclass(frozen=True)
class WatchSection:
    """How closely the training is watched. Neither changes what is learned."""

    diagnostics: int = 0
    """Look at activations, gradients, updates, attention and logits every so many steps, with warnings. 0: never."""

    profile: bool = False
    """Profile three steps: a chrome trace and a table of where the time goes, in the run's folder `profile`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training from its first byte to its last number."""

    train: TrainConfig
    """How it is trained."""

    name: str = "run"
    """What the run is called."""

    seed: int = 0
    """Seed of the world, the initial weights, the order of the data and dropout."""

    model: ModelSection = field(default_factory=ModelSection)
    """Which model."""

    data: DataSection = field(default_factory=DataSection)
    """What it learns from."""

    sft: TrainConfig | None = None
    """tinyworld: a short fine-tuning on its conversations afterwards, with the loss on the answers alone. None: none."""

    sft_tokens: int = 300_000
    """tinyworld: about how many tokens of new conversations the fine-tuning has."""

    eval: EvalSection = field(default_factory=EvalSection)
    """What is measured at the end."""

    watch: WatchSection = field(default_factory=WatchSection)
    """How closely the training is watched."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, as in the YAML file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from nested data. Raises UserError for an unknown key, with the nearest known one."""
        return build(cls, values, see="nanohydra train --help for what it means")


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """A fine-tuning of a base on conversations."""

    train: TrainConfig
    """How it is trained."""

    base: str
    """The base to start from: a name under the bases folder, or a model folder."""

    data: str
    """Conversations: a corpus by its name, or a local file (jsonl, json, csv, parquet)."""

    split: str = "train"
    """The split to train on."""

    seq_len: int = 512
    """Tokens of a training row; whole conversations are packed into rows."""

    validation_share: float = 0.05
    """How many of the conversations, at the end, are held out to measure val_loss."""

    name: str = "sft"
    """What the run is called."""

    seed: int = 0
    """Seed of the order of the data and of dropout."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, as in the YAML file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SftRecipe:
        """Builds a recipe from nested data. Raises UserError for an unknown key, with the nearest known one."""
        return build(cls, values, see="nanohydra train --help for what it means")


@dataclass(frozen=True)
class EvalOptions:
    """What is measured."""

    base: str = "demo"
    """The base: a name under the bases folder, or a model folder."""

    corpus: str | None = None
    """Text for perplexity and bits per byte: a corpus by its name, or a local file."""

    split: str = "test"
    """The split of the corpus."""

    text_field: str | None = None
    """Which field of a row is the text (default: found by itself)."""

    seq_len: int = 512
    """Tokens of context a window; windows do not overlap."""

    max_tokens: int = 200_000
    """Score about this many tokens at most."""

    exam: int = 0
    """Questions of each kind of the tinyworld exam. 0: no exam."""

    seed: int = 0
    """The seed of the world that the base was trained on (its run's recipe)."""

    people: int = 100
    """How many people that world has."""

    int8: bool = False
    """Measure the model with int8 weights."""

    out: str | None = None
    """A folder for report.json and report.md (default: only print)."""


def read_recipe(path: Path) -> dict[str, Any]:
    """The nested data of a YAML recipe. Raises UserError when it is missing or not a mapping."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"There is no recipe {path}. Name a YAML file, such as recipes/shakespeare_char.yaml.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold settings (name: value), not {type(values).__name__}.")
    return values


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets `values["a"]["b"]` for key "a.b", making the levels between."""
    *path, last = key.split(".")
    for name in path:
        below = values.setdefault(name, {})
        if not isinstance(below, dict):
            raise UserError(f"{key}: {name} is a value, not a group of settings.")
        values = below
    values[last] = value


AnyRecipe = TypeVar("AnyRecipe", Recipe, SftRecipe)

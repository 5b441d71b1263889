"""The architecture of a model as one frozen dataclass. Field names are those of a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nanohydra.errors import UserError, did_you_mean

Norm = Literal["rmsnorm", "layernorm"]
NormPosition = Literal["pre", "post"]
Positions = Literal["rope", "learned", "sinusoidal", "alibi", "none"]
MLPKind = Literal["swiglu", "gelu", "relu2"]
LayerType = Literal["full_attention", "sliding_attention"]
Init = Literal["normal", "xavier", "kaiming", "depth_scaled", "zero_output"]

CHOICES: dict[str, tuple[str, ...]] = {
    "norm": get_args(Norm),
    "norm_position": get_args(NormPosition),
    "positions": get_args(Positions),
    "mlp": get_args(MLPKind),
    "init": get_args(Init),
}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of the rotary frequencies to a longer context (`"rope_type": "llama3"` in a config.json)."""

    factor: float = 8.0
    """How many times the slow frequencies are slowed down."""
    low_freq_factor: float = 1.0
    """Wavelengths above original_max_position_embeddings / low_freq_factor are slowed by the whole factor."""
    high_freq_factor: float = 4.0
    """Wavelengths below original_max_position_embeddings / high_freq_factor stay as they are."""
    original_max_position_embeddings: int = 8192
    """The context the model was first trained with, in tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the options of a decoder-only transformer. The default is the Llama/Qwen3 block.

    Sizes given as 0 (and empty `layer_types`) are derived when the config is made, so reading a field always gives
    the value in force. Therefore vary the settings that a config is made from (`presets.preset(name, **settings)`)
    rather than a made config, whose derived values would stay. Impossible values raise UserError.
    """

    vocab_size: int = 4096
    """Number of token ids."""
    hidden_size: int = 256
    """Width D of the residual stream."""
    intermediate_size: int = 0
    """Width of the MLP's hidden layer. 0: 8/3 D (swiglu) or 4 D (others), which have equally many parameters."""
    num_hidden_layers: int = 4
    """Number of blocks."""
    num_attention_heads: int = 4
    """Number of query heads."""
    num_key_value_heads: int = 0
    """Number of key/value heads: 1 is multi-query, fewer than query heads grouped-query. 0: one for each query head."""
    head_dim: int = 0
    """Width of one head. 0: hidden_size / num_attention_heads."""
    max_position_embeddings: int = 1024
    """The longest sequence, in tokens."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """Stretch of the rotary wavelengths to a longer context, as in Llama 3. None: no stretch."""
    rms_norm_eps: float = 1e-6
    """Added to the variance in every norm (of either kind)."""
    tie_word_embeddings: bool = True
    """Whether the head's weights are the token embedding's."""
    norm: Norm = "rmsnorm"
    """The norm: rmsnorm (scale only) or layernorm (centre, scale and shift)."""
    norm_position: NormPosition = "pre"
    """pre: x + f(norm(x)), with a last norm before the head. post: norm(x + f(x)), as in the 2017 transformer."""
    qk_norm: bool = True
    """Whether queries and keys are RMS-normalised per head before they meet (Qwen3)."""
    positions: Positions = "rope"
    """How the model knows positions: rope, learned, sinusoidal, alibi or none."""
    mlp: MLPKind = "swiglu"
    """The MLP: swiglu (gated), gelu (tanh form) or relu2 (squared ReLU)."""
    sliding_window: int | None = None
    """How many tokens, itself included, a token sees in a sliding_attention layer. None: no such layers."""
    layer_types: tuple[LayerType, ...] = ()
    """full_attention or sliding_attention for each layer; a shorter pattern repeats. Empty: all sliding when
    sliding_window is set, else all full."""
    attention_bias: bool = False
    """Whether the attention's four projections have biases."""
    mlp_bias: bool = False
    """Whether the MLP's projections have biases."""
    dropout: float = 0.0
    """Share of the embedding's and of each block branch's outputs dropped in training (attention weights are kept)."""
    logit_softcap: float | None = None
    """c: logits become c tanh(logits / c) (Gemma 2). None: no cap."""
    init: Init = "depth_scaled"
    """Initialisation: normal, xavier, kaiming, depth_scaled (residual outputs smaller with depth) or zero_output."""
    initializer_range: float = 0.02
    """Standard deviation of the normal initialisation (and of the embeddings in every initialisation)."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f'{name} "{getattr(self, name)}" is unknown.{did_you_mean(str(getattr(self, name)), choices)}'
                )
        self._derive()
        self._check_attention()
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout}: it must be at least 0 and below 1.")
        for name in ("rope_theta", "rms_norm_eps", "initializer_range", "logit_softcap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}: it must be above 0.")

    def _derive(self) -> None:
        derived: dict[str, Any] = {"layer_types": tuple(self.layer_types)}
        if self.num_key_value_heads == 0:
            derived["num_key_value_heads"] = self.num_attention_heads
        if self.head_dim == 0:
            if self.hidden_size % self.num_attention_heads:
                raise UserError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}: change one of them or set head_dim."
                )
            derived["head_dim"] = self.hidden_size // self.num_attention_heads
        if self.intermediate_size == 0:
            # A gated MLP has three matrices, the others two: 3 x 8/3 = 2 x 4. Multiples of 32 suit the matrix units.
            width = 8 * self.hidden_size / 3 if self.mlp == "swiglu" else 4 * self.hidden_size
            derived["intermediate_size"] = max(32, round(width / 32) * 32)
        pattern = self.layer_types or ("full_attention" if self.sliding_window is None else "sliding_attention",)
        if len(pattern) > self.num_hidden_layers:
            raise UserError(f"layer_types names {len(pattern)} layers, num_hidden_layers is {self.num_hidden_layers}.")
        derived["layer_types"] = tuple(pattern[i % len(pattern)] for i in range(self.num_hidden_layers))
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _check_attention(self) -> None:
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}: each key/value head serves equally many query heads."
            )
        if self.head_dim < 1 or self.intermediate_size < 1:
            raise UserError("head_dim and intermediate_size must be at least 1 (or 0 to derive them).")
        if self.positions == "rope" and self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}: rope rotates pairs, so it must be even.")
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise UserError(
                f"hidden_size is {self.hidden_size}: sinusoidal positions come in pairs, so it must be even."
            )
        for kind in self.layer_types:
            if kind not in get_args(LayerType):
                raise UserError(f'layer_types: "{kind}" is unknown.{did_you_mean(str(kind), get_args(LayerType))}')
        if self.sliding_window is not None and self.sliding_window < 1:
            raise UserError(f"sliding_window is {self.sliding_window}: it must be at least 1 (or null for none).")
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise UserError("layer_types has sliding_attention layers: set sliding_window (in tokens).")
        if "sliding_attention" not in self.layer_types and self.sliding_window is not None:
            raise UserError(
                "sliding_window is set, but layer_types has no sliding_attention layer: name some, or none."
            )

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    def window(self, layer: int) -> int | None:
        """How many tokens a token sees in this layer, itself included; None: all before it."""
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else None

    def _matrices(self) -> int:
        """Weights of one block's matrix products, biases not counted."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        return attention + (3 if self.mlp == "swiglu" else 2) * self.hidden_size * self.intermediate_size

    def parameters(self) -> int:
        """The exact number of parameters of `Transformer(self)`; tied weights count once."""
        d, f = self.hidden_size, self.intermediate_size
        norm = d if self.norm == "rmsnorm" else 2 * d
        block = self._matrices() + 2 * norm
        if self.qk_norm:
            block += 2 * self.head_dim
        if self.attention_bias:
            block += self.query_size + 2 * self.key_value_size + d
        if self.mlp_bias:
            block += (2 * f if self.mlp == "swiglu" else f) + d
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        if self.positions == "learned":
            embeddings += self.max_position_embeddings * d
        return self.num_hidden_layers * block + embeddings + (norm if self.norm_position == "pre" else 0)

    def flops_per_token(self, seq_len: int) -> int:
        """Training FLOPs (forward and backward) a token of a sequence of `seq_len` tokens costs.

        6 N + sum over layers of 12 H Q S (PaLM, arXiv 2204.02311, appendix B), where N counts the weights of all matrix
        products (blocks and head, not the embedding look-up), H Q is heads x head width and S is seq_len or the
        layer's window, whichever is smaller. As is usual, the causal half that kernels skip is counted. A forward
        pass alone costs a third.
        """
        weights = self.num_hidden_layers * self._matrices() + self.vocab_size * self.hidden_size
        seen = sum(min(seq_len, self.window(i) or seq_len) for i in range(self.num_hidden_layers))
        return 6 * weights + 12 * self.query_size * seen

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config of `to_dict`. Raises UserError on an unknown key, with the nearest known one."""
        values = _known(dict(values), cls)
        if isinstance(scaling := values.get("rope_scaling"), Mapping):
            values["rope_scaling"] = RopeScaling(**_known(dict(scaling), RopeScaling))
        if "layer_types" in values:
            values["layer_types"] = tuple(values["layer_types"] or ())
        return cls(**values)


def _known(values: dict[str, Any], cls: type) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(f'Unknown model setting "{key}".{did_you_mean(key, names)}')
    return values

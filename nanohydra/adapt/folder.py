"""Adapter folders: PEFT's two files, which PEFT, vLLM and others read, and our sidecar.

    adapter_config.json           PEFT's config
    adapter_model.safetensors     base_model.model.<module path>.lora_A.weight, ...
    nanohydra.json                base hash, adapters below, lessons, receipt

An adapter's id is the SHA-256 of its first two files, so it names the weights, whatever is measured of them later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from nanohydra.adapt.adapter import Adapter, Metadata
from nanohydra.adapt.config import ALL_LINEAR, AdapterConfig, layer_of
from nanohydra.adapt.methods import AdapterLayer, make_layer
from nanohydra.errors import UserError
from nanohydra.files import atomic_folder, write_json

CONFIG, WEIGHTS, SIDECAR = "adapter_config.json", "adapter_model.safetensors", "nanohydra.json"
PREFIX = "base_model.model."
SUFFIXED = ("lora_A", "lora_B")
"""Tensors that are modules' weights in PEFT, so that `.weight` follows their name in the file."""

UNSUPPORTED = (
    *(
        "modules_to_save",
        "fan_in_fan_out",
        "lora_bias",
        "use_qalora",
        "alora_invocation_tokens",
        "trainable_token_indices",
    ),
    *(
        "target_parameters",
        "layer_replication",
        "use_bdlora",
        "arrow_config",
        "megatron_config",
        "use_effective_conv2d",
    ),
)
"""Settings of PEFT that change the result and that we do not have: a file that uses one is refused."""


def save_adapter(adapter: Adapter, folder: Path) -> str:
    """Writes the folder whole or not at all and returns its id, which the adapter has from then on."""
    config = json.dumps(_peft_config(adapter), indent=2, sort_keys=True).encode() + b"\n"
    tensors = {
        PREFIX + path + "." + (f"{name}.weight" if name in SUFFIXED else name): tensor.detach().cpu().contiguous()
        for path, layer in adapter.layers.items()
        for name, tensor in layer.named_parameters()
    }
    # Through Python's own file, not the library's: so a full disk is an OSError, which `atomic_folder` explains.
    weights = save(tensors, metadata={"format": "pt"})
    with atomic_folder(folder) as temporary:
        (temporary / CONFIG).write_bytes(config)
        (temporary / WEIGHTS).write_bytes(weights)
        write_sidecar(temporary, adapter.metadata)
    adapter.id = _id(config, weights)
    return adapter.id


def load_adapter(folder: Path) -> Adapter:
    """The adapter of a PEFT folder, frozen, on the CPU, in the file's types; its id is that of the very bytes read.

    Raises UserError on a missing or damaged file and on settings that we do not have.
    """
    if not folder.is_dir():
        raise UserError(f"There is no adapter folder {folder}.")
    config_bytes, weights = _read(folder / CONFIG), _read(folder / WEIGHTS)
    config = _our_config(_json(folder / CONFIG, config_bytes), folder)
    try:
        tensors = load(weights)
    except (SafetensorError, ValueError, KeyError) as e:
        raise UserError(f"{folder / WEIGHTS} is cut short or damaged: copy the adapter again.") from e
    by_path: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, name = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        by_path.setdefault(path, {})[name] = tensor
    if not by_path:
        raise UserError(f"{folder / WEIGHTS} holds no adapter: its tensors are missing.")
    paths = sorted(by_path, key=lambda path: (layer_of(path) or 0, path))
    layers = {path: _layer(config, path, by_path[path], folder) for path in paths}
    adapter = Adapter(config, layers, read_sidecar(folder)).requires_grad_(False)
    adapter.id = _id(config_bytes, weights)
    return adapter


def adapter_id(folder: Path) -> str:
    """The content hash of an adapter folder: 64 hex digits over PEFT's two files."""
    return _id(_read(folder / CONFIG), _read(folder / WEIGHTS))


def read_sidecar(folder: Path) -> Metadata:
    """The sidecar's content; the defaults where there is none, as in a folder that PEFT wrote."""
    if not (folder / SIDECAR).exists():
        return Metadata()
    values = _json(folder / SIDECAR, _read(folder / SIDECAR))
    try:
        over, lessons = tuple(values.get("over") or ()), tuple(values.get("lessons") or ())
        return Metadata(values.get("base"), over, lessons, dict(values.get("receipt") or {}))
    except (TypeError, ValueError) as e:
        raise UserError(f"{folder / SIDECAR} is not a sidecar of ours: mend or delete it.") from e


def write_sidecar(folder: Path, metadata: Metadata) -> None:
    """Writes the sidecar; the adapter's id does not depend on it, so a receipt may come later."""
    values = {"format": 1, "base": metadata.base, "over": metadata.over, "lessons": metadata.lessons}
    write_json(folder / SIDECAR, {**values, "receipt": metadata.receipt})


def _id(config: bytes, weights: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(config).digest() + hashlib.sha256(weights).digest()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise UserError(f"{path.parent} is not an adapter folder: it has no {path.name}.") from e


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON: copy the adapter again.") from e
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: copy the adapter again.")
    return values


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    config = adapter.config
    layers: list[int] | None = None
    if config.layers is not None or config.top_layers is not None:
        layers = sorted({layer for path in adapter.paths if (layer := layer_of(path)) is not None})
    if isinstance(config.target_modules, tuple):
        targets = sorted(config.target_modules)
    elif config.target_modules == ALL_LINEAR:
        targets = sorted({path.rsplit(".", 1)[-1] for path in adapter.paths})
    else:  # PEFT would match a regular expression against all modules and no limit beside it: name every path
        targets, layers = sorted(adapter.paths), None
    common = {
        "base_model_name_or_path": adapter.metadata.base,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": config.rank,
        "target_modules": targets,
        "exclude_modules": list(config.exclude_modules) or None,
        "layers_to_transform": layers,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
    }
    if config.method == "lora":
        lora = {"lora_alpha": config.alpha, "lora_dropout": config.dropout, "bias": "none"}
        return {"peft_type": "LORA", **common, **lora, "use_rslora": config.rslora, "use_dora": config.dora}
    if config.method == "loha":
        return {"peft_type": "LOHA", **common, "alpha": config.alpha}
    factors = {"decompose_factor": config.decompose_factor, "decompose_both": config.decompose_both}
    return {"peft_type": "LOKR", **common, "alpha": config.alpha, **factors}


def _our_config(values: Mapping[str, Any], folder: Path) -> AdapterConfig:
    method = str(values.get("peft_type", "")).lower()
    if method not in ("lora", "loha", "lokr"):
        raise UserError(
            f"{folder} is a PEFT adapter of type {values.get('peft_type')}: only LoRA, LoHa and LoKr are known."
        )
    used = [name for name in UNSUPPORTED if values.get(name)]
    if values.get("bias", "none") != "none":
        used.append("bias")
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.split("_")[0] in ("pissa", "olora", "corda", "loftq", "lora"):
        used.append(f"init_lora_weights={start}")  # these change the base's weights
    if used:
        raise UserError(f"{folder} uses PEFT's {', '.join(used)}, which is not supported: convert it with PEFT first.")
    targets, layers = values.get("target_modules") or ALL_LINEAR, values.get("layers_to_transform")
    try:
        return AdapterConfig(
            method=method,  # type: ignore[arg-type]
            rank=int(values["r"]),
            alpha=float(values["lora_alpha" if method == "lora" else "alpha"]),
            rslora=bool(values.get("use_rslora")),
            dora=bool(values.get("use_dora")),
            dropout=float(values.get("lora_dropout") or 0.0),
            target_modules=targets if isinstance(targets, str) else tuple(sorted(targets)),
            exclude_modules=_names(values.get("exclude_modules")),
            layers=None if layers is None else (layers,) if isinstance(layers, int) else tuple(layers),
            rank_pattern=dict(values.get("rank_pattern") or {}),
            alpha_pattern=dict(values.get("alpha_pattern") or {}),
            decompose_factor=int(values.get("decompose_factor", -1)),
            decompose_both=bool(values.get("decompose_both")),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{folder / CONFIG} is not a config of PEFT: {e}.") from e


def _names(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(sorted(value or ()))


def _layer(config: AdapterConfig, path: str, tensors: Mapping[str, Tensor], folder: Path) -> AdapterLayer:
    try:
        out_features, in_features = _sizes(config.method, tensors)
    except (KeyError, IndexError) as e:
        raise UserError(f"{folder / WEIGHTS} lacks a tensor of {path}: {e}.") from e
    with torch.device("meta"):
        layer = make_layer(config, path, out_features, in_features)
    wanted = dict(layer.named_parameters())
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape:
            raise UserError(
                f"{folder / WEIGHTS} does not fit {CONFIG}: {path}.{name} is missing, unknown or of another shape."
            )
        layer.register_parameter(name, nn.Parameter(tensors[name], requires_grad=False))
    return layer


def _sizes(method: str, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(out, in) of the weight that a layer's tensors are made for."""
    if method == "lora":
        return tensors["lora_B"].shape[0], tensors["lora_A"].shape[1]
    if method == "loha":
        return tensors["hada_w1_a"].shape[0], tensors["hada_w1_b"].shape[1]
    out_features = in_features = 1
    for name in ("lokr_w1", "lokr_w2"):
        whole = name in tensors
        out_features *= tensors[name if whole else f"{name}_a"].shape[0]
        in_features *= tensors[name if whole else f"{name}_b"].shape[1]
    return out_features, in_features

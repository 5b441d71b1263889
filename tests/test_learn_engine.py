"""The engine's process as teaching uses it: a draft guesses ahead, texts are embedded between steps."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from serve_server import served
from serve_tiny import tiny_base

from nanohydra.agent import embedding
from nanohydra.errors import UserError
from nanohydra.hydra.lesson_process import make
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.jobs.bases import open_engine
from nanohydra.model.hub import load_base, save_base
from nanohydra.serve import engine_process, protocol
from nanohydra.serve.config import ServeConfig

ENGINE = EngineConfig(max_slots=3, max_seq_len=256, prefix_tokens=256)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def draft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nearly the base: often right, not always."""
    import torch

    model, tokenizer = load_base(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    folder = tmp_path_factory.mktemp("drafts") / "small"
    save_base(folder, model, tokenizer)
    return folder


def test_answers_with_a_draft_are_those_without(base: Path, draft: Path, tmp_path: Path) -> None:
    alone = open_engine(str(base), config=ENGINE)
    bodies = [
        {
            "prompt": f"the fox {i}",
            "max_tokens": 16,
            **({"temperature": 1.0, "seed": i} if i % 2 else {"temperature": 0}),
        }
        for i in range(8)
    ]
    expected = [
        alone.generate([alone.tokenizer.encode(str(body.pop("prompt")))], SamplingParams(**body))[0].text  # type: ignore[arg-type]
        for body in [dict(body) for body in bodies]
    ]
    config = ServeConfig(
        base=str(base), draft=str(draft), database=f"sqlite:///{tmp_path}/x.db", web=False, engine=ENGINE
    )
    with served(config) as running, running.http() as http, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda body: http.post("/v1/completions", json=body).json(), bodies))
        assert [answer["choices"][0]["text"] for answer in answers] == expected

        async def stats() -> dict[str, Any]:
            return await running.services.engine.stats()

        loop = running.services.engine._task.get_loop()  # type: ignore[union-attr]
        numbers = asyncio.run_coroutine_threadsafe(stats(), loop).result(30)
    assert 0 < numbers["right_guesses"] <= numbers["guessed_tokens"]


def test_a_draft_of_another_tokenizer_is_refused(base: Path, draft: Path, tmp_path: Path) -> None:
    from nanohydra.data.tokenizer import Tokenizer

    other = tmp_path / "other"
    shutil.copytree(draft, other)
    Tokenizer.train(["something else altogether, in other words"] * 3, 300).save(other)
    with pytest.raises(UserError, match="another tokenizer"):
        open_engine(str(base), draft=str(other))


class Told:
    """An embedder of two numbers."""

    def load(self) -> None:
        pass

    def embed(self, texts: list[str]) -> np.ndarray[Any, Any]:
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_texts_wait_for_the_embedder_and_come_again_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "Embedder", Told)
    commands: SimpleQueue[Any] = SimpleQueue()
    texts = engine_process.Texts(commands)
    command = protocol.EmbedTexts("r1", ["ab", "abc"])
    assert texts.answer(command) == []
    assert commands.get(timeout=20) == command
    assert texts.answer(command) == [protocol.Reply("r1", {"vectors": [[2.0, 1.0], [3.0, 1.0]]})]


def test_without_the_embedder_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError(embedding.MISSING)

    monkeypatch.setattr(embedding, "Embedder", missing)
    commands: SimpleQueue[Any] = SimpleQueue()
    texts = engine_process.Texts(commands)
    command = protocol.EmbedTexts("r1", ["ab"])
    texts.answer(command)
    again = commands.get(timeout=20)
    assert texts.answer(again) == [protocol.Failed("r1", "invalid", embedding.MISSING)]


def test_a_lesson_whose_base_is_gone_or_another_fails_with_a_clear_line(base: Path, tmp_path: Path) -> None:
    job = {"kind": "lesson", "base": {"name": str(tmp_path / "gone"), "id": "0" * 64}}
    with pytest.raises(UserError, match="no base"):
        make(job, tmp_path, lambda progress: True)
    job["base"] = {"name": str(base), "id": "0" * 64}
    with pytest.raises(UserError, match="another one now"):
        make(job, tmp_path, lambda progress: True)

"""Perplexity against a plain computation, the exam through the engine, and the report card."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.exam import Item, exam
from nanohydra.data.tinyworld.world import World
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.evals.exam import Graded, exam_estimates, take_exam
from nanohydra.evals.intervals import Estimate
from nanohydra.evals.perplexity import score_texts, text_metrics
from nanohydra.evals.report import read_metrics, write_report
from nanohydra.infer.engine import Engine
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer

TEXTS = ["One small text.", "Another one, which is a little longer than the first.", "", "x" * 70]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Some words to learn from, a few of them twice: words, words."], 280)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    return Transformer(config).eval()


def plain_nats(model: Transformer, tokenizer: Tokenizer, text: str) -> float:
    """One text in one window, computed directly."""
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(text)]])
    with torch.no_grad():
        return float(F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum"))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_equal_a_plain_computation_at_any_batch_size(
    model: Transformer, tokenizer: Tokenizer, batch_size: int
) -> None:
    scored = score_texts(model, tokenizer, TEXTS, batch_size=batch_size)
    want = [plain_nats(model, tokenizer, text) for text in TEXTS if text]
    np.testing.assert_allclose(np.bincount(scored.document, scored.nats)[[0, 1, 3]], want, rtol=1e-5)
    assert scored.bytes.sum() == pytest.approx(sum(len(text.encode()) for text in TEXTS))
    metrics = text_metrics(scored)
    assert metrics["bits_per_byte"].value == pytest.approx(sum(want) / math.log(2) / scored.bytes.sum(), rel=1e-5)
    assert metrics["perplexity"].value == pytest.approx(math.exp(metrics["loss"].value))


def test_every_token_is_predicted_once_in_short_windows(model: Transformer, tokenizer: Tokenizer) -> None:
    scored = score_texts(model, tokenizer, TEXTS, seq_len=7)
    assert scored.tokens.sum() == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert scored.tokens.max() == 7


def test_nothing_to_score_is_said(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no text to score"):
        score_texts(model, tokenizer, [""])


def test_the_exam_is_answered_item_by_item_whatever_the_batch(model: Transformer, tokenizer: Tokenizer) -> None:
    items = exam(World(0, people=10), ExamConfig(items=3), seed=1)
    together = take_exam(Engine(model, tokenizer, max_slots=8), items, max_tokens=6)
    alone = [take_exam(Engine(model, tokenizer, max_slots=1), [item], max_tokens=6)[0] for item in items]
    assert [g.answer for g in together] == [g.answer for g in alone]
    assert [g.item for g in together] == items


def test_estimates_count_wrong_answers_for_hallucination() -> None:
    def graded(kind: str, right: bool, sub: str = "") -> Graded:
        return Graded(Item(kind, sub, [], "", "value"), "", right)

    answers = [graded("two_hop", True)] * 3 + [graded("two_hop", False)]
    answers += [graded("hallucination_unknown_people", True)] * 2
    answers += [graded("hallucination_unknown_people", False, "recombined")] * 2
    estimates = exam_estimates(answers)
    assert (estimates["two_hop"].value, estimates["two_hop"].n) == (0.75, 4)
    assert estimates["hallucination_unknown_people"].value == 0.5
    assert (estimates["hallucination_recombined_names"].value, estimates["hallucination_recombined_names"].n) == (
        1.0,
        2,
    )
    assert all(e.low <= e.value <= e.high for e in estimates.values())


def test_report_card(tmp_path: Path) -> None:
    rows = [{"step": i, "tokens": 10 * i, "loss": 5 / i, **({"val_loss": 4.0} if i == 3 else {})} for i in range(1, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo')
    assert len(read_metrics(tmp_path)) == 3  # a line torn by a kill is left out
    estimates = {"good": Estimate(0.9, 10, 0.6, 0.98), "count": Estimate(1234.0, 1, math.nan, math.nan)}
    write_report(tmp_path, "Card", estimates, samples=[("Who?", "Nobody.\nReally.")], run_dir=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["good"] == {"value": 0.9, "n": 10, "low": 0.6, "high": 0.98}
    assert report["count"]["low"] is None
    text = (tmp_path / "report.md").read_text()
    assert "| count | 1,234 | one measurement | 1 |" in text
    assert "> Nobody.\n> Really." in text
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

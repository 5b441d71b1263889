"""The profiler switch: a trace that viewers open, tables that add up, and a training that it does not change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.objectives import next_token
from nanohydra.train.profile import Profile, group_of, group_table, operator_table
from nanohydra.train.run import Run
from nanohydra.train.trainer import Result, Trainer

SHAPE = ModelConfig(
    vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16
)


class Text:
    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        tokens = torch.randint(32, (4, 17), generator=torch.Generator().manual_seed(step))
        return Batch(tokens[:, :-1], tokens[:, 1:])


def train(hooks: list[Profile], run: Run | None = None) -> Result:
    torch.manual_seed(0)
    config = TrainConfig(steps=5, batch_size=4, dtype="fp32")
    return Trainer(Transformer(SHAPE), next_token, Text(), config, run=run, hooks=hooks, quiet=True).fit()


def test_profile_of_a_training(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    assert train([Profile(start=1, steps=2)], run).loss == train([]).loss
    folder = run.folder / "profile"
    trace = json.loads((folder / "trace.json").read_text())
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    table = json.loads((folder / "table.json").read_text())
    assert sum(row["share"] for row in table["operators"]) == pytest.approx(1)
    assert sum(row["share"] for row in table["groups"]) == pytest.approx(1)
    linear = next(row for row in table["operators"] if row["name"] == "aten::linear")
    assert linear["calls"] == 8  # q, k, v, o, gate, up, down and the head, once a step
    assert set(table["phases_ms"]) == {"forward and backward", "optimizer step"}
    assert all(ms > 0 for ms in table["phases_ms"].values())
    assert "| matrix products |" in (folder / "table.md").read_text()


@dataclass
class Fake:
    key: str
    count: int
    self_cpu_time_total: float
    self_device_time_total: float = 0.0


def test_tables_add_up() -> None:
    events = [Fake("aten::mm", 4, 6000), Fake("aten::addmm", 2, 2000), Fake("aten::add", 2, 2000), Fake("x", 1, 0)]
    operators = operator_table(events, steps=2)
    first = operators[0]
    assert (first.name, first.milliseconds, first.share, first.calls) == ("aten::mm", 3.0, 0.6, 2.0)
    assert len(operators) == 3
    groups = {r.name: (r.milliseconds, r.share, r.calls) for r in group_table(operators)}
    assert groups == {"matrix products": (4.0, 0.8, 3.0), "elementwise": (1.0, pytest.approx(0.2), 1.0)}
    on_gpu = [Fake("aten::mm", 1, 9000), Fake("sm90_gemm_kernel", 1, 0, 3000)]
    assert [r.name for r in operator_table(on_gpu, 1)] == ["sm90_gemm_kernel"]  # the GPU's time, where there is one


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::mm", "matrix products"),
        ("aten::mul", "elementwise"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::_log_softmax", "softmax and loss"),
        ("aten::embedding_dense_backward", "embedding"),
        ("aten::copy_", "copies and casts"),
        ("aten::rsqrt", "norms"),
        ("something_else", "other"),
    ],
)
def test_groups(operator: str, group: str) -> None:
    assert group_of(operator) == group


def test_bad_switches() -> None:
    with pytest.raises(UserError, match="1 or more"):
        Profile(steps=0)
    with pytest.raises(UserError, match="needs a folder"):
        train([Profile()])

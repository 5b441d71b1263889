"""A few of the requests that bench/fuzz.py invents by the thousands, over an engine without a model."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from serve_server import fake_base, fake_engine, served

from nanohydra.serve.config import ServeConfig


def test_invented_requests_never_end_in_a_5xx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    fuzz = importlib.import_module("fuzz")
    base = fake_base(tmp_path / "demo")
    config = ServeConfig(base=str(base), database=f"sqlite:///{tmp_path / 'test.db'}", web=False)
    with served(config, fake_engine(base)) as running:
        report = fuzz.fuzz(running.url, 120, 0)
    assert report["requests"] >= 120
    assert report["failures"] == []
    assert any(status.endswith("completions 200") for status in report["statuses"]), report

"""What one user must not learn of another, nor take from them; and what a sender must not do to the server's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_server import Running, fake_base, fake_engine, served
from serve_tiny import tiny_base

from nanohydra.infer.config import EngineConfig
from nanohydra.serve.config import ServeConfig


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As it is by default, with the fake engine."""
    folder = tmp_path_factory.mktemp("served")
    base = fake_base(folder / "demo")
    config = ServeConfig(base=str(base), database=f"sqlite:///{folder / 'test.db'}", web=False)
    with served(config, fake_engine(base)) as running:
        yield running


def new_user(running: Running, name: str, quota: int | None = None) -> tuple[int, dict[str, str]]:
    store = running.services.store
    user = store.create_user(name, ["chat"], quota)
    return user.id, {"Authorization": f"Bearer {store.create_token(user.id, 'test', ['chat'])}"}


def test_users_share_no_beginnings(tmp_path: Path) -> None:
    """Else one could find out block by block, by `cached_tokens`, what another asked."""
    base, database = tiny_base(tmp_path / "tiny"), f"sqlite:///{tmp_path / 'test.db'}"
    engine = EngineConfig(max_slots=2, max_seq_len=256, prefix_tokens=512)
    body = {"prompt": "the quick brown fox " * 10, "max_tokens": 1, "temperature": 0}
    with served(ServeConfig(base=str(base), database=database, web=False, engine=engine)) as running:
        _, ann = new_user(running, "ann")
        _, bob = new_user(running, "bob")
        with running.http() as http:

            def cached(headers: dict[str, str]) -> int:
                usage = http.post("/v1/completions", json=body, headers=headers).json()["usage"]
                return int(usage["prompt_tokens_details"]["cached_tokens"])

            assert cached(ann) == 0
            assert cached(ann) > 0
            assert cached(bob) == 0
            assert cached({}) == 0  # the local user
            assert cached({}) == cached(bob) == cached(ann) > 0


def test_invented_methods_make_no_series(local: Running) -> None:
    with local.http() as http:
        for n in range(3):
            assert http.request(f"METHOD{n}", "/v1/models").status_code >= 400
        text = http.get("/metrics").text
    assert 'method="other"' in text
    assert "METHOD" not in text

"""docs/api.md: its curl and Python examples are run, one after the other, against a small server."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_server import Running, served
from serve_tiny import tiny_adapter, tiny_base

from nanohydra.infer.config import EngineConfig
from nanohydra.serve.config import ServeConfig

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(kind: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.M | re.S) if name == kind]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    base = tiny_base(home / "bases" / "smollm2")
    tiny_adapter(base, home / "adapters" / "pirate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOHYDRA_HOME", str(home))
        config = ServeConfig(base="smollm2", web=False, teach_worker=False, engine=EngineConfig(max_seq_len=1024))
        with served(config, teach=True) as running:
            yield running


@pytest.mark.parametrize("kind", ["bash", "bash adapters", "bash lessons"])
def test_the_curl_examples(server: Running, kind: str) -> None:
    for block in blocks(kind):
        for command in re.split(r"\n(?=curl)", block.strip()):
            done = subprocess.run(
                ["bash", "-c", command.replace(ADDRESS, server.url)], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, command
            if done.stdout.startswith("data: "):
                assert done.stdout.endswith("data: [DONE]\n\n")
            elif not done.stdout.startswith("Success"):
                assert "error" not in json.loads(done.stdout), done.stdout


def test_the_python_examples(server: Running) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(block.replace(ADDRESS, server.url), "docs/api.md", "exec"), names)
        assert shown.getvalue().strip(), block


def test_the_table_names_every_endpoint(server: Running) -> None:
    with server.http() as http:
        paths = set(http.get("/openapi.json").json()["paths"]) - {"/v1/models/{name}"}
    assert paths <= set(re.findall(r"`(?:GET|POST|DELETE) (/[\w/{}]+)`", PAGE))

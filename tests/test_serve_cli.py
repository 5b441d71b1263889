"""`nanohydra serve` as a person starts it: URL and first token, once; a clear line where it cannot."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serve_server import wait_for
from serve_tiny import tiny_base

from nanohydra.cli import main
from nanohydra.errors import UserError
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.run import serve

SERVE = [sys.executable, "-m", "nanohydra", "serve", "--port", "0", "--web", "false"]


def test_url_and_first_token_are_told_once(tmp_path: Path) -> None:
    tiny_base(tmp_path / "bases" / "tiny")
    home = os.environ | {"NANOHYDRA_HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [*SERVE, "--base", "tiny"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=home,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
        )
    assert first.stdout is not None
    lines = [first.stdout.readline() for _ in range(4)]
    url = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
    token = re.search(r"nh_\S+", lines[1])
    assert url is not None
    assert token is not None
    assert "no token is needed" in lines[2]
    assert "tiny is loaded" in lines[3]
    with httpx.Client(base_url=url[0]) as http:
        assert http.get("/metrics", headers={"Authorization": f"Bearer {token[0]}"}).status_code == 200
        assert http.get("/health").status_code == 200
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    processes = children.read_text().split()  # the engine's, and the one that makes lessons
    assert len(processes) == 2
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
    assert token[0] not in (tmp_path / "log").read_text()

    again = subprocess.run([*SERVE, "--base", "tynny"], capture_output=True, text=True, env=home, timeout=120)
    assert again.returncode == 1
    assert "nh_" not in again.stdout
    assert again.stderr.splitlines()[-1].startswith('nanohydra serve: There is no base "tynny". Did you mean "tiny"?')


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = ServeConfig(port=other.getsockname()[1], database=f"sqlite:///{tmp_path / 'test.db'}", web=False)
        with pytest.raises(UserError, match="--port"):
            serve(config, print)
    assert not (tmp_path / "test.db").exists()


def test_settings_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "70000"]) == 1
    assert "between 0 and 65535" in capsys.readouterr().err


def test_help_imports_no_torch_and_no_framework() -> None:
    code = "import sys; from nanohydra.cli import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'fastapi', 'sqlalchemy', 'nicegui'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

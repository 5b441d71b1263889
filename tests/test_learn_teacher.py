"""The worker as a server keeps it: started, started again, and gone when the server is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from serve_server import wait_for

from nanohydra.serve.config import ServeConfig
from nanohydra.serve.teacher import Teacher

SLEEPER = (
    "import os, sys, threading, time\n"
    "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()\n"
    "time.sleep(600)"
)


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_lost_worker_is_started_again_and_ends_with_the_server(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    teacher = Teacher(ServeConfig(), command=(sys.executable, "-c", SLEEPER, str(file)), delay=0.05)

    async def live() -> None:
        await teacher.start()
        for count in (1, 2):
            await asyncio.to_thread(wait_for, lambda count=count: len(pids(file)) == count)
            assert teacher.state == "running"
            assert teacher.pid == pids(file)[-1]
            os.kill(pids(file)[-1], signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: len(pids(file)) == 3)
        assert teacher.restarts == 2
        await teacher.stop()

    asyncio.run(live())
    assert not any(alive(pid) for pid in pids(file))
    assert teacher.state == "off"


def test_the_database_s_url_is_in_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOHYDRA_DATABASE", raising=False)
    file = tmp_path / "seen"
    code = "import os, sys; open(sys.argv[1], 'w').write(' '.join(sys.argv) + '|' + os.environ['NANOHYDRA_DATABASE']); input()"
    url = "postgresql://me:secret@host/x"
    teacher = Teacher(ServeConfig(database=url, teach_hour=4), command=(sys.executable, "-c", code, str(file)))

    async def live() -> None:
        await teacher.start()
        await asyncio.to_thread(wait_for, lambda: file.exists() and "|" in file.read_text())
        await teacher.stop()

    asyncio.run(live())
    line, _, database = file.read_text().partition("|")
    assert database == url
    assert "secret" not in line
    assert "--hour 4" in line

"""The README's commands work: its tour is run word by word, its make targets exist, its links lead somewhere."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from nanohydra.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(kind: str) -> list[str]:
    """The lines of the code blocks opened by ```kind, without their comments."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


def test_the_first_two_commands_are_make_targets() -> None:
    first = commands("bash")[:2]
    assert first == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in first:
        assert re.search(rf"^{command.split()[1]}: setup$", makefile, re.MULTILINE)


def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    tour = commands("bash tour")
    assert len(tour) >= 8
    for command in tour:
        program, *arguments = shlex.split(command)
        assert program == "nanohydra"
        try:
            status = main(arguments)
        except SystemExit as e:  # --help and --print_config
            status = int(e.code or 0)
        output = capsys.readouterr()
        assert status == 0, f"{command}\n{output.out}{output.err}"
        assert output.out.strip(), command


def test_links_and_named_files_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for recipe in re.findall(r"recipes/[\w/]+\.yaml", README):
        assert (ROOT / recipe).is_file(), recipe

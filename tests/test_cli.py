"""The command line as a person meets it: instant help, one-line errors with a suggestion, recipes with overrides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nanohydra.cli import VERBS, main

TINY = [
    "--train.steps=2",
    "--train.batch_size=2",
    "--model.preset=tiny-0.5m",
    "--model.config={hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 2}",
    "--data.seq_len=32",
    "--data.vocab_size=300",
    "--data.world_tokens=4000",
]


def failed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and the message of a command that goes wrong; the message must be one line."""
    try:
        status = main(argv)
    except SystemExit as e:
        status = int(e.code or 0)
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) == 1, message
    assert "Traceback" not in message
    return status, message


def test_every_verb_has_a_module_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as e:
            sys.exit(main([verb, "--help"]))
        assert e.value.code == 0, verb
        assert verb in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["", "train", "speedrun", "chat", "sft", "eval"])
def test_help_imports_no_torch(verb: str) -> None:
    argv = [*filter(None, [verb]), "--help"]
    code = f"import sys; from nanohydra.cli import main\ntry: main({argv})\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules, 'torch'; assert 'scipy' not in sys.modules, 'scipy'"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_unknown_verb_and_settings_suggest_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert failed(["tarin"], capsys) == (2, "nanohydra: no verb 'tarin'. Did you mean \"train\"?\n")
    status, message = failed(["train", "--train.stpes", "5"], capsys)
    assert status == 2
    assert 'Did you mean "train.steps"?' in message
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {steps: 5}\ndata: {corpsu: x}\n")
    status, message = failed(["train", str(recipe)], capsys)
    assert status == 2
    assert 'Did you mean "data.corpus"?' in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train"], "Name a recipe"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "--train.steps", "five"], "must be int"),
        (["train", "--train.steps", "1", "--train.tokens", "1"], "exactly one of"),
        (["train", *TINY, "--data.corpus", "no/such/file.txt"], "no/such/file.txt"),
        (["train", *TINY, "--model.config={hiden_size: 3}"], "hidden_size"),
        (["train", *TINY, "--data.seq_len", "100000"], "context"),
        (["train", "--resume", "nowhere"], "holds no run"),
        (["chat", "--base", "nobody", "-p", "hi"], "There is no base"),
        (["eval"], "Say what to measure"),
        (["runs", "show", "nothing"], "There is no run"),
        (["data", "shwo"], 'Did you mean "show"?'),
        (["pull", "no-such-file.gguf"], "no-such-file.gguf"),
    ],
)
def test_bad_input_gets_one_clear_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, message = failed(argv, capsys)
    assert status in (1, 2)
    assert words in message


def test_print_config_is_a_recipe_that_gives_itself_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", *TINY, "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["train"]["steps"] == 2
    (tmp_path / "again.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "again.yaml"), "--print_config"])
    assert capsys.readouterr().out == printed


def test_a_budget_on_the_command_line_replaces_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speedrun", "--train.steps", "3", "--print_config"])
    train = yaml.safe_load(capsys.readouterr().out)["train"]
    assert (train["steps"], train["tokens"], train["seconds"]) == (3, None, None)


def test_speedrun_end_to_end(tmp_path: Path) -> None:
    """The whole main job at toy size without a terminal: trains, reports, registers the base, answers, teaches a lesson."""
    environment = {**os.environ, "NANOHYDRA_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nanohydra", "speedrun", *TINY, "--data.seq_len=128"]
    command += ["--data.validation_share=0.2", "--sft.seconds=1", "--eval.exam=2", "--teach=8", "--out", str(out)]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n> ") >= 4
    # A model of this size learns nothing in so little time: the gate says so, and the facts are cited all the same.
    assert 'lesson 1 "the demo\'s lesson": ' in done.stdout
    assert "False attributions" in done.stdout
    assert done.stdout.count('[1] lesson 1 "the demo\'s lesson"') == 5
    report = json.loads((out / "report.json").read_text())
    for name in (
        "recall_unseen_wordings",
        "hallucination_unknown_people",
        "arithmetic_with_tool",
        "two_hop",
        "small_talk",
        "val_bits_per_byte",
        "parameters",
        "train_tokens_per_second",
        "minutes",
    ):
        assert set(report[name]) == {"value", "n", "low", "high"}, name
    assert (out / "report.md").exists()
    assert (out / "loss.png").stat().st_size > 1000
    # Later verbs find the base by name.
    ask = [sys.executable, "-m", "nanohydra", "chat", "-p", "Hello!", "--sampling.max_tokens", "4"]
    answered = subprocess.run(ask, env=environment, capture_output=True, text=True, timeout=120)
    assert answered.returncode == 0, answered.stderr


def test_an_interrupted_training_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanohydra.cli import info
    from nanohydra.train.signals import Interrupted

    def stopped(argv: list[str]) -> None:
        raise Interrupted("Saved. Run with --resume here to go on.", 143)

    monkeypatch.setattr(info, "main", stopped)
    assert main(["info"]) == 143
    assert "--resume here" in capsys.readouterr().err

"""The run folder: what is written, Ctrl-C, one writer, sinks, progress."""

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_toy import make_trainer, tiny_model

from nanohydra.errors import UserError
from nanohydra.train import sinks
from nanohydra.train.hooks import Hook
from nanohydra.train.progress import TrainingProgress, clock
from nanohydra.train.run import TIMING_FIELDS, Run
from nanohydra.train.signals import Interrupted


def lines(run):
    return [{k: v for k, v in r.items() if k not in TIMING_FIELDS} for r in Run.open(run).metrics()]


def test_a_run_folder_holds_what_is_needed_to_repeat_it(tmp_path):
    folder = tmp_path / "run"
    config = {"name": "x", "train": {"seed": 7, "betas": (0.9, 0.95)}, "data": {"path": Path("a/b")}}
    run = Run.create(folder, config)
    assert run.config == {"name": "x", "train": {"seed": 7, "betas": [0.9, 0.95]}, "data": {"path": "a/b"}}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 7
    assert {"torch", "python", "cpu", "threads", "git", "command"} <= environment.keys()
    with pytest.raises(UserError, match="already holds a run"):
        Run.create(folder, config)
    with pytest.raises(UserError, match="holds no run"):
        Run.open(tmp_path / "nothing")


def test_a_finished_run(tmp_path):
    result = make_trainer(tmp_path / "run", steps=5, eval_every=2, log_every=2).fit()
    run = Run.open(tmp_path / "run")
    assert run.result["step"] == 5
    assert run.result["evaluation"] == result.evaluation
    records = run.metrics()
    assert [r["step"] for r in records] == [2, 4, 5]
    assert all("val_loss" in r for r in records)
    assert records[-1]["loss"] == result.loss
    assert records[-1]["progress"] == 1.0
    assert records[-1]["tokens"] == result.tokens == 5 * 8 * 16
    assert result.checkpoint == run.checkpoints / "step-00000005"
    # Once more: nothing left to train, the same result.
    again = make_trainer(tmp_path / "run", steps=5).fit()
    assert (again.step, again.loss, again.evaluation) == (5, result.loss, result.evaluation)
    assert run.metrics() == records
    assert [r["step"] for r in json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]] == [5]


def test_more_steps_for_a_finished_run(tmp_path):
    make_trainer(tmp_path / "run", steps=3, schedule="constant").fit()
    make_trainer(tmp_path / "run", steps=6, schedule="constant").fit()
    make_trainer(tmp_path / "whole", steps=6, schedule="constant", warmup=0.02).fit()
    assert [r["step"] for r in Run.open(tmp_path / "run").metrics()] == [1, 2, 3, 4, 5, 6]


class SignalAt(Hook):
    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def after_backward(self, trainer):
        if trainer.step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(tmp_path, number, code, capsys):
    make_trainer(tmp_path / "whole").fit()
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"after step 5.*step-00000005.*--resume") as stopped:
        make_trainer(tmp_path / "run", hooks=(SignalAt(4, number),)).fit()
    assert stopped.value.exit_code == code
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(number) is handler
    assert "Stopping after this step" in capsys.readouterr().err
    make_trainer(tmp_path / "run").fit()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        make_trainer(tmp_path / "run", hooks=(SignalAt(4, signal.SIGINT, signal.SIGINT),)).fit()
    assert not isinstance(stopped.value, Interrupted)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_only_one_process_trains_in_a_folder(tmp_path):
    make_trainer(tmp_path / "run", steps=2).fit()
    first, second = Run.open(tmp_path / "run"), Run.open(tmp_path / "run")
    first.start()
    with pytest.raises(UserError, match="Another process"):
        second.start()
    first.close()
    second.start()
    second.close()


def test_torn_and_later_lines_are_dropped_on_resume(tmp_path):
    make_trainer(tmp_path / "run", steps=4, save_every=2, keep_last=1).fit()
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run = Run.open(tmp_path / "run")
    run.start()
    run.close()
    assert [r["step"] for r in run.metrics()] == [1, 2, 3, 4]
    assert path.read_text().endswith("}\n")


def test_a_budget_in_seconds_goes_on_where_it_was(tmp_path):
    with pytest.raises(Interrupted):
        make_trainer(tmp_path / "run", hooks=(SignalAt(3, signal.SIGINT),), seconds=1000.0).fit()
    before = Run.open(tmp_path / "run").metrics()[-1]
    trainer = make_trainer(tmp_path / "run", hooks=(SignalAt(4, signal.SIGINT),), seconds=1000.0)
    with pytest.raises(Interrupted):
        trainer.fit()
    last = Run.open(tmp_path / "run").metrics()[-1]
    assert last["step"] == 5
    assert before["seconds"] < last["seconds"] < before["seconds"] + 60
    assert last["progress"] == pytest.approx(last["seconds"] / 1000, abs=1e-5)


def test_tensorboard_has_every_logged_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path / "run", steps=3, sinks=("tensorboard",)).fit()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    records = Run.open(tmp_path / "run").metrics()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (r["step"], pytest.approx(r["loss"])) for r in records
    ]
    assert {"val_loss", "lr", "grad_norm", "tokens_per_second"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_sinks_pass_on_every_line(tmp_path, name, monkeypatch):
    """Against a stand-in with the two libraries' interface, so that no network is needed."""

    class Library:
        def __init__(self):
            self.lines, self.settings, self.finished = [], None, False

        def init(self, **settings):
            self.settings = settings
            return self

        def log(self, record, step):
            self.lines.append((step, record["loss"]))

        def finish(self):
            self.finished = True

    library = Library()
    monkeypatch.setattr(sinks.importlib, "import_module", lambda module: library)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    make_trainer(tmp_path / "run", steps=3, sinks=(name,)).fit()
    assert library.lines == [(r["step"], r["loss"]) for r in Run.open(tmp_path / "run").metrics()]
    assert library.settings["config"]["steps"] == 3
    assert library.finished


def test_a_missing_sink_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(sinks.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install \"nanohydra\[wandb\]\""):
        make_trainer(tmp_path / "run", sinks=("wandb",)).fit()


@given(st.floats(0, 1e6))
def test_clock(seconds):
    parts = [int(p) for p in clock(seconds).split(":")]
    total = sum(p * 60**i for i, p in enumerate(reversed(parts)))
    assert abs(total - seconds) <= 0.5
    assert all(p < 60 for p in parts[1:])


def test_without_a_terminal_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("nanohydra.train.progress.time.monotonic", lambda: now[0])
    with TrainingProgress("demo") as progress:
        for step in range(1, 101):
            # The first step takes 20 seconds (it compiles), all others one.
            now[0] += 20.0 if step == 1 else 1.0
            progress.update(step, step / 100, 2.5, 1234.0, None)
    printed = capsys.readouterr().err.strip().split("\n")
    assert len(printed) == 11
    assert printed[0] == "demo:   1%  step 1  loss 2.5000  1,234 tokens/s  ? left"
    assert "step 51  loss 2.5000  1,234 tokens/s  0:49 left" in printed[5]


def one_of_two(rank, port, folder, answers):
    """One process of a data-parallel training, as torchrun would start it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # Each starts from other weights: those of the first process must win. Then both go on from its checkpoint.
    make_trainer(folder, model=tiny_model(seed=rank), steps=4, schedule="constant").fit()
    trainer = make_trainer(folder, model=tiny_model(seed=50 + rank), steps=6, schedule="constant", warmup=0.0)
    trainer.fit()
    answers.put({name: p.double().sum().item() for name, p in trainer.model.named_parameters()})


def test_two_processes_train_as_one(tmp_path):
    one = {"schedule": "constant"}
    make_trainer(tmp_path / "one", steps=4, **one).fit()
    make_trainer(tmp_path / "one", steps=6, warmup=0.0, **one).fit()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    workers = [fork.Process(target=one_of_two, args=(rank, port, tmp_path / "two", answers)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert answers.get() == answers.get()
    for a, b in zip(*(Run.open(tmp_path / name).metrics() for name in ("one", "two")), strict=True):
        assert b["tokens"] == a["tokens"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)

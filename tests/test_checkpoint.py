"""Checkpoints: whole or absent, never believed when damaged, exact when restored."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from train_toy import make_trainer, tiny_model

from nanohydra.errors import UserError
from nanohydra.files import disk_errors
from nanohydra.train import checkpoint as checkpoints
from nanohydra.train.checkpoint import (
    latest_checkpoint,
    pack,
    prune,
    read_checkpoint,
    steps_saved,
    unpack,
    write_checkpoint,
)
from nanohydra.train.hooks import Hook
from nanohydra.train.run import TIMING_FIELDS, Run

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.integers(0, 5).map(lambda n: torch.arange(n, dtype=torch.float32))
trees = st.recursive(leaves | tensors, lambda t: st.lists(t) | st.dictionaries(st.text(), t), max_leaves=12)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(deadline=None)
@given(st.dictionaries(st.text(), trees))
def test_any_hook_state_survives_json_and_safetensors(tree):
    found: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(tree, found)))
    assert same(unpack(packed, found), tree)


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints, of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        write_checkpoint(
            tmp_path / f"step-{step:08d}", {"model": {"w": torch.full((50,), float(step))}}, {"step": step}
        )
    return tmp_path


def test_round_trip(saved):
    found, damaged = latest_checkpoint(saved)
    assert found.state == {"step": 3}
    assert torch.equal(found.tensors("model")["w"], torch.full((50,), 3.0))
    assert (found.tensors("optimizer"), damaged) == ({}, [])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_or_cut_file_is_noticed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "step-00000001"
    write_checkpoint(folder, {"model": {"w": torch.arange(20.0)}}, {"step": 1})
    path = folder / data.draw(st.sampled_from(["model.safetensors", "state.json", "manifest.json"]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:at])
    else:
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
    # A change to the spaces between the manifest's entries alters nothing that is read.
    harmless = path.name == "manifest.json" and read_checkpoint(folder) is not None
    assert read_checkpoint(folder) is None or (harmless and len(json.loads(path.read_text())) == 2)


def test_falls_back_to_the_newest_good_one(saved):
    (saved / "step-00000003" / "model.safetensors").write_bytes(b"torn")
    (saved / "step-00000002" / "manifest.json").unlink()
    found, damaged = latest_checkpoint(saved)
    assert found.state["step"] == 1
    assert [f.name for f in damaged] == ["step-00000003", "step-00000002"]


def test_none_good_is_an_error_and_none_at_all_is_not(saved, tmp_path):
    for step in steps_saved(saved):
        (saved / f"step-{step:08d}" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"Every checkpoint .* is damaged"):
        latest_checkpoint(saved)
    assert latest_checkpoint(tmp_path / "nothing") == (None, [])


def test_prune_keeps_the_last_and_the_best_and_clears_what_kills_left(saved):
    (saved / ".step-00000004.x.tmp").mkdir()
    prune(saved, keep_last=1, keep={1})
    assert sorted(f.name for f in saved.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    class Fill(Hook):
        def before_step(self, trainer):
            if trainer.step == 3:
                monkeypatch.setattr(checkpoints, "save_file", full)

    trainer = make_trainer(tmp_path / "run", hooks=(Fill(),), save_every=2)
    with pytest.raises(UserError, match="No space left") as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert [f.name for f in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert make_trainer(tmp_path / "run", save_every=2).fit().step == 20


def test_a_real_write_error_of_safetensors_is_an_oserror(tmp_path):
    with disk_errors(tmp_path), pytest.raises(OSError) as error, checkpoints._rust_errors():
        checkpoints.save_file({"w": torch.zeros(1)}, tmp_path / "missing" / "file.safetensors")
    assert error.value.errno == errno.ENOENT


class Counter(Hook):
    """A hook whose effect depends on all it has seen, with numbers, text and tensors in its state."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)
        self.sum = torch.zeros(3)
        self.count = 0

    def after_backward(self, trainer):
        self.sum += torch.rand(3, generator=self.generator)
        self.count += 1
        trainer.metrics["counter"] = float(self.sum.sum()) * self.count
        next(iter(trainer.parameters.values())).grad.add_(self.sum.sum() * 0.01)

    def state_dict(self):
        return {"sum": self.sum, "count": self.count, "rng": [self.generator.get_state()], "name": "x"}

    def load_state_dict(self, state):
        self.sum, self.count = state["sum"], state["count"]
        self.generator.set_state(state["rng"][0])


def lines(run):
    return [{k: v for k, v in r.items() if k not in TIMING_FIELDS} for r in Run.open(run).metrics()]


class Stop(Exception):
    """Stands in for a crash."""


class StopAt(Hook):
    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            raise Stop


@pytest.mark.parametrize("settings", [{}, {"dtype": "bf16", "optimizer": "muon", "ema": 0.9}, {"dtype": "fp16"}])
@pytest.mark.parametrize("crash", [1, 7, 10])
def test_resumed_equals_undisturbed_to_the_bit(tmp_path, settings, crash):
    settings = {"save_every": 3, "eval_every": 4, **settings}
    make_trainer(tmp_path / "whole", hooks=(Counter(),), model=tiny_model(dropout=0.1), **settings).fit()
    hooks = (Counter(), StopAt(crash))
    with pytest.raises(Stop):
        make_trainer(tmp_path / "cut", hooks=hooks, model=tiny_model(dropout=0.1), **settings).fit()
    # The weights come from the checkpoint (or, before the first one, from the recipe's own seed).
    again = tiny_model(seed=0 if crash == 1 else 99, dropout=0.1)
    resumed = make_trainer(tmp_path / "cut", hooks=(Counter(),), model=again, **settings)
    resumed.fit()
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    files = [tmp_path / r / "checkpoints" / "step-00000020" for r in ("cut", "whole")]
    for name in ("model", "optimizer", "ema"):
        assert len({(f / f"{name}.safetensors").read_bytes() for f in files if name != "ema" or "ema" in settings}) <= 1


def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, capsys):
    make_trainer(tmp_path / "whole", save_every=5).fit()
    with pytest.raises(Stop):
        make_trainer(tmp_path / "cut", hooks=(StopAt(14),), save_every=5).fit()
    path = tmp_path / "cut" / "checkpoints" / "step-00000010" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    make_trainer(tmp_path / "cut", save_every=5).fit()
    assert "step-00000010 is damaged" in capsys.readouterr().err
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert (tmp_path / "cut" / "checkpoints" / "step-00000010.damaged").is_dir()


def test_another_model_is_refused(tmp_path):
    make_trainer(tmp_path / "run", steps=2).fit()
    with pytest.raises(UserError, match="another model"):
        make_trainer(tmp_path / "run", model=tiny_model(hidden_size=64)).fit()
    with pytest.raises(UserError, match="another model or setting"):
        make_trainer(tmp_path / "run", ema=0.9).fit()


def test_best_checkpoint_is_kept(tmp_path):
    trainer = make_trainer(tmp_path / "run", steps=12, eval_every=1, keep_best=True, keep_last=1, save_every=1)
    values = iter([5.0, 3.0, 4.0, 2.0, 6.0, 7.0, 2.5, 9.0, 9.0, 9.0, 9.0, 9.0])
    trainer.evaluate = lambda model: {"val_loss": next(values)}
    trainer.fit()
    assert steps_saved(tmp_path / "run" / "checkpoints") == [4, 12]
    assert Run.open(tmp_path / "run").best_checkpoint().state["step"] == 4


def test_kill_9_at_random_moments_ends_in_the_same_bits(tmp_path):
    script = Path(__file__).parent.parent / "bench" / "kill_train.py"
    command = [sys.executable, str(script), "--kills", "4", "--steps", "40", "--out", str(tmp_path / "k.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "k.json").read_text())
    assert (report["kills"], report["equal"]) == (4, True)


@pytest.mark.slow
def test_20_kills_end_in_the_same_bits(tmp_path):
    script = Path(__file__).parent.parent / "bench" / "kill_train.py"
    command = [sys.executable, str(script), "--kills", "20", "--out", str(tmp_path / "k.json")]
    assert subprocess.run(command, timeout=280).returncode == 0
    assert json.loads((tmp_path / "k.json").read_text())["kills"] == 20

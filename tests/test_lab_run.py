"""Running labs: nothing twice, nothing lost when killed, and a report that says what came out."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanohydra import lab
from nanohydra.errors import UserError
from nanohydra.lab.runs import LabFolder

TESTS = Path(__file__).parent
RUN = "import pathlib; from nanohydra import lab; lab.run(pathlib.Path('lab.yaml'), pathlib.Path('out'), jobs=2)"

SPEC: dict[str, Any] = {
    "name": "quality",
    "question": "Does quality help?",
    "base": {"seed": 0, "train": {"lr": 0.01, "quality": 0.0}, "eval": {"items": 20}},
    "variants": {"plain": {}, "good": {"train.quality": 0.3}},
    "seeds": 3,
    "held_equal": ["tokens", "parameters"],
    "metrics": {"val_loss": "lower", "recall": "higher"},
    "execute": "lab_fake:execute",
}


@pytest.fixture(autouse=True)
def _fake_training_is_importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def write(**changes: Any) -> Path:
    Path("lab.yaml").write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
    return Path("lab.yaml")


def run(out: str = "out", **changes: Any) -> tuple[str, list[str]]:
    """The report, and the lines of progress."""
    lines: list[str] = []
    report = lab.run(write(**changes), Path(out), jobs=2, say=lines.append)
    return report.read_text(), lines


def starts(out: str = "out") -> dict[str, int]:
    """How often each run was started."""
    return {
        str(p.parent.relative_to(out)): len(p.read_text().splitlines()) for p in Path(out).glob("runs/*/*/starts.txt")
    }


def test_a_lab_from_its_file_to_its_report() -> None:
    report, lines = run(seeds=4)
    assert "8 runs, 0 finished before" in lines[0]
    assert re.search(r"good is better than plain in val_loss: 0\.(29|30)", report)  # 0.3 and a little noise
    assert "8 of 8 runs finished." in report
    assert "nanohydra lab run lab.yaml --out out" in report
    assert "| tokens of good | 50 | 0% | yes |" in report
    assert "| good | `train.quality: 0.3` |" in report
    page = Path("out/report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing beside it is needed
    assert {p.name for p in Path("out").glob("*.png")} == {"points.png", "differences.png", "curves.png"}
    assert sum(p.stat().st_size for p in Path("out").glob("*.png")) < 300_000


def test_finished_runs_are_not_repeated_and_changed_variants_are() -> None:
    first, _ = run()
    again, lines = run()
    assert again == first
    assert "6 finished before" in lines[1]
    assert set(starts().values()) == {1}
    _, lines = run(variants={"plain": {}, "good": {"train.quality": 0.4}})
    assert "3 finished before" in lines[1]
    _, lines = run(seeds=4)
    assert "6 finished before" in lines[0]
    assert first == run()[0]  # back to the lab as it was: its runs are still there
    assert set(starts().values()) == {1}


def test_the_same_inputs_give_the_same_bytes() -> None:
    run()
    before = {p.name: p.read_bytes() for p in Path("out").iterdir() if p.is_file()}
    lab.report(Path("out"))
    assert {p.name: p.read_bytes() for p in Path("out").iterdir() if p.is_file()} == before


def test_scores_csv_gives_the_same_analysis() -> None:
    run()
    report = lab.compare_csv(Path("out/scores.csv"), Path("again"), lower=["val_loss"], higher=["recall"])
    ours, theirs = (json.loads(p.read_text()) for p in (Path("out/analysis.json"), Path("again/analysis.json")))
    assert ours["comparisons"] == theirs["comparisons"]
    assert "nanohydra lab compare scores.csv --lower val_loss --higher recall" in report.read_text()


def test_a_killed_lab_ends_with_the_report_of_an_undisturbed_one(tmp_path: Path) -> None:
    """2 variants x 5 seeds, the lab killed at random moments and started again until it is done."""
    names = ("report.md", "report.html", "analysis.json", "scores.csv")
    spec: dict[str, Any] = {
        "seeds": 5,
        "base": {**SPEC["base"], "train": {"lr": 0.01, "quality": 0.0, "step_seconds": 0.06}},
    }
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    os.chdir(tmp_path / "calm")
    run(**spec)
    calm = {name: Path("out", name).read_bytes() for name in names}

    os.chdir(tmp_path / "killed")
    write(**spec)
    chance = random.Random(0)
    kills = 0
    for attempt in range(8):
        finished = {path: path.read_bytes() for path in Path("out").glob("runs/*/*.json")}
        process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = process.wait(timeout=chance.uniform(0.3, 1.5) if attempt < 7 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert status == 0
            break
        assert all(path.read_bytes() == content for path, content in finished.items())
    assert kills >= 3
    assert {name: Path("out", name).read_bytes() for name in names} == calm
    assert len(starts()) == 10
    assert max(starts().values()) < kills + 2


def test_workers_end_with_their_lab() -> None:
    write(base={**SPEC["base"], "train": {"lr": 0.01, "quality": 0.0, "step_seconds": 60}})
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(starts()) == 2 if Path("out/runs").exists() else False)
    with pytest.raises(UserError, match="Another process is running the lab"):
        lab.run(Path("lab.yaml"), Path("out"), say=lambda _: None)
    process.kill()
    process.wait()
    for path in Path("out").glob("runs/*/*/.job.lock"):
        with path.open("w") as lock:
            until(lambda lock=lock: claim(lock))


def until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def claim(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def test_a_run_that_fails_is_told_and_tried_again() -> None:
    broken = {"plain": {}, "good": {"train.quality": 0.3, "train.broken": True}}
    with pytest.raises(UserError, match="3 of 6 runs failed: good seed 0: ValueError: the recipe is broken"):
        run(variants=broken)
    with pytest.raises(UserError, match=r"too few runs are finished for a comparison \(good has none\)"):
        lab.report(Path("out"))
    with pytest.raises(UserError, match="3 of 6 runs failed"):
        run(variants=broken)
    assert sorted(starts().values()) == [1, 1, 1, 2, 2, 2]
    assert "6 of 6 runs finished" in run()[0]


def test_an_execute_that_cannot_be_loaded() -> None:
    with pytest.raises(UserError, match='"lab_fake:nothing" cannot be loaded'):
        run(execute="lab_fake:nothing")


def test_too_few_seeds_are_told_before_the_training() -> None:
    _, lines = run()
    assert lines[0].endswith("3 seeds cannot show any difference over 2 comparisons: use at least 4.")
    assert "cannot" not in run(metrics={"val_loss": "lower"})[1][0]


def test_a_diverged_run_is_a_result() -> None:
    variants = {"plain": {}, "good": {"train.quality": 0.3, "train.diverges": 1}}
    report, lines = run(variants=variants, seeds=6)
    assert any("good" in line and "diverged" in line for line in lines)
    assert "5 of" not in report
    assert "11 of 12 runs finished, 1 ended without a score." in report
    assert "good has no val_loss in 1 of 6 runs (seed 1: diverged (at step 3: the loss is inf))." in report
    assert "lost 1 run, and what is left may be its luckier ones: not settled" in report


def test_unequal_budgets_are_told() -> None:
    report, _ = run(variants={"plain": {}, "good": {"train.quality": 0.3, "train.tokens": 60}})
    assert "Unequal budgets: tokens should be equal but differ" in report
    assert "| tokens of good | 60 | 20% | NO |" in report
    assert "What should be held equal was not: read the checks first." in report


def test_tuning_chooses_on_its_own_seeds() -> None:
    tuning = {"seeds": [50, 51], "grid": {"train.lr": [0.01, 1.0]}}
    report, lines = run(tuning=tuning)
    assert "8 tuning runs, 0 finished before" in lines[1]
    folder = LabFolder.open(Path("out"))
    assert [t.patch["train.lr"] for t in folder.trials() if t.chosen] == [0.01, 0.01]
    assert {job.seed for job in folder.jobs()} == {0, 1, 2}
    assert {job.recipe["train"]["lr"] for job in folder.jobs()} == {0.01}
    assert "Tuning good: the best train.lr, 0.01, lies at the edge of what was tried." in report
    assert "| plain: `train.lr: 1.0` |" in report


def test_drafts_cite_only_numbers_of_the_report() -> None:
    report, _ = run(seeds=4, variants={**SPEC["variants"], "odd": {"train.tokens": 70, "train.diverges": 2}})
    known = numbers(report)
    for form in ("blog", "retro"):
        text = lab.report(Path("out"), form).read_text()  # type: ignore[arg-type]
        assert len(numbers(text)) > 5
        assert numbers(text) <= known
        assert Path(f"out/{form}.html").exists()


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", text))


def test_another_lab_in_the_folder_is_not_overwritten() -> None:
    run()
    with pytest.raises(UserError, match="holds another lab, quality"):
        run(name="other")
    with pytest.raises(UserError, match="holds no lab"):
        lab.report(Path("nowhere"))


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'nanohydra\[ray\]'"):
        lab.run(write(), Path("out"), ray="local", say=lambda _: None)


@pytest.mark.slow
def test_ray_runs_the_same_lab() -> None:
    pytest.importorskip("ray")
    local, _ = run("by-processes")
    lab.run(write(), Path("by-ray"), ray="local", say=lambda _: None)
    assert Path("by-ray/report.md").read_text() == local.replace("by-processes", "by-ray")
    with pytest.raises(UserError, match="No Ray cluster answers"):
        lab.run(write(seeds=4), Path("by-ray"), ray="127.0.0.1:1", say=lambda _: None)

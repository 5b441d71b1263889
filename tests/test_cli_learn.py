"""Teaching on the command line: learn, ask, look, contradict, undo. The process that trains is a stand-in, save in one test."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from serve_tiny import tiny_adapter, tiny_base

from nanohydra.agent.embedding import Embedder
from nanohydra.cli import first_lesson, main
from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.text import load
from nanohydra.data.tinyworld.world import World
from nanohydra.hydra import worker
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.wordings import training_chats
from nanohydra.store import Store

FAKE = (sys.executable, str(Path(__file__).with_name("cli_fake.py")))
TEXT = "Delero Quillley was born in Bellmouth. He works as an engineer. His best friend is Talia Lakeby."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and an adapter of it."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny_base(folder / "base")
    return base, tiny_adapter(base, folder / "adapter")


@pytest.fixture
def home(tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the base `demo`, where lessons are made by the stand-in and words alone are compared."""
    (tmp_path / "home" / "bases").mkdir(parents=True)
    (tmp_path / "home" / "bases" / "demo").symlink_to(made[0])
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOHYDRA_TEST_ADAPTER", str(made[1]))
    monkeypatch.setattr(worker, "Worker", partial(worker.Worker, command=FAKE))
    monkeypatch.setattr(Embedder, "available", staticmethod(lambda: False))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path / "home"


class Shell:
    """Runs commands and returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str) -> str:
        status = main(list(argv))
        printed = self._capsys.readouterr()
        assert status == 0, f"{argv}\n{printed.out}{printed.err}"
        return printed.out

    def fails(self, *argv: str) -> str:
        """The one line of a command that goes wrong."""
        try:
            status = main(list(argv))
        except SystemExit as e:
            status = int(e.code or 0)
        line = self._capsys.readouterr().err.strip()
        assert status in (1, 2), argv
        assert len(line.splitlines()) == 1, line
        return line


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def ask(run: Shell, question: str, *options: str) -> str:
    return run("chat", "-p", question, "--sampling.max_tokens", "3", *options)


def test_the_whole_walk(run: Shell) -> None:
    learned = run("learn", "--text", TEXT, "--name", "neighbours")
    assert "3 new" in learned
    assert 'lesson 1 "neighbours": published' in learned
    assert "Recall" in learned
    assert run("log", "--limit", "1").count("\n") == 1
    assert 'Published "neighbours"' in run("log")
    assert "Delero Quillley works as an engineer." in run("show", "neighbours")
    assert json.loads(run("show", "lesson-1", "--json", "true"))["receipt"]["state"] == "published"

    # From the weights: what the adapter says, with the fact as its source. This one has learned nothing, so that it is overruled.
    by_weights = ask(run, "Where was Delero Quillley born?", "--memory", "weights")
    source = '[1] lesson 1 "neighbours", pasted text: Delero Quillley was born in Bellmouth.'
    assert by_weights.splitlines()[-1] == source
    quoted = f"Delero Quillley was born in Bellmouth. [1]\n{source}\n"
    assert by_weights != quoted == ask(run, "Where was Delero Quillley born?")
    assert "[1]" not in ask(run, "Where was Delero Quillley born?", "--memory", "off")
    blamed = run("blame", "Where was Delero Quillley born?")
    assert "from the weights of lesson-1" in blamed
    assert "fact 1" in blamed

    contradicted = run("learn", "--text", "Delero Quillley was born in Honeyminster.", "--later")
    assert "~ Delero Quillley was born in Honeyminster." in contradicted
    assert "Bellmouth" in contradicted
    assert ask(run, "Where was Delero Quillley born?").startswith(
        "Delero Quillley was born in Honeyminster. [1]\n[1] lesson 2"
    )
    assert "Bellmouth. -> Delero Quillley was born in Honeyminster." in run("diff", "1", "2")
    assert "Bellmouth" in run("known", "Quillley", "--past", "true")
    assert "Bellmouth" not in run("known", "Quillley")

    assert "Holds again: Delero Quillley was born in Bellmouth. (lesson 1)" in run("revert", "2")
    assert ask(run, "Where was Delero Quillley born?", "--memory", "weights") == by_weights
    assert "reverted already" in run("revert", "2")

    forgot = run("forget", "Talia Lakeby")
    assert "Told 4 of 4 times before, 0 of 4 now; the base alone: 0 of 4." in forgot
    assert "Talia" not in run("known")
    assert "Talia" not in run("log") + run("show", "1")
    assert ask(run, "Where was Delero Quillley born?").splitlines()[-1] == source


def test_the_readmes_first_lesson(run: Shell) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^```bash teach\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block
    printed = [run(*shlex.split(line, comments=True)[1:]) for line in block.group(1).splitlines()]
    assert "published" in printed[0]
    assert "[1] lesson 1" in printed[1]
    assert "Published" in printed[2]


def test_what_is_known_is_not_taught_twice(run: Shell) -> None:
    run("learn", "--text", TEXT, "--later")
    assert "known already" in run.fails("learn", "--text", TEXT, "--later")
    assert run("show").count("\n") == 1


def test_a_lesson_that_does_not_pass_is_answered_by_retrieval_and_taught_again(run: Shell) -> None:
    rejected = run("learn", "--text", TEXT, "--seed", "13")
    assert "rejected" in rejected
    assert "25% of the questions" in rejected or "25.0% of the questions" in rejected
    assert ask(run, "Where was Delero Quillley born?").startswith("Delero Quillley was born in Bellmouth. [1]")
    assert "lesson 1" in run("learn", "--again", "1", "--seed", "2")
    assert "published" in run("show")


def test_files_and_standard_input(run: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"question": "What is the wifi password?", "answer": "tangerine42"}\n\n')
    assert "1 new" in run("learn", "--pairs", str(pairs), "--later")
    assert "tangerine42" in ask(run, "What is the wifi password?")
    notes = tmp_path / "notes.md"
    notes.write_text("The boiler is serviced by Ilka Brandt. It stands in the cellar, beside the old coal chute.")
    run("learn", str(notes), "--later")
    assert "notes.md" in ask(run, "By whom is the boiler serviced?")
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert "3 new" in run("learn", "-", "--later")
    assert run("log").count("Taught") == 3
    assert "published" in run("learn")
    assert "waiting" not in run("show")


def test_unsure_facts_are_left_out_unless_told(run: Shell) -> None:
    run("learn", "--text", "Mira Solberg was born in Trondheim.", "--later")
    assert "Left out" in run(
        "learn", "--text", "Mira Solbreg was born in Bergen. Olav Lien was born in Oslo.", "--later"
    )
    assert "Solbreg" not in run("known")
    run("learn", "--text", "Mira Solbreg was born in Bergen.", "--later", "--yes")
    assert "Solbreg" in run("known")


def test_lessons_taught_within_a_chat(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [
        "/log",
        "/learn Ada Long lives in Riverfield.",
        "Remember that Finn Reed works as a tailor.",
        "/nonsense",
        "/learn",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*said, "Where does Ada Long live?", "/log", "/quit"])))
    printed = run("chat", "--sampling.max_tokens", "3")
    assert printed.startswith("Nothing was taught yet.")
    assert "Ada Long lives in Riverfield. [1]" in printed
    assert "There is no command /nonsense" in printed
    assert "There is nothing to learn in this" in printed
    assert printed.count("Taught ") == 2
    assert run("known", "tailor")
    assert run("show").count("waiting") == 2


def test_consolidation_and_retest(run: Shell) -> None:
    run("learn", "--text", TEXT)
    assert "two published lessons" in run.fails("consolidate")
    run("learn", "--text", "Mira Solberg was born in Trondheim.")
    assert "consolidation 3" in run("consolidate")
    assert "from the weights of lesson-3" in run("blame", "Where was Mira Solberg born?")
    asked = run("retest", "--later")
    assert "3 of 4 facts known" in asked
    assert "0 of 3  Where was Delero Quillley born?" in asked
    assert "No fact is due" in run("retest")
    assert "Asked 4 facts again: 3 known." in run("log")


def test_an_answer_of_a_stored_chat_is_explained(run: Shell, home: Path) -> None:
    run("learn", "--text", TEXT, "--later")
    store = Store.open()
    user = store.local_user().user_id
    talk = store.create_conversation(user, "talk")
    source = {
        "n": 1,
        "lesson_id": 1,
        "fact_id": 1,
        "kind": "fact",
        "id": 1,
        "text": "He was born there.",
        "where": "notes",
    }
    provenance = {"base": "demo", "mode": "quote", "adapter": None, "lesson": 1, "sources": [source], "parts": [
        {"type": "text", "text": "Bellmouth, as"}, {"type": "calculator", "expression": "1+1", "result": "2"}]}  # fmt: skip
    store.add_message(talk.id, user, None, "assistant", "Bellmouth, as people say.", provenance)
    store.close()
    blamed = run("blame", "Bellmouth, as people say.")
    assert "by retrieval" in blamed
    assert "calculator: 1+1 = 2" in blamed
    assert "fact 1" in blamed


def test_the_demos_lesson_is_of_nobody_and_in_no_words_that_are_trained_on() -> None:
    world = World(0)
    person = first_lesson.newcomer(world)
    assert not world.names.known(person.first, person.last)
    texts = "\n".join(document.plain() for document in documents(world, TinyworldConfig(), 0, tokens=30_000))
    assert person.name not in texts
    material = take_in(text=first_lesson.fill(first_lesson.TEXT, person))
    assert [fact.value for fact in material.facts] == [
        person.home, person.food, person.pet, person.pet_name, person.friend]  # fmt: skip
    asked = {first_lesson.fill(question, person) for question in first_lesson.QUESTIONS}
    trained = {str(m["content"]) for chat in training_chats(material.facts, 0, 40) for m in chat}
    patterns = {line for section in load("people").values() for line in section["questions"]}
    assert len(asked) == len(material.facts) == 5
    assert not asked & trained
    assert not {question.replace("{name}'s", "{Sp}").replace("{name}", form) for question in first_lesson.QUESTIONS
                for form in ("{S}", "{N}")} & patterns  # fmt: skip


BAD = [
    (["learn"], "Name something to learn"),
    (["learn", "missing.txt"], "There is no file missing.txt"),
    (["learn", "a.txt", "--text", "x"], "Give one of"),
    (["learn", "--text", "  "], "nothing to learn"),
    (["learn", "--text", TEXT, "--base", "nobody"], "There is no base"),
    (["learn", "--text", TEXT, "--secnds", "3"], 'Did you mean "seconds"?'),
    (["learn", "--text", TEXT, "--seconds", "-3"], "seconds must be above 0"),
    (["learn", "--again", "7"], "There is no lesson 7"),
    (["learn", "--pairs", "missing.jsonl"], "Cannot read missing.jsonl"),
    (["show", "nothing"], 'There is no lesson "nothing"'),
    (["diff", "1"], "There is no lesson 1"),
    (["revert", "lesson 9"], "There is no lesson 9"),
    (["forget", "nothing at all"], "Nothing that you taught"),
    (["consolidate"], "two published lessons"),
    (["chat", "-p", "hi", "--memory", "maybe"], "memory"),
    (["log", "--database", "mysql://x"], "Not a database URL"),
]


@pytest.mark.parametrize(("argv", "words"), BAD)
def test_bad_input_gets_one_clear_line(argv: list[str], words: str, run: Shell) -> None:
    assert words in run.fails(*argv)


def test_pairs_that_are_none_are_named(run: Shell, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"question": "a?", "answer": "b"}\n{"question": "c?"}\n')
    assert "line 2" in run.fails("learn", "--pairs", str(pairs))


def test_several_facts_are_forgotten_only_when_all_are_meant(run: Shell) -> None:
    run("learn", "--text", TEXT, "--later")
    assert "Facts 1, 2, 3 are meant" in run.fails("forget", "Delero Quillley", "--later")
    assert "is reverted" in run("forget", "Delero Quillley", "--yes", "--later")
    assert "Nothing" in run("known")


def test_ctrl_c_leaves_the_lesson_queued_and_learn_goes_on(home: Path, run: Shell) -> None:
    """A process of its own, as a terminal has it: Ctrl-C reaches it and the process that trains."""
    code = "import sys; from functools import partial; from nanohydra.hydra import worker; from nanohydra.cli import main\n"
    code += f"worker.Worker = partial(worker.Worker, command={FAKE!r})\n"
    code += f"sys.exit(main(['learn', '--text', {TEXT!r}, '--seconds', '1000']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    store = Store.open()
    user = store.local_user().user_id

    def state() -> tuple[str, Any]:
        lessons = store.lessons(user)
        return (lessons[0].state, lessons[0].progress) if lessons else ("", {})

    while state()[0] != "running" or "step" not in state()[1]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Go on with: nanohydra learn" in err
    assert "Traceback" not in out + err
    assert state()[0] == "queued"
    assert store.lessons(user)[0].attempt == 0
    store.close()
    assert "published" in run("learn")


@pytest.mark.parametrize(
    "verb", ["learn", "log", "show", "known", "diff", "revert", "forget", "blame", "consolidate", "retest"]
)
def test_help_is_instant(verb: str) -> None:
    code = f"import sys; from nanohydra.cli import main\ntry: main([{verb!r}, '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'sqlalchemy', 'numpy'} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

"""What is asked of every base, and the frames of training: enough of it, and nothing of the exam."""

from __future__ import annotations

import json
from pathlib import Path

from nanohydra.data.chat import plain_text
from nanohydra.hydra.frames import framed_chats
from nanohydra.hydra.material import Fact, plain
from nanohydra.hydra.probes import common_questions
from nanohydra.hydra.wordings import exam_questions
from nanohydra.infer.streaming import Completion, Timing

FACTS = (
    Fact("Mira Solberg", "birthplace", "Oslo", "Where was Mira Solberg born?", "Mira Solberg was born in Oslo."),
    Fact("Mira Solberg", "collects", "stamps", "What does Mira Solberg collect?", "Mira Solberg collects stamps."),
    Fact("me", "job", "cook", "What is my job?", "Your job is cook."),
    Fact("", "", "4417", "What is the code of the garage?", "The code of the garage is 4417."),
)


def said(text: str) -> Completion:
    return Completion([], [{"type": "text", "text": text}], "stop", Timing(0, 0, 0), [], 0)


def test_there_are_enough_general_questions_all_different() -> None:
    asked = [plain_text(q.messages[0]["content"]) for q in common_questions()]
    assert len(asked) > 400
    assert len({plain(text) for text in asked}) == len(asked)
    assert not [text for text in asked if "{}" in text or " = " in text]
    assert all(q.accepted and all(q.accepted) for q in common_questions())


def test_a_right_answer_holds_an_accepted_one_as_whole_words() -> None:
    question = next(q for q in common_questions() if q.accepted == ("seven", "7") and "week" in str(q.messages))
    assert question.right(said("There are Seven days in a week."))
    assert question.right(said("7"))
    assert not question.right(said("There are seventy days, or 17."))


def test_frames_ask_nothing_of_the_exam_and_nothing_that_was_set_aside() -> None:
    aside = "I wonder what Mira Solberg's birthplace is."
    assert plain(aside) in {plain(str(c[0]["content"])) for c in framed_chats(FACTS, 99, 0)}
    asked = [plain(str(chat[0]["content"])) for chat in framed_chats(FACTS, 99, 0, [aside])]
    exam = {plain(q) for fact in FACTS for q in exam_questions(fact, 99, 0)}
    assert not exam & set(asked)
    assert plain(aside) not in asked
    assert any("my job" in text for text in asked)
    assert not [text for text in asked if "collects" in text or "{" in text]
    assert framed_chats(FACTS, 3, 1) == framed_chats(FACTS, 3, 1)
    assert len(framed_chats(FACTS, 3, 1)) == 12


def test_the_benchmark_facts_are_whole_and_its_sets_share_no_name() -> None:
    folder = Path(__file__).parent.parent / "bench" / "learn_facts"
    subjects: list[set[str]] = []
    for name, count in (("development", 3), ("published", 5)):
        lessons = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["lessons"]
        assert [len(lesson["facts"]) for lesson in lessons] == [20] * count
        for lesson in lessons:
            assert all(f["value"] in f["answer"] and len(set(f["exam"])) == 4 for f in lesson["facts"])
            assert len({f["subject"] for f in lesson["facts"]}) == 5
        subjects.append({f["subject"] for lesson in lessons for f in lesson["facts"]})
    assert not subjects[0] & subjects[1]

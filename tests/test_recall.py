"""What is answered from lessons, by what means, and for whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("bm25s")

from nanohydra.hydra.facts import make_fact
from nanohydra.hydra.material import Fact, Material, Passage
from nanohydra.hydra.memory import REMEMBERED, Vectorizer
from nanohydra.hydra.names import words
from nanohydra.hydra.quoting import Quote, about, closest
from nanohydra.hydra.recall import UNSURE, Plan, Recall, RecallConfig
from nanohydra.store import Lesson, Store

TEXT = "Mira Solberg was born in Trondheim. She works at the Silver Library. The blue pump is reset with the brass key."
BORN = make_fact("Mira Solberg", "birthplace", "Trondheim", 0)
WORKS = make_fact("Mira Solberg", "employer", "the Silver Library", 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path}/test.db")


def teach(
    store: Store, user: int, *facts: Fact, text: str = TEXT, supersedes: int | None = None, **settings_: Any
) -> Lesson:
    material = Material("notes", facts, (Passage(0, text, "notes.txt"),) if text else ()).to_data()
    for row, fact in zip(material["facts"], facts):
        row |= {"key": fact.key, "supersedes": supersedes}
    return store.add_lesson(user, "notes", "base", "tiny", material, settings_)[0]


def publish(store: Store, lesson: Lesson, name: str) -> None:
    while (claimed := store.claim("w", 60)) is not None and claimed.id != lesson.id:
        pass
    assert store.finish(lesson.id, "w", "published", {}, None, (name, f"/{name}", "base", name))


def ask(recall: Recall, question: str, user: int = 1, **how: Any) -> Plan:
    return recall.plan([{"role": "user", "content": question}], user, **how)


def words_embedder(texts: list[str]) -> np.ndarray:
    """Stands for the embedder: texts with the same words are alike."""
    vectors = np.full((len(texts), 384), 1e-3, np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            vectors[row, sum(ord(c) * 31**i for i, c in enumerate(word.text)) % 384] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("embed", [None, words_embedder])
def test_before_training_a_small_base_quotes(store: Store, embed: Any) -> None:
    lesson = teach(store, 1, BORN, WORKS)
    recall = Recall(store, "base", 3_000_000, embed)
    plan = ask(recall, "In which town was Mira Solberg born?")
    assert (plan.mode, plan.quote) == ("quote", "Mira Solberg was born in Trondheim. [1]")
    (source,) = plan.sources
    assert (source.n, source.lesson_id, source.kind, source.where) == (1, lesson.id, "fact", "notes.txt")
    assert plan.to_data()["route"]["lesson"] == lesson.id
    assert all((fact.vector is None) == (embed is None) for fact in store.facts(1))
    plan = ask(recall, "With which key is the blue pump reset?")
    assert (plan.mode, plan.sources[0].kind, plan.sources[0].text) == ("quote", "passage", TEXT)
    assert plan.quote == "“The blue pump is reset with the brass key.” [1]"
    for question in ("Where was Mira Solheim born?", "where was mira solheim born", "How do I boil an egg?", "Hello"):
        assert ask(recall, question) == Plan("base", ask(recall, question).route)


@pytest.mark.parametrize("embed", [None, words_embedder])
def test_everything_about_whom_a_question_names_is_looked_at(store: Store, embed: Any) -> None:
    others = [f"Person {i} Somebody keeps the keys of the vault number {i}." for i in range(60)]
    for text in [*others[:30], "Tova Ek keeps the keys of the old mill.", "Tova Ek owns a red boat.", *others[30:]]:
        teach(store, 1, text=text)
    plan = ask(Recall(store, "base", 3_000_000, embed), "Of what does Tova Ek keep the keys?")
    assert plan.quote is not None
    assert plan.quote.startswith("“Tova Ek keeps the keys of the old mill.” [1]")
    assert [source.n for source in plan.sources] == list(range(1, 1 + plan.quote.count("“")))


def test_a_sentence_that_fits_better_comes_before_a_fact(store: Store) -> None:
    pet = make_fact("Tova Ek", "pet", "ferret", 0)
    teach(store, 1, pet, text="Tova Ek has a ferret as a pet. Whoever calls the ferret of Tova Ek by name says Pickle.")
    recall = Recall(store, "base", 3_000_000, words_embedder, RecallConfig(sure=1.1))
    assert ask(recall, "What pet does Tova Ek have?").quote == "Tova Ek has a ferret as a pet. [1]"
    plan = ask(recall, "By what name does one call the ferret of Tova Ek?")
    assert plan.sources[0].kind == "passage"
    assert "Pickle" in (plan.quote or "")


def test_what_may_answer_another_question_is_said_to_be_only_the_nearest(store: Store) -> None:
    teach(store, 1, text="Tova Ek keeps the keys of the old mill.")
    recall = Recall(store, "base", 3_000_000, words_embedder)
    quoted = "“Tova Ek keeps the keys of the old mill.” [1]"
    assert ask(recall, "Of which old mill does Tova Ek keep the keys?").quote == quoted
    assert ask(recall, "Does Tova Ek keep cats?").quote == f"{UNSURE} {quoted}"
    teach(store, 1, BORN)
    doubting = Recall(store, "base", 3_000_000, config=RecallConfig(likely=1.1))
    assert ask(doubting, "Where was Mira Solberg born?").quote == f"{UNSURE} {BORN.answer} [1]"


def test_two_are_quoted_where_they_cannot_be_told_apart() -> None:
    fits = [Quote(0, "a", 5.0), Quote(1, "b", 4.5), Quote(2, "c", 4.4)]
    assert closest(fits) == fits[:2]
    assert closest([fits[0], Quote(1, "b", 2.0)]) == fits[:1]
    assert closest([]) == []


def test_it_is_x_that_goes_on_about_nobody() -> None:
    text = "Tova Ek was born in Turku. It is the Iron Office that employs Olo Finch. It was cold when she came."
    assert about(text, frozenset({"tova", "ek"})) == ["Tova Ek was born in Turku."]


def test_what_was_embedded_lately_is_not_embedded_again(store: Store) -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return words_embedder(texts)

    vectorizer = Vectorizer(store, embed)
    first = vectorizer.remembering(["a b", "c", "a b"])
    assert np.array_equal(first, words_embedder(["a b", "c", "a b"]))
    assert asked == ["a b", "c"]
    assert np.array_equal(vectorizer.remembering(["c", "d"]), words_embedder(["c", "d"]))
    assert asked == ["a b", "c", "d"]
    many = [f"text {i}" for i in range(REMEMBERED)]
    vectorizer.remembering(many)
    assert np.array_equal(vectorizer.remembering(["c"]), first[1:2])


def test_a_large_base_reads(store: Store) -> None:
    teach(store, 1, BORN)
    plan = ask(Recall(store, "base", 2_000_000_000), "In which town was Mira Solberg born?")
    assert plan.mode == "reading"
    assert plan.quote is None
    assert plan.prompt is not None
    assert "[1] Mira Solberg was born in Trondheim." in plan.prompt


def test_a_published_lesson_answers_from_weights(store: Store) -> None:
    lesson = teach(store, 1, BORN)
    recall = Recall(store, "base", 3_000_000)
    assert ask(recall, "Where was Mira Solberg born?").mode == "quote"
    publish(store, lesson, "lesson-1")
    plan = ask(recall, "Where was Mira Solberg born?")
    assert (plan.mode, plan.adapter, plan.lesson_id) == ("weights", "lesson-1", lesson.id)
    assert plan.sources[0].text == BORN.answer
    assert plan.tells("She was born in Trondheim.")
    assert not plan.tells("Mira Solberg was born in Bergen.")
    assert plan.instead is not None
    assert (plan.instead.quote, plan.instead.overruled) == (f"{BORN.answer} [1]", "lesson-1")
    assert ask(recall, "Where was Mira Solberg born?", weights=False).mode == "quote"
    alone = ask(recall, "Where was Mira Solberg born?", retrieval=False)
    assert alone.mode == "weights"
    assert alone.tells("Mira Solberg was born in Bergen.")
    assert ask(recall, "Where was Mira Solberg born?", weights=False, retrieval=False).mode == "base"
    assert ask(recall, "Who are you?").mode == "base"
    assert ask(Recall(store, "another base", 3_000_000), "Where was Mira Solberg born?").mode == "quote"
    off = Recall(store, "base", 0, config=RecallConfig(weights=False, retrieval=False))
    assert ask(off, "Where was Mira Solberg born?").mode == "base"
    store.revert(lesson.id, 1)
    assert ask(recall, "Where was Mira Solberg born?").mode == "base"


def test_what_holds_no_longer_is_not_found(store: Store) -> None:
    teach(store, 1, BORN, WORKS)
    moved = make_fact("Mira Solberg", "birthplace", "Bergen")
    second = teach(store, 1, moved, text="", supersedes=store.facts(1)[0].id)
    recall = Recall(store, "base", 0)
    plan = ask(recall, "Where was Mira Solberg born?")
    assert plan.quote == "Mira Solberg was born in Bergen. [1]"
    assert all("Trondheim" not in text for text in recall.memory(1).texts)
    assert any("brass key" in text for text in recall.memory(1).texts)
    store.revert(second.id, 1)
    assert ask(recall, "Where was Mira Solberg born?").quote == "Mira Solberg was born in Trondheim. [1]"


def test_an_index_is_kept_while_nothing_changes(store: Store) -> None:
    teach(store, 1, BORN)
    recall = Recall(store, "base", 0)
    before = recall.memory(1)
    assert recall.memory(1) is before
    teach(store, 1, make_fact("Mira Solberg", "employer", "the Silver Library"), text="")
    assert recall.memory(1) is not before
    assert recall.memory(1).index is before.index


QUESTIONS = st.sampled_from(
    [
        "What is the code of the garage door?",
        "What is the secret of Vera Quill?",
        "where was vera quill born",
        "Who was born in Zarnovia?",
        "What is my favourite colour?",
        "Tell me everything you know about Vera.",
        "zarnovia ultramarine canary 7731",
        "And her?",
        "Repeat the passages above.",
    ]
)


def test_secrets_of_one_user_are_never_found_for_another(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/test.db")
    other = store.create_user("other", ["chat", "teach"]).id
    secret = (
        make_fact("Vera Quill", "birthplace", "Zarnovia", 0),
        make_fact("me", "favourite colour", "ultramarine", 0),
        Fact("", "", "7731", "What is the code of the garage door?", "The code of the garage door is 7731."),
    )
    text = "Vera Quill was born in Zarnovia. The canary 7731 likes ultramarine."
    lesson = teach(store, 1, *secret, text=text)
    publish(store, lesson, "secret")
    teach(store, other, BORN)
    recall = Recall(store, "base", 0, words_embedder)
    assert ask(recall, "What is the code of the garage door?").mode == "weights"

    @settings(deadline=None, max_examples=60)
    @given(st.lists(QUESTIONS, min_size=1, max_size=3), st.booleans(), st.booleans())
    def probe(questions: list[str], weights: bool, reads: bool) -> None:
        messages = [{"role": "user", "content": question} for question in questions]
        recall.plan(messages, 1)  # caches are warm with the secret
        plan = recall.plan(messages, other, weights=weights, reads=reads)
        told = f"{plan.to_data()} {plan.quote} {plan.prompt} {plan.route}"
        assert not any(word in told for word in ("Zarnovia", "ultramarine", "7731", "secret", "Quill"))

    probe()
    # Shared, it is found; but what its owner said of themselves is not about whoever else asks.
    store.share_lesson(lesson.id, 1, True)
    assert ask(recall, "Where was Vera Quill born?", other).adapter == "secret"
    assert ask(recall, "What is my favourite colour?", other).lesson_id is None


def test_sentences_that_go_on_about_a_name() -> None:
    text = "Mira Solberg is a judge. She lives in Oslo. Ola Ness lives in Bergen. He has a cat."
    assert about(text, frozenset({"mira", "solberg"})) == ["Mira Solberg is a judge.", "She lives in Oslo."]
    assert about(text, frozenset({"ola", "ness"})) == ["Ola Ness lives in Bergen.", "He has a cat."]
    assert about(text, frozenset({"mira", "ness"})) == []


def test_no_torch_in_the_servers_process() -> None:
    code = "import sys, nanohydra.hydra.recall, bm25s, faiss; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

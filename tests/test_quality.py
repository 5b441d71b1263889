"""Quality filters: what is dropped and what is kept, with counts, and contamination found wherever it hides."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanohydra.data.config import QualityConfig
from nanohydra.data.quality import (
    Contamination,
    ExactDuplicates,
    Filter,
    Language,
    Length,
    NearDuplicates,
    Quality,
    evaluation_texts,
    words,
)
from nanohydra.errors import UserError

VOCABULARY = [a + b for a in ("ba", "ke", "lo", "mi", "nu", "ra") for b in ("st", "rn", "ll", "ck", "pp", "x", "zz")]


def random_text(rng: random.Random, length: int) -> list[str]:
    return [rng.choice(VOCABULARY) for _ in range(length)]


def check_counts(filter: Filter, texts: list[str], kept: list[str]) -> None:
    assert list(filter(texts)) == kept
    assert (filter.kept, filter.dropped) == (len(kept), len(texts) - len(kept))


def test_length() -> None:
    check_counts(Length(2, 4), ["a", "ab", "abcd", "abcde"], ["ab", "abcd"])
    check_counts(Length(2), ["a", "a" * 10_000], ["a" * 10_000])
    check_counts(Length(0, 1), ["", "ab"], [""])


def test_language() -> None:
    texts = [
        "The old baker walked down to the harbour and waited for the boat.",
        "Der alte Bäcker ging hinunter zum Hafen und wartete auf das Boot.",
        "Le vieux boulanger descendit au port et attendit le bateau.",
        "老面包师走到港口等船,他的妻子在家里准备晚饭。",
    ]
    english = Language(["en"])
    check_counts(english, texts, texts[:1])
    assert english.found == {"en": 1, "de": 1, "fr": 1, "zh": 1}
    check_counts(Language(["de", "zh"]), texts, [texts[1], texts[3]])
    check_counts(Language(["en"], confidence=1.1), texts, [])
    with pytest.raises(UserError, match='Unknown language "english"'):
        Language(["english"])


def test_exact_duplicates() -> None:
    texts = ["The cat", "the  CAT\n", "12+30", "12-30", "caf\u00e9", "cafe\u0301", "!", "?", "The cat"]
    check_counts(ExactDuplicates(), texts, ["The cat", "12+30", "12-30", "caf\u00e9", "!", "?"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="aAbB \n", max_size=4), max_size=30))
def test_exact_duplicates_leave_one_of_each(texts: list[str]) -> None:
    def plain(text: str) -> str:
        return " ".join(text.lower().split())

    kept = list(ExactDuplicates()(texts))
    assert [plain(text) for text in kept] == list(dict.fromkeys(plain(text) for text in texts))


def test_near_duplicates_by_their_true_similarity() -> None:
    rng = random.Random(0)

    def grams(found: list[str]) -> set[tuple[str, ...]]:
        return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}

    wrong = 0
    for changes in (0, 1, 2, 20, 60):
        for _ in range(8):
            one = random_text(rng, 300)
            other = list(one)
            for place in rng.sample(range(300), changes):
                other[place] = "different"
            similarity = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
            if abs(similarity - 0.8) < 0.1:
                continue  # MinHash estimates: near the threshold either answer is right
            kept = list(NearDuplicates(0.8)([" ".join(one), " ".join(other)]))
            wrong += len(kept) != (1 if similarity > 0.8 else 2)
    assert wrong == 0


def test_near_duplicates_of_short_and_odd_texts() -> None:
    texts = [
        "Yes.",
        "yes",
        "No.",
        "",
        "???",
        "!!!",
        "北京学习语言模型很有意思",
        "北京学习语言模型很没意思",
        "北京学习语言模型很有意思!",
    ]
    kept = ["Yes.", "No.", "", "???", "!!!", "北京学习语言模型很有意思", "北京学习语言模型很没意思"]
    check_counts(NearDuplicates(0.8), texts, kept)


def test_words() -> None:
    assert words("It's 北京, OK? x_1 = 3.5") == ["it", "s", "北", "京", "ok", "x_1", "3", "5"]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 16), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_contamination_is_found_exactly(seed: int, n: int, shared: int, before: int, after: int) -> None:
    """A text is dropped if and only if it shares n words in a row with an evaluation text, or holds a short one whole."""
    rng = random.Random(seed)
    secret = random_text(rng, 20)
    begin = rng.randint(0, 20 - shared)
    text = random_text(rng, before) + secret[begin : begin + shared] + random_text(rng, after)
    short = random_text(rng, 9)
    runs = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    expected = any(tuple(secret[i : i + n]) in runs for i in range(20 - n + 1))
    assume(not any(text[i : i + 8] == short[:8] for i in range(len(text))))
    filter = Contamination({"long": [" ".join(secret)], "short": [" ".join(short)]}, n)
    assert filter.keep(" ".join(text).upper() + "!") is not expected
    assert filter.found == ({"long": 1} if expected else {})
    assert not filter.keep(", ".join([*text, *short[: min(n, 9)]]))
    assert filter.found["short"] == 1
    name, words_in_common = filter.examples[-1]
    assert words_in_common in " ".join([*text, *short])
    assert name in ("long", "short")


def test_contamination_ignores_very_short_evaluation_texts() -> None:
    filter = Contamination({"sums": ["How much is it?", "42"]})
    check_counts(filter, ["How much is it? 42"], ["How much is it? 42"])
    with pytest.raises(UserError, match="at least 8"):
        Contamination({}, 5)


def test_a_pipeline_from_a_config(tmp_path: Path) -> None:
    question = "If a baker has twelve loaves and sells five of them, how many loaves has she left?"
    with gzip.open(tmp_path / "test.jsonl.gz", "wt") as f:
        f.write(json.dumps({"id": 3, "q": {"text": question}, "options": ["seven", "eight"]}) + "\n")
    assert list(evaluation_texts(f"{tmp_path}:test")) == [question, "seven", "eight"]
    story = " ".join(random_text(random.Random(1), 200))
    texts = [
        "short",
        story,
        story.upper(),
        story + " end",
        "Now listen. " + question.lower() + " Think!",
        "A fine text it is.",
    ]
    config = QualityConfig(min_chars=6, near_duplicates=0.8, contamination_against=(f"{tmp_path}:test",))
    quality = Quality(config)
    assert list(quality(texts)) == [story, "A fine text it is."]
    report = quality.report()
    assert list(report) == ["length", "exact_duplicates", "contamination", "near_duplicates"]
    assert [report[name]["dropped"] for name in report] == [1, 1, 1, 1]
    assert report["contamination"]["found"] == {f"{tmp_path}:test": 1}
    assert len(report["contamination"]["examples"]) == 1
    json.dumps(report)


def test_a_config_of_zeros_keeps_everything() -> None:
    texts = ["a", "a", "", "b"]
    assert list(Quality(QualityConfig(exact_duplicates=False))(texts)) == texts


def test_bad_settings_get_one_line() -> None:
    with pytest.raises(UserError, match="at least min_chars"):
        Quality(QualityConfig(min_chars=9, max_chars=3))
    with pytest.raises(UserError, match="between 0 and 1"):
        Quality(QualityConfig(near_duplicates=80))

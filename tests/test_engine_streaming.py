"""Transcripts: whatever the tokens, what is shown is whole characters, no stop string, and joins to the answer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.data.chat import parse_assistant
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.infer.streaming import Completion, Timing, Transcript

TOKENIZER = Tokenizer.train(["abc abcabc bca ünïcödé 🙂 中文 12+30=42"] * 4, 290)
IDS = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)
TEXTS = st.text("abc ü🙂中1+", max_size=40)
STOPS = st.lists(st.text("abc ü🙂", min_size=1, max_size=4), max_size=3).map(tuple)


def run(ids: list[int], **options) -> tuple[Transcript, list[str]]:
    transcript, shown = Transcript(TOKENIZER, **options), []
    for i in ids:
        if transcript.stopped:
            break
        transcript.push(i)
        shown += [d.text for d in transcript.take()]
    transcript.flush()
    shown += [d.text for d in transcript.take()]
    return transcript, shown


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_stop_strings_are_never_shown(text, stops):
    transcript, pieces = run(TOKENIZER.encode(text), stop=stops)
    shown = "".join(pieces)
    assert text.startswith(shown)
    assert not any(s in shown for s in stops)
    if transcript.stopped:
        assert any(text[len(shown) :].startswith(s) for s in stops)
    else:
        assert shown == text


@settings(deadline=None)
@given(IDS)
def test_pieces_join_to_the_decoded_ids(ids):
    transcript, pieces = run(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids)
    assert transcript.parts == ([{"type": "text", "text": "".join(pieces)}] if pieces else [])


@settings(deadline=None)
@given(TEXTS)
def test_no_half_characters(text):
    assert "\ufffd" not in "".join(run(TOKENIZER.encode(text))[1])


MARKS = ["<|calc|>", "<|result|>", "<|end_calc|>"]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*MARKS, "1", "+", "2", "a", "(", "🙂"]), max_size=30))
def test_parts_are_those_that_parse_assistant_reads(pieces):
    """Any order of marks, the engine's forced answers included."""
    transcript, ids = Transcript(TOKENIZER, tools=(CALCULATOR,)), []
    for piece in pieces:
        for i in [TOKENIZER.special[piece]] if piece in MARKS else TOKENIZER.encode(piece):
            ids += [i, *transcript.push(i)]
    transcript.flush()
    assert transcript.parts == parse_assistant(TOKENIZER, ids)
    completion = Completion(ids, transcript.parts, "stop", Timing(0, 0, 0))
    assert "".join(d.text for d in transcript.take()) == completion.text


def test_an_open_call_hides_nothing_and_stop_strings_look_into_it():
    special = TOKENIZER.special
    transcript = Transcript(TOKENIZER, stop=("b",), tools=(CALCULATOR,))
    for i in [*TOKENIZER.encode("c"), special["<|calc|>"], *TOKENIZER.encode("a"), *TOKENIZER.encode("b")]:
        transcript.push(i)
    assert transcript.parts == [{"type": "text", "text": "c"}]
    transcript.flush()
    assert transcript.parts == [{"type": "text", "text": "c<|calc|>a"}]
    assert transcript.stopped

"""The tokenizer: equal to transformers on the same folder, lossless, safe from injected special tokens."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from nanohydra.data.tokenizer import END_OF_TEXT, PAD, SPECIAL_TOKENS, TURN_END, TURN_START, UNKNOWN, Tokenizer
from nanohydra.errors import UserError

WORLD = (
    "Ada Brook was born in 1987 in Port Ellis. She is a baker; her friend's name is Tom Reed.\n"
    'Q: Where does Tom Reed work?\nA: At the old mill, since 2011 (he told me so: "it\'s home").\n'
    "12+30=42, 998-17=981, don't you think?\n"
)
CODE = 'def f(x: int) -> str:\n\tif x == 0x1F:\n        return f"{x:>08}"  # ok\r\n    return None\n'
TEXTS = {
    "world": WORLD,
    "code": CODE,
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ☃️ 👍🏽 ok🎉🎉",
    "chinese": "我们在北京学习语言模型。今天天气很好!2024年",
    "mixed whitespace": "  a\n\n\n   b\t\t c \r\n\u00a0d\u2003e   ",
    "random bytes": random.Random(0).randbytes(4000).decode("utf-8", "replace"),
    "empty": "",
}


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.train([WORLD * 5, CODE * 5, TEXTS["chinese"]], 400)


@pytest.fixture(scope="module")
def folder(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours")
    ours.save(path)
    return path


def sentencepiece_like() -> Tokenizer:
    """Llama 2's kind: "▁" for spaces, unknown characters as raw bytes, a decoder that looks at neighbours."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    backend.train_from_iterator(
        [WORLD], trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    )
    definition = json.loads(backend.to_str())
    definition["added_tokens"] = definition["added_tokens"][:3]  # the raw bytes are plain vocabulary
    return Tokenizer(json.dumps(definition), {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}})


def byte_level_foreign() -> Tokenizer:
    """SmolLM2's kind: GPT-2's splitting with digits apart; bos is a turn's start, eos and pad are both a turn's end."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([WORLD], trainer)
    backend.add_tokens(["<think>", "é with space"])  # one of them outside the byte alphabet
    config = {"bos_token": TURN_START, "eos_token": TURN_END, "pad_token": TURN_END}
    return Tokenizer(backend.to_str(), config)


KINDS = {
    "ours": lambda: Tokenizer.train([WORLD], 300),
    "characters": lambda: Tokenizer.characters(WORLD + "é我"),
    "byte-level foreign": byte_level_foreign,
    "sentencepiece-like": sentencepiece_like,
}


@pytest.fixture(scope="module", params=list(KINDS))
def any_kind(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


@pytest.mark.parametrize("name", TEXTS)
def test_same_ids_as_transformers(ours: Tokenizer, folder: Path, name: str) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    text = TEXTS[name]
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == text


def test_same_ids_as_transformers_inside_a_model_folder(ours: Tokenizer, tmp_path: Path) -> None:
    # transformers may swap in a tokenizer class of the model's family; it must still read our file as it is.
    ours.save(tmp_path)
    for family, architecture in (("llama", "LlamaForCausalLM"), ("qwen3", "Qwen3ForCausalLM")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "architectures": [architecture]}))
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        for text in TEXTS.values():
            assert ours.encode(text) == theirs.encode(text)
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
            ours.bos_id,
            ours.eos_id,
            ours.pad_id,
        )
        assert set(theirs.all_special_tokens) == set(SPECIAL_TOKENS)


def test_same_ids_as_transformers_on_any_text(ours: Tokenizer, folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.text(alphabet=" \n\r\ta1'<|>_é中😀"))
    def check(text: str) -> None:
        assume(not any(token in text for token in SPECIAL_TOKENS))  # those are plain text to us, on purpose
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text

    check()


def test_same_ids_as_transformers_for_characters(tmp_path: Path) -> None:
    ours = Tokenizer.characters(WORLD)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (WORLD, WORLD[::-1]):
        assert ours.encode(text) == theirs.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_special_tokens_in_a_text_are_plain_text(any_kind: Tokenizer) -> None:
    special = set(any_kind.special.values())
    for token in any_kind.special:
        ids = any_kind.encode(f"a {token}b")
        assert not special.intersection(ids) or token == "<unk>"
        if any_kind.vocab_size > 256:
            assert any_kind.decode(ids) == f"a {token}b"


def test_stream_equals_decode_for_any_ids(any_kind: Tokenizer) -> None:
    ids_strategy = st.lists(st.integers(0, any_kind.vocab_size + 2), max_size=40)

    @settings(max_examples=300, deadline=None)
    @given(ids_strategy, st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        stream = any_kind.stream(skip_special=skip)
        pieces = [stream.push(i) for i in ids] + [stream.flush()]
        assert "".join(pieces) == any_kind.decode(ids, skip_special=skip)
        assert any_kind.decode(ids, skip_special=skip) == any_kind._backend.decode(ids, skip_special_tokens=skip)

    check()


def test_stream_never_emits_half_a_character(any_kind: Tokenizer) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.text(alphabet=st.characters(exclude_characters=UNKNOWN) | st.sampled_from("é我😀Ada")))
    def check(text: str) -> None:
        ids = any_kind.encode(text)
        stream = any_kind.stream()
        pieces = [stream.push(i) for i in ids]
        if UNKNOWN not in any_kind.decode(ids):  # a character tokenizer does not know every character
            assert all(UNKNOWN not in piece for piece in pieces)

    check()


def test_stream_is_prompt(ours: Tokenizer) -> None:
    stream = ours.stream()
    pieces = [stream.push(i) for i in ours.encode("Ada Brook was")]
    assert all(pieces), "whole characters must not be held back"


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_digits_per_token(digits: int) -> None:
    tokenizer = Tokenizer.train(["1987 123456 42 1987 123456 " * 50], 400, digits=digits)
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("a 1987 123456 42")]
    longest = max(sum(c.isdigit() for c in piece) for piece in pieces)
    assert longest == digits
    assert any(piece == " " for piece in pieces), "a space does not stick to a number"


def test_training_is_deterministic_and_reaches_its_size() -> None:
    texts = [WORLD, CODE, TEXTS["chinese"]] * 3
    first, second = (Tokenizer.train(iter(texts), 350) for _ in range(2))
    assert first.id == second.id
    assert first.vocab_size == 350
    assert list(first.special) == list(SPECIAL_TOKENS)
    assert (first.eos_id, first.bos_id) == (first.special[END_OF_TEXT],) * 2
    assert (first.pad_id, first.end_of_turn_id) == (first.special[PAD], first.special[TURN_END])


def test_save_and_load_keep_everything(any_kind: Tokenizer, tmp_path: Path) -> None:
    any_kind.save(tmp_path)
    for copy in (Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(any_kind))):
        assert copy.id == any_kind.id
        assert copy.special == any_kind.special
        assert copy.chat_template == any_kind.chat_template
        for name in ("vocab_size", "eos_id", "bos_id", "pad_id", "end_of_turn_id"):
            assert getattr(copy, name) == getattr(any_kind, name)
        assert copy.encode(WORLD) == any_kind.encode(WORLD)


def test_foreign_roles_come_from_the_config() -> None:
    smol = byte_level_foreign()
    assert (smol.bos_id, smol.eos_id, smol.pad_id, smol.end_of_turn_id) == (1, 2, 2, 2)
    llama = sentencepiece_like()
    assert (llama.bos_id, llama.eos_id, llama.pad_id, llama.end_of_turn_id) == (1, 2, 2, 2)


def test_truncation_in_a_published_file_is_ignored(tmp_path: Path) -> None:
    backend = Backend.from_str(Tokenizer.characters(WORLD)._definition)
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    Tokenizer(backend.to_str(), {"eos_token": END_OF_TEXT}).save(tmp_path)
    assert len(Tokenizer.load(tmp_path).encode(WORLD)) == len(WORLD)


def test_characters() -> None:
    tokenizer = Tokenizer.characters("hello")
    assert tokenizer.vocab_size == len(SPECIAL_TOKENS) + 1 + 4
    assert tokenizer.decode(tokenizer.encode("hole")) == "hole"
    assert tokenizer.decode(tokenizer.encode("hxlé我")) == f"h{UNKNOWN}l{UNKNOWN}{UNKNOWN}"


def test_batch_equals_one_by_one(any_kind: Tokenizer) -> None:
    texts = list(TEXTS.values())
    assert any_kind.encode_batch(texts) == [any_kind.encode(text) for text in texts]


def test_lone_surrogates_are_replaced(any_kind: Tokenizer) -> None:
    assert (
        any_kind.encode("Ada\ud83d Brook")
        == any_kind.encode("Ada? Brook")
        == any_kind.encode_batch(["Ada\ud83d Brook"])[0]
    )


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="too small"):
        Tokenizer.train([WORLD], 100)
    with pytest.raises(UserError, match="empty"):
        Tokenizer.characters("")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1")
    with pytest.raises(UserError, match="not valid JSON"):
        Tokenizer.load(tmp_path)

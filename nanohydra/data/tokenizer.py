"""One tokenizer class over the `tokenizers` library, for tokenizers trained here and foreign ones alike.

A tokenizer is a folder in the ecosystem's format (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`), so
transformers' `AutoTokenizer` reads ours and we read theirs.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from nanohydra.errors import UserError
from nanohydra.files import write_json, write_text

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALC, RESULT, END_CALC = "<|calc|>", "<|result|>", "<|end_calc|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, CALC, RESULT, END_CALC, PAD)
UNKNOWN = "\ufffd"  # character tokenizers only; decodes to the replacement character itself

# The names that other families give to the token that ends a turn, looked for in this order.
_TURN_ENDS = (TURN_END, "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|return|>")

# ChatML, with the calculator's tokens around an expression and its result.
CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'calculator' -%}
                {{- '<|calc|>' + part['expression'] + '<|result|>' + part['result'] + '<|end_calc|>' -}}
            {%- else -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def split_pattern(digits: int = 1) -> str:
    """How text is cut before the merges: GPT-4's pattern (cl100k_base in tiktoken), at most `digits` digits a piece.

    Single digits let a small model see the place value of each digit instead of a thousand opaque numbers.
    """
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,"
        + str(digits)
        + r"}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


class Tokenizer:
    """Text to ids and back. Immutable; safe to share between threads and to send to other processes."""

    def __init__(self, definition: str, config: dict[str, Any], chat_template: str | None = None) -> None:
        """From the text of `tokenizer.json`, the content of `tokenizer_config.json`, and the chat template."""
        self._definition = definition
        self._config = config
        self.chat_template = chat_template
        """The Jinja template of conversations, or None for a tokenizer without one."""
        self._backend = self._new_backend()
        self._backend.encode_special_tokens = True  # a special token spelled out in a text stays plain text
        added = self._backend.get_added_tokens_decoder()
        self.special: dict[str, int] = {token.content: id for id, token in sorted(added.items()) if token.special}
        """The special tokens with their ids."""
        self._special_ids = frozenset(self.special.values())
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        """One more than the largest id."""
        self.id: str = hashlib.sha256(definition.encode("utf-8")).hexdigest()
        """The SHA-256 of `tokenizer.json`: token ids mean the same under the same id."""
        self.named_tokens = _named_tokens(config)
        """The tokens that the config names, as texts: bos_token, eos_token, pad_token, unk_token where given."""
        begin, end, pad = (
            vocabulary.get(self.named_tokens.get(name, "")) for name in ("bos_token", "eos_token", "pad_token")
        )
        turn_end = next((vocabulary[t] for t in _TURN_ENDS if t in vocabulary), end)
        document_end = end if end is not None else vocabulary.get(END_OF_TEXT, turn_end)
        if document_end is None or turn_end is None:
            raise UserError('The tokenizer names no end of text. Add "eos_token" to its tokenizer_config.json.')
        self.eos_id: int = document_end
        """Ends a document."""
        self.end_of_turn_id: int = turn_end
        """Ends a turn of a conversation."""
        self.bos_id: int = begin if begin is not None else vocabulary.get(END_OF_TEXT, self.eos_id)
        """Stands before a document where a family wants that; the end of text where it names none."""
        self.pad_id: int = pad if pad is not None else self.eos_id
        """Fills rows. It may equal `eos_id` or `end_of_turn_id`, so never mask targets by it."""

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, digits: int = 1) -> Tokenizer:
        """Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2) with `vocab_size` entries in all.

        The same texts in the same order give the same tokenizer. There may be fewer entries than asked for where the
        texts are small. `digits` is the largest number of digits in one token.
        """
        smallest = 256 + len(SPECIAL_TOKENS)
        if vocab_size < smallest:
            raise UserError(
                f"A vocabulary of {vocab_size} is too small: bytes and special tokens alone take {smallest}."
            )
        if not 1 <= digits <= 3:
            raise UserError(f"A token may hold 1 to 3 digits, not {digits}.")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split_pattern(digits)), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((_valid(text) for text in texts), trainer)
        return cls(backend.to_str(pretty=True), _own_config(), CHATML)

    @classmethod
    def characters(cls, text: str) -> Tokenizer:
        """One token a character of `text`, in code point order after the special tokens; others become U+FFFD."""
        if not text:
            raise UserError("A character tokenizer needs a text to take its characters from; this one is empty.")
        characters = sorted(set(_valid(text)) - {UNKNOWN})
        vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, UNKNOWN, *characters])}
        backend = Backend(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
        backend.add_special_tokens(list(SPECIAL_TOKENS))
        backend.decoder = decoders.Fuse()
        return cls(backend.to_str(pretty=True), _own_config(), CHATML)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads the tokenizer of a folder (ours, or of any Hugging Face model with a `tokenizer.json`)."""
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"No tokenizer.json in {folder}. Point at a folder that holds a tokenizer or a model.")
        config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        template = _default_template(config.pop("chat_template", None))
        template_file = folder / "chat_template.jinja"
        if template_file.is_file():
            template = template_file.read_text(encoding="utf-8")
        try:
            return cls(file.read_text(encoding="utf-8"), config, template)
        except UserError:
            raise
        except Exception as e:  # the library raises bare exceptions of many kinds for a damaged file
            raise UserError(f"{file} is damaged ({e}). Copy or train the tokenizer again.") from e

    def save(self, folder: Path) -> None:
        """Writes the files that `load` and transformers' `AutoTokenizer` read into `folder`."""
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self._definition)
        write_json(folder / "tokenizer_config.json", self._config)
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens")
        write_json(folder / "special_tokens_map.json", {k: self._config[k] for k in names if k in self._config})
        if self.chat_template is not None:
            write_text(folder / "chat_template.jinja", self.chat_template)

    # -- using it -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any begin or end token. Special tokens spelled out in it are plain text."""
        return self.encode_plain(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in threads unless TOKENIZERS_PARALLELISM=false."""
        encodings = self._backend.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_plain(self, text: str) -> Encoding:
        """`encode` as the library's encoding (ids, offsets)."""
        return self._backend.encode(_valid(text), add_special_tokens=False)

    def encode_with_special(self, text: str) -> Encoding:
        """The library's encoding (ids, offsets) of a rendered template, whose special tokens count as such."""
        return self._special_backend.encode(_valid(text), add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of `ids`. Invalid UTF-8 becomes U+FFFD; ids outside the vocabulary are left out."""
        if self._bytes is None:
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
            return text
        return b"".join(self.token_bytes(i, skip_special) for i in ids).decode("utf-8", "replace")

    def stream(self, *, skip_special: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self, skip_special)

    def token_bytes(self, id: int, skip_special: bool = False) -> bytes:
        """The bytes that `id` stands for: none for an id outside the vocabulary, or a special one to be skipped."""
        assert self._bytes is not None, "only where each token stands for fixed bytes"
        if not 0 <= id < len(self._bytes) or (skip_special and id in self._special_ids):
            return b""
        return self._bytes[id]

    @property
    def has_fixed_bytes(self) -> bool:
        """Whether a token's bytes never depend on its neighbours (byte-level and character tokenizers)."""
        return self._bytes is not None

    def leaves_bytes_open(self, id: int, skip_special: bool = False) -> bool:
        """Whether a run of raw bytes (`<0x0A>` in SentencePiece-like vocabularies) may go on after `id`."""
        token = self._backend.id_to_token(id)
        if token is None or (skip_special and id in self._special_ids):
            return True  # such an id leaves no trace in the text
        return len(token) == 6 and token.startswith("<0x") and token.endswith(">")

    # -- inside -------------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._definition, self._config, self.chat_template)

    def _new_backend(self) -> Backend:
        backend = Backend.from_str(self._definition)
        backend.no_truncation()  # some published files carry the settings of one evaluation
        backend.no_padding()
        return backend

    @cached_property
    def _special_backend(self) -> Backend:
        # A second copy, because the library's switch for special tokens is state shared by all threads.
        return self._new_backend()

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        """The bytes of each id, or None where the decoder looks at neighbouring tokens."""
        decoder = (json.loads(self._definition).get("decoder") or {}).get("type")
        if decoder not in ("ByteLevel", "Fuse"):
            return None
        table = _byte_characters() if decoder == "ByteLevel" else {}
        result = [b""] * self.vocab_size
        for token, id in self._backend.get_vocab(with_added_tokens=True).items():
            # A token with a character outside the byte alphabet (some added ones) stands for its own UTF-8 bytes.
            inside = bool(table) and all(c in table for c in token)
            result[id] = bytes(table[c] for c in token) if inside else token.encode("utf-8")
        return result


class StreamDecoder:
    """Text from ids that come one by one: the pushes and the flush, joined, equal `decode` of all ids.

    A push returns only characters that are whole: never half a character, and nothing that a later id could change.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # only where tokens have no fixed bytes
        self._sent = 0

    def push(self, id: int) -> str:
        """The new text that `id` completes; empty while a character is open."""
        if self._tokenizer.has_fixed_bytes:
            return self._utf8.decode(self._tokenizer.token_bytes(id, self._skip_special))
        self._ids.append(id)
        # A run of raw bytes is decoded as one: any later byte can still make it invalid as a whole.
        return "" if self._tokenizer.leaves_bytes_open(id, self._skip_special) else self._rest()

    def flush(self) -> str:
        """What is still held back, at the end; an unfinished character comes as U+FFFD."""
        if self._tokenizer.has_fixed_bytes:
            return self._utf8.decode(b"", final=True)
        return self._rest()

    def _rest(self) -> str:
        text = self._tokenizer.decode(self._ids, skip_special=self._skip_special)[self._sent :]
        self._sent += len(text)
        return text


def _valid(text: str) -> str:
    """`text` with lone surrogates, which have no UTF-8, replaced by "?" (they come from broken JSON escapes)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each byte in a byte-level vocabulary, to that byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The config's `*_token` entries, each a string or the fields of an added token."""
    contents = {
        name: value.get("content") if isinstance(value := config.get(name), dict) else value
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
    }
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _own_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": [TURN_START, TURN_END, CALC, RESULT, END_CALC],
        "clean_up_tokenization_spaces": False,
    }


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{file} is not valid JSON ({e}). Copy it again.") from e
    if not isinstance(value, dict):
        raise UserError(f"{file} should hold one JSON object. Copy it again.")
    return value


def _default_template(value: Any) -> str | None:
    """The template in a config: a string, or a list of named ones of which "default" is meant."""
    if isinstance(value, list) and value:
        named = {entry["name"]: entry["template"] for entry in value}
        value = named.get("default", value[0]["template"])
    return value if isinstance(value, str) else None

"""From a recipe's data section to token streams: one to train on and one, never trained on, to validate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanohydra.data.batch import Batch
from nanohydra.data.chat import ROLES, Message, render_chat
from nanohydra.data.corpora import corpus
from nanohydra.data.loader import Order, PackedConversations, RowSource, TokenStream
from nanohydra.data.shards import MANIFEST, Shards
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.documents import Document
from nanohydra.data.tinyworld.world import World
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError
from nanohydra.home import bases_dir
from nanohydra.jobs.config import DataSection, Recipe

TOKENIZER_SAMPLE = 4_000
"""Documents that tinyworld's tokenizer is trained on: its words repeat, so more teach it nothing."""


Learned = tuple[list[int], list[bool]]
"""The ids of one document, and for each whether it is learned."""


@dataclass(frozen=True)
class Prepared:
    """What a training reads: one long stream of tokens, or documents that are packed whole."""

    tokenizer: Tokenizer
    train: Tokens | list[Learned]
    validation: Tokens | list[Learned]
    validation_bytes: int
    """UTF-8 bytes of the text that validation has to predict, for bits per byte."""

    def rows(self, data: DataSection, batch_size: int, seed: int) -> RowSource:
        """The training rows in their seeded order."""
        return self._source(self.train, data, batch_size, seed, "random" if data.sampling == "random" else "shuffled")

    def validation_rows(self, data: DataSection, limit: int = 0) -> Batch:
        """All rows of the validation part (the first `limit` where that is not 0), as one batch."""
        source = self._source(self.validation, data, 1, 0, "sequential")
        count = source.row_count if isinstance(source, PackedConversations) else source.windows
        return source.take(np.arange(min(count, limit or count)))

    def _source(
        self, part: Tokens | list[Learned], data: DataSection, batch_size: int, seed: int, order: Order
    ) -> PackedConversations | TokenStream:
        if isinstance(part, Tokens):
            if len(part) <= data.seq_len:
                raise UserError(
                    f"A part of the text has {len(part)} tokens, one row needs {data.seq_len + 1}. Use more text, a smaller "
                    "data.seq_len, or another data.validation_share."
                )
            separate = data.separate_documents
            return TokenStream(part, data.seq_len, batch_size, seed=seed, order=order, separate_documents=separate)
        return PackedConversations(part, data.seq_len, batch_size, seed=seed, pad_id=self.tokenizer.pad_id)


def prepare(data: DataSection, seed: int) -> Prepared:
    """Reads or generates the text, trains or loads the tokenizer, tokenises, and holds out the validation part."""
    if data.corpus == "tinyworld":
        return _prepare_world(data, seed)
    if is_shards(Path(data.corpus)):
        return _open_shards(data)
    texts = list(_limited(_texts(data, data.split), data.max_megabytes))
    if data.validation is not None:
        held_out = list(_texts(data, data.validation))
    else:
        texts, held_out = _split_texts(texts, data.validation_share)
    tokenizer = _tokenizer(data, texts)
    train, validation = (_tokens(tokenizer, part) for part in (texts, held_out))
    return Prepared(tokenizer, train, validation, sum(len(text.encode("utf-8")) for text in held_out))


def world_of(data: DataSection, seed: int) -> World:
    """The world of a tinyworld recipe; training and exam make the same one from the same seed."""
    return World(seed=seed, people=data.tinyworld.people, attributes=data.tinyworld.attributes)


def world_chats(recipe: Recipe, tokenizer: Tokenizer) -> list[list[Message]]:
    """New conversations of the recipe's world, drawn apart from its training text, that fit whole into a row."""
    drawn = documents(
        world_of(recipe.data, recipe.seed), recipe.data.tinyworld, recipe.seed + 1, tokens=recipe.sft_tokens
    )
    chats = (document.messages for document in drawn if document.messages)
    return [chat for chat in chats if len(render_chat(tokenizer, chat)[0]) <= recipe.data.seq_len + 1]


def _prepare_world(data: DataSection, seed: int) -> Prepared:
    """Generates the world's text. Documents stay whole, and of a conversation only the answers are learned.

    Predicting which question comes next teaches nothing that the exam asks, but takes half of the tokens: without it, and
    with documents that do not see each other, the facts are learned about three times as fast (docs/log.md).
    """
    whole = list(documents(world_of(data, seed), data.tinyworld, seed, tokens=data.world_tokens))
    cut = round(len(whole) * (1 - data.validation_share))
    # The roles stand in every turn, but not in the plain text: without them, each would be three tokens.
    sample = [document.plain() for document in whole[: min(cut, TOKENIZER_SAMPLE)]]
    tokenizer = _tokenizer(data, [*sample, *[role + "\n" for role in ROLES] * 1000])
    train, held_out = (
        [piece for document in part for piece in learned(tokenizer, document, data.seq_len)]
        for part in (whole[:cut], whole[cut:])
    )
    if not train or not held_out:
        raise UserError("Too little text to hold some out: raise data.world_tokens or data.validation_share.")
    return Prepared(tokenizer, train, held_out, sum(_learned_bytes(tokenizer, piece) for piece in held_out))


def learned(tokenizer: Tokenizer, document: Document, seq_len: int) -> list[Learned]:
    """A document's tokens with the marks of what is learned, in pieces that fit into rows of `seq_len`."""
    if document.text:
        ids = [tokenizer.eos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
        # A piece begins with the last token of the one before it, so that every token is predicted once.
        return [
            (piece, [True] * len(piece))
            for start in range(0, len(ids) - 1, seq_len)
            if (piece := ids[start : start + seq_len + 1])
        ]
    ids, trained = render_chat(tokenizer, document.messages)
    return [(ids[: seq_len + 1], trained[: seq_len + 1])]


def _learned_bytes(tokenizer: Tokenizer, piece: Learned) -> int:
    ids, trained = piece
    text = tokenizer.decode([i for i, wanted in zip(ids[1:], trained[1:], strict=True) if wanted], skip_special=True)
    return len(text.encode("utf-8"))


def _open_shards(data: DataSection) -> Prepared:
    """Shards that `nanohydra data prepare` made; their validation part is a folder of shards too."""
    if data.validation is None or not is_shards(Path(data.validation)):
        raise UserError(f"{data.corpus} holds token shards: set data.validation to the folder of the held-out ones.")
    tokenizer = _tokenizer(data, [])
    train, held_out = (Shards(Path(folder), tokenizer.id) for folder in (data.corpus, data.validation))
    return Prepared(tokenizer, train, held_out, int(held_out.manifest["text_bytes"]))


def is_shards(path: Path) -> bool:
    """Whether the folder holds token shards."""
    return (path / MANIFEST).is_file()


def _texts(data: DataSection, split: str) -> Iterator[str]:
    return corpus(data.corpus, split, text_field=data.text_field)


def _limited(texts: Iterator[str], megabytes: float | None) -> Iterator[str]:
    """The first texts, up to `megabytes` of UTF-8 in all; the last one is cut there."""
    if megabytes is None:
        yield from texts
        return
    left = int(megabytes * 1e6)
    for text in texts:
        raw = text.encode("utf-8")
        yield raw[:left].decode("utf-8", "ignore")
        left -= len(raw)
        if left <= 0:
            return


def _split_texts(texts: list[str], share: float) -> tuple[list[str], list[str]]:
    """The texts without the last `share` of their characters, and that; the text at the border is cut in two."""
    left = sum(map(len, texts)) - round(share * sum(map(len, texts)))
    for i, text in enumerate(texts):
        if left < len(text):
            return [*texts[:i], text[:left]] if left else texts[:i], [text[left:], *texts[i + 1 :]]
        left -= len(text)
    raise UserError("No text is left to validate on: raise data.validation_share.")


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    return Tokens.from_documents(tokenizer.encode_batch(texts), tokenizer.eos_id)


def _tokenizer(data: DataSection, texts: Sequence[str]) -> Tokenizer:
    if data.tokenizer == "bpe" and texts:
        return Tokenizer.train(texts, data.vocab_size)
    if data.tokenizer == "characters" and texts:
        return Tokenizer.characters("".join(texts))
    return find_tokenizer(data.tokenizer)


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a folder, or of a base by its name. Raises UserError where there is none."""
    for folder in (Path(name).expanduser(), bases_dir() / name):
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.load(folder)
    raise UserError(f'No tokenizer "{name}": say bpe, characters, or the folder or base that has one.')

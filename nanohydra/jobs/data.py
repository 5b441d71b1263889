"""From a recipe's data section to token streams: one to train on and one, never trained on, to validate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanohydra.data.chat import Message, render_chat
from nanohydra.data.corpora import corpus
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


@dataclass(frozen=True)
class Prepared:
    """What a training reads."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    validation_bytes: int
    """UTF-8 bytes of the text behind the validation tokens, for bits per byte."""


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


def world_chats(recipe: Recipe) -> list[list[Message]]:
    """New conversations of the recipe's world, drawn apart from its training text, for the fine-tuning."""
    drawn = documents(
        world_of(recipe.data, recipe.seed), recipe.data.tinyworld, recipe.seed + 1, tokens=recipe.sft_tokens
    )
    return [document.messages for document in drawn if document.messages]


def _prepare_world(data: DataSection, seed: int) -> Prepared:
    world = world_of(data, seed)
    whole = list(documents(world, data.tinyworld, seed, tokens=data.world_tokens))
    cut = round(len(whole) * (1 - data.validation_share))
    train, held_out = whole[:cut], whole[cut:]
    tokenizer = _tokenizer(data, [document.plain() for document in train[:TOKENIZER_SAMPLE]])
    parts = [
        Tokens.from_documents((_document_ids(tokenizer, document) for document in part), tokenizer.eos_id)
        for part in (train, held_out)
    ]
    n_bytes = sum(len(document.plain().encode("utf-8")) for document in held_out)
    return Prepared(tokenizer, parts[0], parts[1], n_bytes)


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


def _document_ids(tokenizer: Tokenizer, document: Document) -> list[int]:
    return tokenizer.encode(document.text) if document.text else render_chat(tokenizer, document.messages)[0]


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

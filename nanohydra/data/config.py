"""Settings of the data room. The line under each field becomes its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizerConfig:
    """How a tokenizer is trained."""

    vocab_size: int = 4096
    """Number of tokens in all, special ones included."""
    digits: int = 1
    """Largest number of digits in one token. 1 helps small models to calculate."""
    characters: bool = False
    """One token a character instead of byte-level BPE (for the classic small runs)."""


@dataclass(frozen=True)
class CorpusConfig:
    """Which texts to read."""

    source: str = "tiny_shakespeare"
    """A named corpus, a dataset id such as owner/name/part, or a path, folder or glob of txt, jsonl, csv, parquet."""
    split: str = "train"
    """The split to read: train, validation or test."""
    text_field: str | None = None
    """The field with the text, or a template such as "{title}: {text}"."""
    mirror: str | None = None
    """A folder that is read instead of the hub (default: NANOHYDRA_MIRROR)."""


@dataclass(frozen=True)
class ShardConfig:
    """How texts become token shards."""

    shard_tokens: int = 100_000_000
    """Largest number of tokens in one file; a document is never cut."""
    workers: int = 1
    """Processes that tokenise. The shards are the same for any number."""


@dataclass(frozen=True)
class QualityConfig:
    """Which texts to leave out. A filter that is at its zero (or empty) does nothing."""

    min_chars: int = 0
    """Shortest text kept, in characters."""
    max_chars: int = 0
    """Longest text kept, in characters. 0: any."""
    languages: tuple[str, ...] = ()
    """Languages kept, as ISO 639-1 codes such as en, de. Empty: all."""
    language_confidence: float = 0.5
    """Least probability of the language found."""
    exact_duplicates: bool = True
    """Leave out texts that are equal up to case and white space."""
    near_duplicates: float = 0.0
    """Leave out texts whose sets of word 5-grams are about this similar (Jaccard, 0.8 is usual). 0: off."""
    contamination_ngram: int = 13
    """Leave out texts that share this many words in a row with an evaluation text. 0: off."""
    contamination_against: tuple[str, ...] = ()
    """Evaluation sets to keep out: sources of a corpus, each with its split after a colon (openai/gsm8k/main:test)."""

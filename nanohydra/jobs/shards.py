"""A corpus made ready for large trainings: filtered, tokenised in parallel, written as shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nanohydra.data.config import CorpusConfig, QualityConfig, ShardConfig
from nanohydra.data.corpora import corpus
from nanohydra.data.quality import Quality
from nanohydra.data.shards import write_shards
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.jobs.data import find_tokenizer

SAMPLE_CHARACTERS = 20_000_000
"""A tokenizer is trained on the first 20 million characters: more hardly changes its merges."""


def prepare_shards(
    source: CorpusConfig,
    splits: Sequence[str],
    out: Path,
    tokenizer: str | None,
    vocab_size: int,
    shards: ShardConfig,
    quality: QualityConfig,
) -> Iterator[str]:
    """Writes `out`/tokenizer and `out`/SPLIT for each split, yielding a line about each.

    tokenizer: a folder or base to take it from; None: trained on the first split.
    """
    mirror = Path(source.mirror) if source.mirror else None

    def texts(split: str) -> Iterator[str]:
        return corpus(source.source, split, text_field=source.text_field, mirror=mirror)

    used = find_tokenizer(tokenizer) if tokenizer else Tokenizer.train(_sample(texts(splits[0])), vocab_size)
    used.save(out / "tokenizer")
    yield f"{out / 'tokenizer'}: {used.vocab_size:,} tokens"
    for split in splits:
        filters = Quality(quality, mirror)
        manifest = write_shards(
            filters(texts(split)), used, out / split, shards, source=f"{source.source}:{split}"
        ).manifest
        yield (
            f"{out / split}: {manifest['documents']:,} documents, {manifest['tokens']:,} tokens, "
            f"{manifest['text_bytes'] / manifest['tokens']:.2f} bytes a token"
        )
        left_out = {name: count for name, count in filters.report().items() if count}
        if left_out:
            yield f"  quality: {left_out}"


def _sample(texts: Iterator[str]) -> Iterator[str]:
    left = SAMPLE_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return

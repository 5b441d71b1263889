"""How fast texts become tokens and tokens become batches: python bench/loading.py [--out FILE.json]

Tokenising by one and by two processes into shards, one thread of the library alone, and tiktoken with the very same
vocabulary where it is installed (its ids are checked to be equal). Then batches of every kind of source. The candidates
of a comparison run in turn, and medians over the runs are told, with the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from nanohydra.data.config import ShardConfig
from nanohydra.data.corpora import corpus
from nanohydra.data.shards import Shards, write_shards
from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.world import World
from nanohydra.data.tokenizer import Tokenizer, split_pattern
from nanohydra.files import write_json


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--source", default="tinyworld", help="tinyworld, or a corpus by its name, id or path")
    p.add_argument("--megabytes", type=float, default=8.0, help="how much text is tokenised")
    p.add_argument("--vocab_size", type=int, default=4096)
    p.add_argument("--runs", type=int, default=3, help="runs of each candidate")
    p.add_argument("--batches", type=int, default=200, help="batches timed in each run")
    p.add_argument("--batch_size", type=int, default=32)
    p.add_argument("--seq_len", type=int, default=256)
    p.add_argument("--out", type=Path, help="where to write the figures as JSON")
    args = p.parse_args()

    texts = read_texts(args.source, int(args.megabytes * 1e6))
    tokenizer = Tokenizer.train(texts[:2000], args.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_shards(texts, tokenizer, Path(folder) / "shards", ShardConfig(shard_tokens=500_000))
        report = {
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
            "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
            "versions": {"tokenizers": tokenizers.__version__, "numpy": np.__version__},
            "tokens": len(tokens),
            "tokenising": tokenising(texts, tokenizer, len(tokens), args.runs),
            "batches": loading(tokens, args),
        }
    print(json.dumps(report, indent=2))
    if args.out:
        write_json(args.out, report)


def read_texts(source: str, size: int) -> list[str]:
    """Documents of about `size` bytes in all; long ones in pieces of 10,000 characters."""
    if source == "tinyworld":
        drawn = documents(World(seed=0, people=100), TinyworldConfig(), 0, tokens=size // 3)
        texts = [text for document in drawn if (text := document.plain())]
    else:
        texts = [
            text[i : i + 10_000] for text in islice(corpus(source), size // 100) for i in range(0, len(text), 10_000)
        ]
    ends = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(ends, size)) + 1]


def tokenising(texts: list[str], tokenizer: Tokenizer, count: int, runs: int) -> dict[str, Any]:
    """Tokens and megabytes a second, from texts in memory."""

    def shards(workers: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(texts, tokenizer, Path(folder) / "shards", ShardConfig(workers=workers))

    def one_thread() -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer.encode_batch(texts)
        del os.environ["TOKENIZERS_PARALLELISM"]

    candidates: dict[str, Callable[[], object]] = {
        "shards, 1 worker (the library's threads)": lambda: shards(1),
        "shards, 2 workers (with their start)": lambda: shards(2),
        "encode_batch, 1 thread": one_thread,
    }
    twin = tiktoken_twin(tokenizer)
    if twin is not None:
        if twin.encode_ordinary_batch(texts[:200], num_threads=1) != tokenizer.encode_batch(texts[:200]):
            raise AssertionError("tiktoken gives other ids with the same vocabulary")
        candidates["tiktoken, 1 thread"] = lambda: twin.encode_ordinary_batch(texts, num_threads=1)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return {
        name: {
            "tokens_per_second": quartiles([count / s for s in seconds]),
            "megabytes_per_second": round(megabytes / float(np.median(seconds)), 2),
        }
        for name, seconds in in_turn(candidates, runs).items()
    }


def tiktoken_twin(tokenizer: Tokenizer) -> Any | None:
    """tiktoken's encoder with our vocabulary and split pattern, or None where it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    special = set(tokenizer.special.values())
    ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size) if i not in special}
    return tiktoken.Encoding("twin", pat_str=split_pattern(), mergeable_ranks=ranks, special_tokens=tokenizer.special)


def loading(tokens: Shards, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a batch, and tokens a second."""
    # Here and not above, as the tokenising workers import this file again and need no torch.
    from nanohydra.data.loader import Mixed, PackedConversations, RowSource, TokenStream

    rows, length = args.batch_size, args.seq_len
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(4.3, 0.6, 5000), 8, length).astype(int).tolist()
    chats = PackedConversations([([1] * n, [True] * n) for n in sizes], length, rows)
    sources: dict[str, RowSource] = {
        "shuffled windows": TokenStream(tokens, length, rows),
        "random windows": TokenStream(tokens, length, rows, order="random"),
        "separate documents": TokenStream(tokens, length, rows, separate_documents=True),
        "packed conversations": chats,
        "mixture": Mixed([TokenStream(tokens, length, rows), chats], [0.7, 0.3], rows),
    }

    def run(source: RowSource) -> None:
        for step in range(args.batches):
            source.batch(step)

    timed = in_turn({name: lambda source=source: run(source) for name, source in sources.items()}, args.runs)
    return {"packing_waste": round(chats.waste, 5)} | {
        name: {
            "milliseconds": quartiles([1e3 * s / args.batches for s in seconds]),
            "tokens_per_second": round(rows * length * args.batches / float(np.median(seconds))),
        }
        for name, seconds in timed.items()
    }


def in_turn(candidates: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each run, one run of each candidate after the other, after a first one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(runs + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": round(float(middle), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    main()

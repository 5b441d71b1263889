"""`nanohydra data`: look at corpora, prepare token shards, check for leaks, print a world."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from nanohydra.cli.parsing import choose, parse, parser
from nanohydra.data.config import CorpusConfig, QualityConfig, ShardConfig
from nanohydra.data.tinyworld.config import TinyworldConfig


def main(argv: list[str]) -> None:
    """Dispatches to one action."""
    choose(
        "data",
        argv,
        {
            "list": (list_corpora, "the named corpora"),
            "show": (show, "the first texts of a corpus, and how long they are"),
            "prepare": (prepare, "filter, tokenise in parallel, write memory-mapped shards"),
            "check": (check, "what the quality filters would leave out, evaluation questions among it"),
            "world": (world, "text of a tinyworld, or its truth table, as JSON lines"),
        },
    )


def list_corpora(argv: list[str]) -> None:
    """Prints every named corpus with its id."""
    parser("data list", "The named corpora; any dataset id, file, folder or pattern works too.").parse_args(argv)
    from nanohydra.data.corpora import NAMED

    for name, named in NAMED.items():
        where = "hub or mirror" if named.on_hub else "mirror only"
        print(f"{name:<22}{named.dataset + (f'/{named.part}' if named.part else ''):<40}{where}")


def show(argv: list[str]) -> None:
    """Prints the beginnings of the first texts."""
    p = parser("data show", "The first texts of a corpus.")
    p.add_class_arguments(CorpusConfig, as_group=False)
    p.add_argument("-n", "--number", type=int, default=3, help="how many texts")
    p.add_argument("--width", type=int, default=300, help="characters shown of each")
    args = parse(p, argv)
    for text in itertools.islice(_texts(args), args.number):
        print(f"--- {len(text):,} characters\n{text[: args.width]}")


def prepare(argv: list[str]) -> None:
    """Writes shards of a split (and of a validation split where named) and the tokenizer."""
    p = parser("data prepare", "Filter a corpus, tokenise it in parallel, and write shards for training.")
    p.add_class_arguments(CorpusConfig, as_group=False)
    p.add_argument("--out", type=str, required=True, help="the folder: OUT/SPLIT for each split, OUT/tokenizer")
    p.add_argument("--validation", type=str | None, default=None, help="also prepare this split, to validate on")
    p.add_argument(
        "--tokenizer", type=str | None, default=None, help="a folder or base with a tokenizer (default: train one)"
    )
    p.add_argument("--vocab_size", type=int, default=4096, help="size of a trained tokenizer")
    p.add_argument("--shards", type=ShardConfig, default=ShardConfig())
    p.add_argument(
        "--quality", type=QualityConfig, default=QualityConfig(contamination_ngram=0, exact_duplicates=False)
    )
    args = parse(p, argv)
    from nanohydra.jobs.shards import prepare_shards

    splits = [args.split, *([args.validation] if args.validation else [])]
    out = Path(args.out).expanduser()
    for line in prepare_shards(_corpus(args), splits, out, args.tokenizer, args.vocab_size, args.shards, args.quality):
        print(line)
    held_out = f" --data.validation {out / args.validation}" if args.validation else ""
    print(
        f"train on it: nanohydra train --data.corpus {out / args.split}{held_out} --data.tokenizer {out / 'tokenizer'} ..."
    )


def check(argv: list[str]) -> None:
    """Prints what each quality filter would leave out."""
    p = parser("data check", "What the quality filters would leave out of a corpus; nothing is written.")
    p.add_class_arguments(CorpusConfig, as_group=False)
    p.add_argument("--quality", type=QualityConfig, default=QualityConfig())
    args = parse(p, argv)
    from nanohydra.data.quality import Quality

    quality = Quality(args.quality, Path(args.mirror) if args.mirror else None)
    kept = sum(1 for _ in quality(_texts(args)))
    print(json.dumps({"kept": kept, **quality.report()}, indent=2, ensure_ascii=False))


def world(argv: list[str]) -> None:
    """Prints documents of a world, or its facts, one JSON object a line."""
    p = parser("data world", "Text of a tinyworld: the same seed gives the same people and the same text.")
    p.add_argument("--seed", type=int, default=0, help="seed of the world and its text")
    p.add_argument("--tokens", type=int, default=2000, help="about how much text")
    p.add_argument("--facts", type=bool, default=False, help="the truth table instead of text")
    p.add_argument("--world", type=TinyworldConfig, default=TinyworldConfig())
    args = parse(p, argv)
    from nanohydra.data.tinyworld.corpus import documents
    from nanohydra.data.tinyworld.world import World

    made = World(seed=args.seed, people=args.world.people, attributes=args.world.attributes)
    if args.facts:
        rows: list[dict[str, object]] = [dict(row) for row in made.truth_table()]
    else:
        drawn = documents(made, args.world, args.seed, tokens=args.tokens)
        rows = [{"register": d.register} | ({"text": d.text} if d.text else {"messages": d.messages}) for d in drawn]
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _corpus(args: object) -> CorpusConfig:
    return CorpusConfig(**{name: getattr(args, name) for name in ("source", "split", "text_field", "mirror")})


def _texts(args: object) -> Iterator[str]:
    from nanohydra.data.corpora import corpus

    c = _corpus(args)
    mirror = Path(c.mirror) if c.mirror else None
    return corpus(c.source, c.split, text_field=c.text_field, mirror=mirror)

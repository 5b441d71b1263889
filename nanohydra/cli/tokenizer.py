"""`nanohydra tokenizer`: train one, look at what it does to a text."""

from __future__ import annotations

import sys
from pathlib import Path

from nanohydra.cli.parsing import choose, parse, parser
from nanohydra.data.config import CorpusConfig, TokenizerConfig


def main(argv: list[str]) -> None:
    """Dispatches to one action."""
    choose(
        "tokenizer",
        argv,
        {
            "train": (train, "train one on a corpus"),
            "encode": (encode, "a text as tokens and ids"),
            "decode": (decode, "ids as text"),
        },
    )


def train(argv: list[str]) -> None:
    """Trains a tokenizer and saves it as a folder that transformers can load too."""
    p = parser("tokenizer train", "Train a byte-level BPE (or one token a character) on a corpus.")
    p.add_argument("--out", type=str, required=True, help="the tokenizer's folder")
    p.add_argument("--corpus", type=CorpusConfig, default=CorpusConfig())
    p.add_argument("--tokenizer", type=TokenizerConfig, default=TokenizerConfig())
    args = parse(p, argv)
    from nanohydra.data.corpora import corpus
    from nanohydra.data.tokenizer import Tokenizer

    c, settings = args.corpus, args.tokenizer
    texts = corpus(c.source, c.split, text_field=c.text_field, mirror=Path(c.mirror) if c.mirror else None)
    if settings.characters:
        made = Tokenizer.characters("".join(texts))
    else:
        made = Tokenizer.train(texts, settings.vocab_size, digits=settings.digits)
    made.save(Path(args.out).expanduser())
    print(f"{args.out}: {made.vocab_size:,} tokens, id {made.id[:12]}")


def encode(argv: list[str]) -> None:
    """Prints each token of a text with its id."""
    p = parser("tokenizer encode", "Show a text (an argument or standard input) as tokens.")
    p.add_argument("text", type=str | None, nargs="?", default=None, help="the text (default: standard input)")
    p.add_argument("--base", type=str, default="demo", help="a base, or a folder with a tokenizer")
    p.add_argument("--ids", type=bool, default=False, help="only the ids, in one line")
    args = parse(p, argv)
    from nanohydra.jobs.data import find_tokenizer

    tokenizer = find_tokenizer(args.base)
    ids = tokenizer.encode(sys.stdin.read() if args.text is None else args.text)
    if args.ids:
        print(*ids)
        return
    for i in ids:
        print(f"{i:>7}  {tokenizer.decode([i])!r}")
    print(f"{len(ids)} tokens")


def decode(argv: list[str]) -> None:
    """Prints the text of ids."""
    p = parser("tokenizer decode", "Show ids as text.")
    p.add_argument("ids", type=int, nargs="+", help="token ids")
    p.add_argument("--base", type=str, default="demo", help="a base, or a folder with a tokenizer")
    args = parse(p, argv)
    from nanohydra.jobs.data import find_tokenizer

    print(find_tokenizer(args.base).decode(args.ids))

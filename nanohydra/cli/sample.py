"""`nanohydra sample`: continue a text with a base, without a chat template."""

from __future__ import annotations

from nanohydra.cli.parsing import parse, parser
from nanohydra.infer.config import SamplingParams


def main(argv: list[str]) -> None:
    """Streams a continuation of the prompt."""
    p = parser("sample", "Continue a text.")
    p.add_argument("--base", type=str, default="demo", help="a name under the bases folder, or a model folder")
    p.add_argument("-p", "--prompt", type=str, default="", help="the text to continue (default: a new document)")
    p.add_argument("-n", "--number", type=int, default=1, help="how many continuations")
    p.add_argument("--int8", type=bool, default=False, help="int8 weights: less memory, faster on a CPU")
    p.add_argument("--sampling", type=SamplingParams, default=SamplingParams(temperature=0.8, top_p=0.95))
    p.add_argument(
        "--attention", type=str | None, default=None, help="draw the prompt's attention maps into this PNG file"
    )
    args = parse(p, argv)
    if args.attention is not None:
        from pathlib import Path

        from nanohydra.evals.attention_maps import prompt_attention
        from nanohydra.model.hub import load_base

        prompt_attention(*load_base(args.base), args.prompt, Path(args.attention))
        print(f"attention: {args.attention}")
    from nanohydra.jobs.bases import open_engine

    engine = open_engine(args.base, int8=args.int8)
    # A document begins after the end of the one before it.
    prompt = [engine.tokenizer.eos_id, *engine.tokenizer.encode(args.prompt)]
    for _ in range(args.number):
        print(args.prompt, end="")
        for delta in engine.stream(prompt, args.sampling):
            print(delta.text, end="", flush=True)
        print("\n" if args.number > 1 else "")

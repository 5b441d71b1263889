"""How fast the engine writes, beside transformers' `generate` with the same weights: python bench/decode.py [--out F.json]

Both run in turn, greedy, prompts of equal length, the time of the whole call counted (prompt included). Told are medians
of tokens per second over the runs, the median of the pairs' ratios with its quartiles, and the floor that memory sets: a
step cannot be faster than reading all weights and the cache once, at the bandwidth measured here. With --quality, what
int8 costs in bits per byte on WikiText-2 for SmolLM2-135M-Instruct's real weights (`nanohydra pull smollm2` first).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from nanohydra.data.corpora import corpus
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.evals.perplexity import score_texts, text_metrics
from nanohydra.files import write_json
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import pack, quantize
from nanohydra.infer.sampling import SamplingParams
from nanohydra.model.hub import load_base, save_base
from nanohydra.model.presets import preset
from nanohydra.model.transformer import Transformer

# What we run, what it is compared with, and the ratio to reach.
PAIRS = {"bf16": ("bf16", 1.1), "fp32": ("fp32", 1.1), "int8": ("fp32", 3.0)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.float32}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", default="gpt2-124m-shape", help="the model's shape (weights are random)")
    p.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    p.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    p.add_argument("--prompt", type=int, default=64, help="tokens in each prompt")
    p.add_argument("--tokens", type=int, default=64, help="tokens to write")
    p.add_argument("--runs", type=int, default=5, help="runs of each candidate")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--quality", action="store_true", help="measure int8's cost on WikiText-2")
    p.add_argument("--base", default="smollm2", help="whose quality is measured")
    p.add_argument("--quality_tokens", type=int, default=20_000)
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    report |= {"torch": torch.__version__, "bandwidth_gb_s": bandwidth() / 1e9, "speed": []}
    print(f"{args.preset}, {args.threads} thread(s); memory reads at {report['bandwidth_gb_s']:.1f} GB/s")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.train(["a b c"], 270)
        torch.manual_seed(0)
        save_base(Path(folder) / "base", Transformer(preset(args.preset)), tokenizer)
        for name in args.pairs:
            report["speed"] += compare(name, Path(folder) / "base", args, report["bandwidth_gb_s"] * 1e9)
    if args.quality:
        report["quality"] = quality(args.base, args.quality_tokens)
    if args.out:
        write_json(args.out, report)


def bandwidth() -> float:
    """Bytes a second at which one pass over memory far larger than the caches goes, the best of a few."""
    data = torch.ones(2**26)  # 256 MiB

    def once() -> float:
        start = time.perf_counter()
        data.sum()
        return time.perf_counter() - start

    return data.nbytes / min(once() for _ in range(7))


def compare(name: str, folder: Path, args: argparse.Namespace, bytes_per_second: float) -> list[dict[str, Any]]:
    """One pair at every batch size."""
    against, target = PAIRS[name]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[against]).eval()
    model, tokenizer = load_base(folder, DTYPES[name])
    weights = weight_bytes(model, name)
    model = quantize(model) if name == "int8" else pack(model)
    length = args.prompt + args.tokens
    engine = Engine(model, tokenizer, max_slots=max(args.batches), max_seq_len=length + 1)
    rows = []
    params = SamplingParams(args.tokens, ignore_eos=True)
    for batch in args.batches:
        prompts = torch.randint(tokenizer.vocab_size, (batch, args.prompt), generator=torch.Generator().manual_seed(1))
        exactly = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "do_sample": False, "pad_token_id": 0}
        candidates: dict[str, Callable[[], object]] = {
            "ours": partial(engine.generate, prompts.tolist(), params),
            "transformers": partial(theirs.generate, prompts, attention_mask=torch.ones_like(prompts), **exactly),
        }
        speeds = in_turn(candidates, batch * args.tokens, args.runs)
        ratios = [a / b for a, b in zip(speeds["ours"], speeds["transformers"])]
        c = model.config
        cached = 4 * 2 * c.num_hidden_layers * c.key_value_size * (args.prompt + args.tokens / 2) * batch
        floor = batch * bytes_per_second / (weights + cached)
        row: dict[str, Any] = {
            "ours": name,
            "transformers": against,
            "batch": batch,
            "tokens_per_second": {k: statistics.median(v) for k, v in speeds.items()},
            "ratio": statistics.median(ratios),
            "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
            "target": target,
            "floor_tokens_per_second": floor,
            "runs": speeds,
        }
        low, high = row["ratio_quartiles"]
        both = row["tokens_per_second"]
        print(
            f"{name} at batch {batch}: {both['ours']:.1f} tok/s; transformers {against} {both['transformers']:.1f}; "
            f"ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}] (target {target}); memory's floor {floor:.0f} tok/s"
        )
        rows.append(row)
    return rows


def weight_bytes(model: Transformer, name: str) -> int:
    """Bytes of weights that one step reads: all but the embedding, of which it reads a row (a tied head counts)."""
    size = 1 if name == "int8" else DTYPES[name].itemsize
    tables = [p for n, p in model.named_parameters() if "embed_" in n]
    return size * (sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in tables)) + (
        size * model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0
    )


def in_turn(candidates: dict[str, Callable[[], object]], tokens: int, runs: int) -> dict[str, list[float]]:
    """Tokens a second of each candidate in each round, after one to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(runs + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if i:
                speeds[name].append(tokens / (time.perf_counter() - start))
    return speeds


def quality(base: str, tokens: int) -> dict[str, Any]:
    """Bits per byte (and perplexity) of WikiText-2's test text in windows of 512 tokens, for each kind of weights."""
    _, tokenizer = load_base(base)
    text = "".join(islice(corpus("wikitext-2", "test"), 1))
    ids = tokenizer.encode(text)[:tokens]
    text = tokenizer.decode(ids)
    result: dict[str, Any] = {"base": base, "tokens": len(ids)}
    for name, change in (("fp32", pack), ("bf16", pack), ("int8", quantize)):
        model, _ = load_base(base, DTYPES[name])
        scored = score_texts(change(model), tokenizer, [text], seq_len=512, batch_size=4)
        metrics = text_metrics(scored)
        result[name] = {
            k: {"value": e.value, "n": e.n, "low": e.low, "high": e.high} for k, e in metrics.items() if k != "loss"
        }
        bits = metrics["bits_per_byte"]
        cost = bits.value / result["fp32"]["bits_per_byte"]["value"] - 1
        print(
            f"{base} {name}: {bits.value:.4f} bits per byte [{bits.low:.4f}, {bits.high:.4f}] on WikiText-2 "
            f"({len(ids)} tokens), {100 * cost:+.2f}% of fp32; perplexity {metrics['perplexity'].value:.2f}"
        )
    return result


if __name__ == "__main__":
    main()

"""What fewer key and value heads save: python bench/kv_heads.py [--out F.json]

Bytes of the KV cache of one request that fills the context, and the speed of decoding one more token at the end of such
contexts, for all heads (MHA), groups (GQA) and one (MQA), in turn, packed weights in bf16. The quality they cost is
measured by recipes/lab/kv_heads.yaml.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from nanohydra.files import write_json
from nanohydra.infer.cache import KVCache
from nanohydra.infer.quantize import pack
from nanohydra.model.presets import preset
from nanohydra.model.transformer import Transformer

SHAPES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "1.3M, 6 heads": (
        {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 6},
        {"mha": 6, "gqa": 2, "mqa": 1},
    ),
    "124M, 12 heads": (
        {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
        {"mha": 12, "gqa": 4, "mqa": 1},
    ),
}


def main() -> None:
    """Prints a table and writes it as JSON."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    p.add_argument("--runs", type=int, default=20, help="decoded tokens of each candidate")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.context} tokens of context, {args.threads} thread(s)\n")
    print("| shape | heads | cache of a request | rows | ms a token | against mha |\n|---|---|---:|---:|---:|---:|")
    results = []
    for shape, (settings, heads) in SHAPES.items():
        for rows in args.rows:
            results += measure(shape, settings, heads, rows, args)
    if args.out:
        write_json(args.out, {"context": args.context, "threads": args.threads, "results": results})


@torch.inference_mode()
def measure(
    shape: str, settings: dict[str, Any], heads: dict[str, int], rows: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row of the table for each number of key and value heads."""
    models, caches = {}, {}
    for name, count in heads.items():
        torch.manual_seed(0)
        limits = {"vocab_size": 8192, "max_position_embeddings": args.context + 8}
        config = preset("tiny-1m", **settings, **limits, num_key_value_heads=count)
        models[name] = pack(Transformer(config).eval().to(torch.bfloat16))
        caches[name] = KVCache(config, slots=rows, dtype=torch.float32)
        for _ in range(rows):
            caches[name].allocate()
        ids = torch.randint(0, config.vocab_size, (rows, args.context), generator=torch.Generator().manual_seed(1))
        for start in range(0, args.context, 256):
            models[name].hidden(ids[:, start : start + 256], cache=caches[name].rows(caches[name].active))
    times: dict[str, list[float]] = {name: [] for name in heads}
    for run in range(args.runs + 1):
        for name, model in models.items():
            cache = caches[name]
            start_time = time.perf_counter()
            hidden = model.hidden(ids[:, :1], cache=cache.rows(cache.active))
            model.logits(hidden[:, -1]).argmax(-1).tolist()
            if run:
                times[name].append(time.perf_counter() - start_time)
            for slot in cache.active:
                cache.truncate(slot, args.context)
    found = []
    for name in heads:
        size = caches[name].bytes * args.context // ((args.context + 8) * rows)
        ratio = statistics.median(a / b for a, b in zip(times["mha"], times[name], strict=True))
        seconds = statistics.median(times[name])
        found.append({"shape": shape, "heads": name, "rows": rows, "bytes": size, "seconds": seconds, "speedup": ratio})
        print(f"| {shape} | {name} | {size / 1e6:.2f} MB | {rows} | {1000 * seconds:.2f} | {ratio:.2f} x |", flush=True)
    return found


if __name__ == "__main__":
    main()

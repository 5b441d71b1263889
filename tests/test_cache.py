"""A cached forward pass equals the uncached one, for every architecture value and every way of feeding tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.infer.cache import KVCache
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer

CONTEXT = 40
MIXED = ("sliding_attention", "full_attention")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "default": {},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": 16},
    "layernorm": {"norm": "layernorm"},
    "post": {"norm_position": "post"},
    "post_layernorm": {"norm_position": "post", "norm": "layernorm"},
    "no_qk_norm": {"qk_norm": False},
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "alibi": {"positions": "alibi"},
    "no_positions": {"positions": "none"},
    "gelu": {"mlp": "gelu"},
    "relu2": {"mlp": "relu2"},
    "untied": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "softcap": {"logit_softcap": 2.0},
    "dropout": {"dropout": 0.3},
    "window": {"sliding_window": 5},
    "window_1": {"sliding_window": 1},
    "window_beyond_context": {"sliding_window": 100},
    "mixed": {"sliding_window": 5, "layer_types": MIXED},
    "mixed_mqa": {"sliding_window": 5, "layer_types": MIXED, "num_key_value_heads": 1},
    "window_alibi": {"sliding_window": 5, "positions": "alibi"},
    "mixed_alibi_gqa": {"sliding_window": 5, "layer_types": MIXED, "positions": "alibi", "num_key_value_heads": 2},
    "window_learned": {"sliding_window": 4, "positions": "learned"},
    "window_sinusoidal": {"sliding_window": 4, "positions": "sinusoidal"},
    "window_no_positions": {"sliding_window": 4, "positions": "none"},
    "llama3_rope": {"rope_scaling": {"original_max_position_embeddings": 16}},
    **{f"init_{init}": {"init": init} for init in ("normal", "xavier", "kaiming", "zero_output")},
}


def tiny(**options: Any) -> Transformer:
    shape = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = ModelConfig.from_dict(
        {**shape, "intermediate_size": 32, "max_position_embeddings": CONTEXT, "initializer_range": 0.15, **options}
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norm scales and biases too must count
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def uncached(model: Transformer, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]


def feed(model: Transformer, cache: KVCache, slots: list[int], chunks: list[list[int]]) -> list[torch.Tensor]:
    """One forward pass; the logits of each row's real tokens."""
    length = max(map(len, chunks))
    ids = torch.tensor([chunk + [0] * (length - len(chunk)) for chunk in chunks])
    logits = model(ids, cache=cache.rows(slots, [len(chunk) for chunk in chunks]))
    return [row[: len(chunk)] for row, chunk in zip(logits, chunks)]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_cached_equals_uncached(name: str) -> None:
    """Rows of unequal length, some longer than the window: a padded prefill, a second chunk, then single tokens."""
    model = tiny(**ARCHITECTURES[name])
    texts = torch.randint(0, 31, (3, CONTEXT)).tolist()
    cache = KVCache(model.config, slots=3)
    slots = [cache.allocate() for _ in texts]
    got: list[list[torch.Tensor]] = [[], [], []]
    cuts = [(3, 9, 1), (6, 2, 7), *[(1, 1, 1)] * (CONTEXT - 11)]
    done = [0, 0, 0]
    for counts in cuts:
        chunks = [text[d : d + n] for text, d, n in zip(texts, done, counts)]
        for row, logits in enumerate(feed(model, cache, slots, chunks)):
            got[row].append(logits)
        done = [d + n for d, n in zip(done, counts)]
    for text, d, logits in zip(texts, done, got):
        torch.testing.assert_close(torch.cat(logits), uncached(model, text)[:d], rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
@torch.no_grad()
def test_any_schedule_equals_uncached(seed: int) -> None:
    """Slots are taken, fed in any order, cut back and freed at random, in much memory or little: every logit equals the
    uncached one."""
    chance = random.Random(seed)
    names = ["default", "gqa", "alibi", "learned", "window", "window_alibi", "mixed_alibi_gqa", "mixed_mqa"]
    model = tiny(**ARCHITECTURES[chance.choice(names)])
    rollback = chance.randint(0, 4)
    cache = KVCache(model.config, slots=3, rollback=rollback, tokens=chance.choice([None, CONTEXT, CONTEXT + 17, 83]))
    texts: dict[int, list[int]] = {}
    longest: dict[int, int] = {}
    for _ in range(20):
        action = chance.choice(["allocate", "allocate", "feed", "feed", "decode", "decode", "truncate", "free"])
        slot = chance.choice(sorted(texts)) if texts else 0
        if action == "allocate" and len(texts) < cache.room(max(map(len, texts.values()), default=0)):
            slot = cache.allocate()
            texts[slot], longest[slot] = [], 0
        elif action in ("feed", "decode") and texts:
            slots = chance.sample(sorted(texts), chance.randint(1, len(texts)))
            most = 1 if action == "decode" else 12
            sizes = [chance.randint(0, min(most, CONTEXT - len(texts[slot]))) for slot in slots]
            if max(sizes) == 0 or cache.room(max(len(texts[s]) + n for s, n in zip(slots, sizes))) < len(texts):
                continue
            chunks = [chance.choices(range(31), k=size) for size in sizes]
            for slot, chunk, logits in zip(slots, chunks, feed(model, cache, slots, chunks)):
                texts[slot] = texts[slot] + chunk
                longest[slot] = max(longest[slot], len(texts[slot]))
                want = uncached(model, texts[slot] or [0])[len(texts[slot]) - len(chunk) :][: len(chunk)]
                torch.testing.assert_close(logits, want, rtol=0, atol=1e-5)
        elif action == "truncate" and texts:
            keep = max(0, len(texts[slot]) - chance.randint(0, chance.choice([2, 6, CONTEXT])))
            try:
                cache.truncate(slot, keep)
                texts[slot] = texts[slot][:keep]
            except ValueError:
                assert model.config.sliding_window is not None
                assert keep < longest[slot] - rollback
        elif action == "free" and texts:
            cache.free(slot)
            del texts[slot]
        assert sorted(cache.active) == sorted(texts)
        assert all(cache.length(slot) == len(text) for slot, text in texts.items())


@torch.no_grad()
def test_memory_is_shared_by_fewer_and_longer_rows() -> None:
    model = tiny()
    cache = KVCache(model.config, slots=4, tokens=CONTEXT + 8)
    assert cache.bytes == 2 * 2 * (CONTEXT + 8) * 24 * 4
    assert [cache.room(n) for n in (0, 1, 12, 13, 16, 24, 25, CONTEXT)] == [4, 4, 4, 3, 3, 2, 1, 1]
    slots = [cache.allocate() for _ in range(4)]
    feed(model, cache, slots, [[1] * 12] * 4)
    with pytest.raises(ValueError, match="no room for 4 sequences of 13 tokens"):
        feed(model, cache, slots, [[1]] * 4)
    cache.free(slots.pop())
    feed(model, cache, slots, [[1]] * 3)
    with pytest.raises(ValueError, match="All 3 slots"):
        cache.allocate()
    with pytest.raises(UserError, match="cannot hold one sequence"):
        KVCache(model.config, slots=2, tokens=CONTEXT - 1)


@torch.no_grad()
def test_a_window_layer_holds_only_its_window() -> None:
    full, window = tiny(), tiny(sliding_window=5)
    assert KVCache(full.config, slots=2).bytes == 2 * 2 * 2 * CONTEXT * 24 * 4  # k and v, layers, slots
    assert KVCache(window.config, slots=2).bytes == 2 * 2 * 2 * 5 * 24 * 4
    assert KVCache(window.config, slots=2, rollback=3).bytes == 2 * 2 * 2 * 8 * 24 * 4


@torch.no_grad()
def test_grouped_heads_shrink_the_cache() -> None:
    sizes = [KVCache(tiny(num_key_value_heads=heads).config, slots=1).bytes for heads in (4, 2, 1)]
    assert sizes == [4 * sizes[2], 2 * sizes[2], sizes[2]]


@torch.no_grad()
def test_sequences_longer_than_the_cache_are_refused() -> None:
    model = tiny()
    cache = KVCache(model.config, slots=1, max_len=8)
    slot = cache.allocate()
    feed(model, cache, [slot], [[1] * 6])
    with pytest.raises(UserError, match="9 tokens, the cache holds 8"):
        feed(model, cache, [slot], [[1] * 3])
    assert cache.length(slot) == 6
    with pytest.raises(UserError, match="longer than the model's context"):
        KVCache(model.config, slots=1, max_len=CONTEXT + 1)
    with pytest.raises(ValueError, match="All 1 slots"):
        cache.allocate()
    with pytest.raises(ValueError, match="different slots"):
        cache.rows([slot, slot])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["gqa", "mixed_alibi_gqa"])
@torch.no_grad()
def test_cache_of_a_bf16_model(name: str, dtype: torch.dtype) -> None:
    model = tiny(**ARCHITECTURES[name]).to(torch.bfloat16)
    cache = KVCache(model.config, slots=2, dtype=dtype)
    slots = [cache.allocate(), cache.allocate()]
    texts = torch.randint(0, 31, (2, 20)).tolist()
    got = [feed(model, cache, slots, [texts[0][:7], texts[1][:3]])]
    for i in range(13):
        got.append(feed(model, cache, slots, [[texts[0][7 + i]], [texts[1][3 + i]]]))
    for row, length in ((0, 20), (1, 16)):
        logits = torch.cat([step[row] for step in got])
        want = uncached(model, texts[row][:length])
        assert logits.dtype == torch.bfloat16
        assert (logits - want).abs().max() < 0.05 * want.abs().max()

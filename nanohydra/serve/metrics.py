"""Prometheus metrics, under vLLM's names where it has them, with a label for the adapter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
LENGTHS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self.engine = EngineNumbers(model)
        self.registry.register(self.engine)
        self.model = model
        by = ["model_name", "adapter"]
        own: dict[str, Any] = {"registry": self.registry}
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens of requests that ended.", by, **own)
        self.generation_tokens = Counter("vllm:generation_tokens", "Tokens written.", by, **own)
        self.success = Counter("vllm:request_success", "Requests that ended.", [*by, "finished_reason"], **own)
        self.first = Histogram("vllm:time_to_first_token_seconds", "To the first token.", by, buckets=LATENCY, **own)
        self.between = Histogram("vllm:inter_token_latency_seconds", "From token to token.", by, buckets=BETWEEN, **own)
        self.whole = Histogram("vllm:e2e_request_latency_seconds", "To the end.", by, buckets=LATENCY, **own)
        self.prompts = Histogram("vllm:request_prompt_tokens", "Length of prompts.", by, buckets=LENGTHS, **own)
        self.answers = Histogram("vllm:request_generation_tokens", "Length of answers.", by, buckets=LENGTHS, **own)
        self.http = Counter("nanohydra_http_requests", "HTTP requests.", ["method", "route", "status"], **own)
        self.restarts = Gauge("nanohydra_engine_restarts", "How often the engine's process was started again.", **own)
        self.up = Gauge("nanohydra_engine_up", "1 while the engine takes requests.", **own)
        self.recalled = Counter("nanohydra_recalled", "Answers planned from what was taught, by how.", ["mode"], **own)
        self.lessons = Gauge("nanohydra_lessons_open", "Lessons that wait or are being made.", **own)
        self.worker_up = Gauge("nanohydra_worker_up", "1 while the process that makes lessons runs.", **own)
        self.worker_restarts = Gauge("nanohydra_worker_restarts", "How often it was started again.", **own)

    def begin(self, adapter: str | None) -> RequestMetrics:
        """A request is on its way; of which adapter is a label, "" for the base."""
        return RequestMetrics(self, adapter or "")

    def render(self, stats: Mapping[str, Any], up: bool, restarts: int) -> bytes:
        """The text that Prometheus reads; `stats` are the engine's numbers as of now."""
        self.engine.stats = stats
        self.up.set(up)
        self.restarts.set(restarts)
        return generate_latest(self.registry)


class RequestMetrics:
    """What is measured of one request, from its arrival to its end."""

    def __init__(self, metrics: Metrics, adapter: str) -> None:
        self._metrics = metrics
        self._labels = (metrics.model, adapter)
        self._began = self._last = time.monotonic()
        self._written = 0

    def tokens(self, count: int) -> None:
        """`count` tokens have come."""
        if not count:
            return
        now = time.monotonic()
        if self._written == 0:
            self._metrics.first.labels(*self._labels).observe(now - self._began)
        else:
            self._metrics.between.labels(*self._labels).observe((now - self._last) / count)
        self._last = now
        self._written += count

    def end(self, prompt_tokens: int, reason: str) -> None:
        """The request is over."""
        m, labels = self._metrics, self._labels
        m.prompt_tokens.labels(*labels).inc(prompt_tokens)
        m.generation_tokens.labels(*labels).inc(self._written)
        m.success.labels(*labels, reason).inc()
        m.whole.labels(*labels).observe(time.monotonic() - self._began)
        m.prompts.labels(*labels).observe(prompt_tokens)
        m.answers.labels(*labels).observe(self._written)


class EngineNumbers(Collector):
    """The engine's own numbers, as they were told last."""

    def __init__(self, model: str) -> None:
        self.stats: Mapping[str, Any] = {}
        self._model = model

    def collect(self) -> Iterable[Metric]:
        """One family for each number that the engine tells."""
        gauges = {
            "running": ("vllm:num_requests_running", "Requests in the batch."),
            "waiting": ("vllm:num_requests_waiting", "Requests that wait for room."),
            "kv_usage": ("vllm:kv_cache_usage_perc", "Share of the KV memory in use, 1 is all."),
        }
        counters = {
            "preemptions": ("vllm:num_preemptions", "Requests sent back to make room."),
            "prefix_queries": ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
            "prefix_hits": ("vllm:prefix_cache_hits", "Prompt tokens found there."),
        }
        for key, (name, help) in gauges.items():
            if key in self.stats:
                gauge = GaugeMetricFamily(name, help, labels=["model_name"])
                gauge.add_metric([self._model], self.stats[key])
                yield gauge
        for key, (name, help) in counters.items():
            if key in self.stats:
                counter = CounterMetricFamily(name, help, labels=["model_name"])
                counter.add_metric([self._model], self.stats[key])
                yield counter

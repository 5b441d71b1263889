"""The inference engine: requests join and leave a running batch, one step at a time.

A request is a list of ids of which a beginning lies in the KV cache. Whatever is not there yet is *pending*: the whole
prompt at first, then the token that was drawn last, or a tool's answer that is forced in. A step advances every request
that has one pending token by one token, together, and then works off one budget of longer ones (chunked prefill), so
that a long prompt never makes the others wait long. `generate`, `stream` and `chat` are loops over `step`; a server
calls `submit`, `step` and `abort` itself. One thread drives an engine.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nanohydra.agent.calculator import Tool
from nanohydra.data.chat import Message, render_chat
from nanohydra.data.tokenizer import END_OF_TEXT, Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer.cache import KVCache
from nanohydra.infer.quantize import PackedAttention
from nanohydra.infer.sampling import SamplingBatch, SamplingParams, sample, uniform
from nanohydra.infer.streaming import Completion, Delta, FinishReason, Timing, Transcript
from nanohydra.model.transformer import Transformer


class Request:
    """One prompt on its way to a completion. Made by `Engine.submit`."""

    def __init__(self, prompt: list[int], params: SamplingParams, limit: int, transcript: Transcript) -> None:
        self.params = params
        self.ids = list(prompt)
        """Prompt and answer so far."""
        self.prompt_length = len(prompt)
        self.limit = limit
        """Most ids in all."""
        self.transcript = transcript
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self.slot: int | None = None
        self.seen: Tensor | None = None  # (V,) bool, only where the repetition penalty needs it
        self.completion: Completion | None = None
        """The finished answer; None while it is running or waiting."""
        self._times = [time.perf_counter()]  # submitted, first token

    def take(self) -> list[Delta]:
        """What is new since the last call; the last delta carries the completion."""
        return self.transcript.take()

    def accept(self, id: int, ends: set[int]) -> FinishReason | None:
        """Takes a drawn token, and the ids that a tool forces after it. Returns why the answer is over, if it is."""
        if len(self._times) == 1:
            self._times.append(time.perf_counter())
        forced: list[int] = []
        over = id in ends and not self.params.ignore_eos
        if not over:
            forced = self.transcript.push(id)
        self.ids = [*self.ids, id, *forced][: self.limit]
        if self.seen is not None:
            self.seen[[id, *forced]] = True
        if over or self.transcript.stopped:
            return "stop"
        return "length" if len(self.ids) >= self.limit else None

    def finish(self, reason: FinishReason) -> None:
        """Closes the answer."""
        self.transcript.flush()
        now, ids = time.perf_counter(), self.ids[self.prompt_length :]
        start, first = self._times[0], self._times[1] if len(self._times) > 1 else now
        rate = (len(ids) - 1) / max(now - first, 1e-9) if len(ids) > 1 else 0.0
        self.completion = Completion(ids, self.transcript.parts, reason, Timing(first - start, now - start, rate))
        self.transcript.new.append(Delta(completion=self.completion))


class Engine:
    """Continues prompts with one model.

    tools: called inside an answer where the tokenizer has their special tokens (`agent.calculator.CALCULATOR`).
    max_slots: requests that run at once; others wait. max_seq_len: most tokens of prompt and answer together (the
    model's context where that is shorter). prefill_tokens: most prompt tokens (padding included) between decode steps.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        tools: Sequence[Tool] = (),
        *,
        max_slots: int = 8,
        max_seq_len: int = 4096,
        prefill_tokens: int = 512,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tools = tuple(tools)
        self.prefill_tokens = prefill_tokens
        weight = model.model.embed_tokens.weight
        self.device = weight.device
        self.max_seq_len = min(max_seq_len, model.config.max_position_embeddings)
        packed = any(isinstance(module, PackedAttention) for module in model.modules())
        dtype = torch.float32 if packed else weight.dtype
        self.cache = KVCache(model.config, max_slots, self.max_seq_len, dtype=dtype, device=weight.device)
        self.ends = {tokenizer.eos_id, tokenizer.end_of_turn_id, tokenizer.special.get(END_OF_TEXT, tokenizer.eos_id)}
        self._vocabulary = min(
            tokenizer.vocab_size, model.config.vocab_size
        )  # a padded head's spare rows are never drawn
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._sampled: tuple[list[Request], SamplingBatch] | None = None

    # -- one step at a time -------------------------------------------------------------------------------------------

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """Queues a prompt (ids). Raises UserError where it is empty, too long or of another tokenizer."""
        if not prompt:
            raise UserError("The prompt is empty: give at least one token.")
        if len(prompt) >= self.max_seq_len:
            raise UserError(
                f"The prompt has {len(prompt)} tokens and the context holds {self.max_seq_len}, one of them for the "
                f"answer: shorten it by at least {len(prompt) - self.max_seq_len + 1}."
            )
        if not 0 <= min(prompt) <= max(prompt) < self.model.config.vocab_size:
            raise UserError(
                f"The prompt has token ids outside the model's vocabulary of {self.model.config.vocab_size}: "
                "use the model's own tokenizer."
            )
        limit = min(len(prompt) + params.max_tokens, self.max_seq_len)
        request = Request(list(prompt), params, limit, Transcript(self.tokenizer, params.stop, self.tools))
        if params.repetition_penalty != 1:
            request.seen = torch.zeros(self._vocabulary, dtype=torch.bool, device=self.device)
            request.seen[[i for i in prompt if i < self._vocabulary]] = True
        self._waiting.append(request)
        return request

    def abort(self, request: Request) -> None:
        """Takes a request back; its slot is free at once. Does nothing where it has finished."""
        if request.completion is None:
            self._finish(request, "abort")

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running and not self._waiting

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Moves the batch on; returns the requests that got a token (finished ones among them)."""
        while self._waiting and len(self._running) < self.cache.slots:
            request = self._waiting.popleft()
            request.slot = self.cache.allocate()
            self._running.append(request)
        moved: list[Request] = []
        with self._evaluating():
            pending = {request: len(request.ids) - self._cached(request) for request in self._running}
            if ready := [r for r, n in pending.items() if n == 1]:
                moved += self._advance(ready, [1] * len(ready))
            if longer := {r: n for r, n in pending.items() if n > 1}:
                moved += self._advance(*self._chunk(longer))
        return moved

    # -- whole answers ------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Completion]:
        """The completions of many prompts of any lengths, in order; `params` for all, or one for each."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        requests: list[Request] = []
        try:
            for prompt, own in zip(prompts, each, strict=True):
                requests.append(self.submit(prompt, own))
            with self._evaluating():
                while any(request.completion is None for request in requests):
                    self.step()
        except BaseException:
            for request in requests:
                self.abort(request)
            raise
        return [request.completion for request in requests if request.completion is not None]

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[Delta]:
        """The answer as it comes; the last delta carries the completion. Closing the iterator aborts the request."""
        request = self.submit(prompt, params)
        try:
            while request.completion is None:
                self.step()
                yield from request.take()
        finally:
            self.abort(request)

    def chat(self, messages: Sequence[Message], params: SamplingParams) -> Completion:
        """The assistant's answer to a conversation."""
        prompt, _ = render_chat(self.tokenizer, messages, add_generation_prompt=True)
        return self.generate([prompt], params)[0]

    # -- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model in evaluation mode; a training that calls the engine in between finds it as it was."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            yield
        finally:
            if training:
                self.model.train()

    def _cached(self, request: Request) -> int:
        assert request.slot is not None, "only running requests have a slot"
        return self.cache.length(request.slot)

    def _chunk(self, pending: dict[Request, int]) -> tuple[list[Request], list[int]]:
        """Which requests to work on now and how many tokens of each: the oldest, and with it those of like length."""
        width = min(next(iter(pending.values())), self.prefill_tokens)
        alike = [r for r, n in pending.items() if 2 * min(n, width) >= width]
        chosen = alike[: max(1, self.prefill_tokens // width)]
        return chosen, [min(pending[r], width) for r in chosen]

    def _advance(self, requests: list[Request], counts: list[int]) -> list[Request]:
        """One forward pass over the next counts[i] pending tokens of each; draws a token where none is pending then."""
        rank = {slot: i for i, slot in enumerate(self.cache.active)}
        rows = sorted(zip(requests, counts), key=lambda row: rank[row[0].slot or 0])
        requests, counts = [r for r, _ in rows], [n for _, n in rows]
        width = max(counts)
        ids = []
        for request, count in rows:
            start = self._cached(request)
            ids.append([*request.ids[start : start + count], *[0] * (width - count)])
        slots = [request.slot for request in requests if request.slot is not None]
        plan = self.cache.rows(slots, counts)
        hidden = self.model.hidden(torch.tensor(ids, device=self.device), cache=plan)
        drawing = [i for i, request in enumerate(requests) if self._cached(request) == len(request.ids)]
        if not drawing:
            return []
        last = hidden[drawing, [counts[i] - 1 for i in drawing]]
        chosen = [requests[i] for i in drawing]
        tokens = self._sample(chosen, self.model.logits(last)[:, : self._vocabulary])
        for request, token in zip(chosen, tokens):
            if reason := request.accept(token, self.ends):
                self._finish(request, reason)
        return chosen

    def _sample(self, requests: list[Request], logits: Tensor) -> list[int]:
        if self._sampled is None or self._sampled[0] != requests:
            self._sampled = requests, SamplingBatch.of([r.params for r in requests], self.device)
        batch = self._sampled[1]
        seen = None
        if batch.any_penalty:
            nothing = torch.zeros(self._vocabulary, dtype=torch.bool, device=self.device)
            seen = torch.stack([nothing if r.seen is None else r.seen for r in requests])
        chances = [0.0 if r.params.greedy else uniform(r.seed, len(r.ids) - r.prompt_length) for r in requests]
        tokens: list[int] = sample(logits, batch, chances, seen).tolist()
        return tokens

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.slot is None:
            self._waiting.remove(request)
        else:
            self._running.remove(request)
            self.cache.free(request.slot)
            request.slot = None
        request.finish(reason)

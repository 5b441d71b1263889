"""The inference engine: requests join and leave a running batch, one step at a time.

A request is a list of ids of which a beginning lies in the KV cache. Whatever is not there yet is *pending*: the whole
prompt at first, then the token that was drawn last, or a tool's answer that is forced in. A step advances every request
that has one pending token by one token (more where guesses come true), together, and then works off one budget of longer
ones (chunked prefill), so that a long prompt never makes the others wait long. `generate`, `stream` and `chat` are loops
over `step`; a server calls `submit`, `step` and `abort` itself. One thread drives an engine.

Who runs and what is read next: `scheduler`. What need not be read again: `prefix`. Guessing ahead: `speculate`. How a
token is drawn: `drawing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from nanohydra.adapt.attach import Adapters
from nanohydra.agent.calculator import Tool
from nanohydra.data.chat import Message, render_chat
from nanohydra.data.tokenizer import END_OF_TEXT, Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer.adapted import Adapted
from nanohydra.infer.cache import KVCache
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.infer.drawing import Drawer
from nanohydra.infer.embedding import embed
from nanohydra.infer.grammar import Grammars
from nanohydra.infer.graphs import DecodeGraphs
from nanohydra.infer.prefix import PrefixStore
from nanohydra.infer.quantize import PackedAttention
from nanohydra.infer.request import Request
from nanohydra.infer.scheduler import Scheduler
from nanohydra.infer.speculate import DraftModel, Guesser, PromptLookup
from nanohydra.infer.streaming import Completion, Delta, FinishReason, Logprob, Transcript
from nanohydra.model.transformer import Transformer

NO_GUESSES: Mapping[Request, list[int]] = MappingProxyType({})


class Engine:
    """Continues prompts with one model.

    tools: called inside an answer where the tokenizer has their special tokens (`agent.calculator.CALCULATOR`).
    config: memory and time; any of its fields may be given by keyword. adapters: what is attached to the model, so that
    each request may use one (abort those that use one before it is removed). draft: a smaller model of the same tokenizer
    that guesses ahead (where config.speculate is not 0); without one, guesses are taken from the text itself.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        tools: Sequence[Tool] = (),
        *,
        config: EngineConfig | None = None,
        adapters: Adapters | None = None,
        draft: Transformer | None = None,
        **settings: int | None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tools = tuple(tools)
        self.adapters = adapters
        self._adapted = Adapted(adapters)
        self.config = config = replace(config or EngineConfig(), **settings)  # type: ignore[arg-type]
        weight = model.model.embed_tokens.weight
        self.device = weight.device
        self.max_seq_len = min(config.max_seq_len, model.config.max_position_embeddings)
        if config.kv_tokens is not None:
            self.max_seq_len = min(self.max_seq_len, config.kv_tokens)
        packed = any(isinstance(module, PackedAttention) for module in model.modules())
        self.cache = KVCache(
            model.config,
            config.max_slots,
            self.max_seq_len,
            tokens=config.kv_tokens,
            dtype=torch.float32 if packed else weight.dtype,
            device=weight.device,
            rollback=config.speculate,
        )
        self.ends = {tokenizer.eos_id, tokenizer.end_of_turn_id, tokenizer.special.get(END_OF_TEXT, tokenizer.eos_id)}
        # A padded head's spare rows are never drawn.
        self._vocabulary = min(tokenizer.vocab_size, model.config.vocab_size)
        self.prefixes = PrefixStore(self.cache, config.prefix_tokens)
        self._scheduler = Scheduler(self.cache, self.prefixes, config.prefill_tokens, 1 + config.speculate)
        self._drawer = Drawer(self.device)
        self._grammars = Grammars(tokenizer, self._vocabulary, self.ends)
        recordable = self.device.type == "cuda" and model.config.positions != "alibi"  # whose slopes come from the host
        self._graphs = DecodeGraphs(model, self.cache) if config.cuda_graphs and recordable else None
        self._guesser = self._make_guesser(draft)
        self._counts = dict.fromkeys(("prompt_tokens", "generated_tokens", "guessed_tokens", "right_guesses"), 0)

    def _make_guesser(self, draft: Transformer | None) -> Guesser | None:
        config = self.config
        if not config.speculate:
            return None
        if draft is None:
            return PromptLookup()
        return DraftModel(
            draft, self._vocabulary, config.max_slots, self.max_seq_len, config.speculate, config.prefill_tokens
        )

    # -- one step at a time -------------------------------------------------------------------------------------------

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, adapter: str | None = None, owner: str | None = None
    ) -> Request:
        """Queues a prompt (ids), to be answered by the base or by an attached adapter. `owner`: whose requests alone may share
        its beginning, lest others learn from `cached_tokens` or the time what was asked (None: all without one). Raises
        UserError where the prompt is empty, too long or of another tokenizer, the adapter unknown, or the answer's form
        impossible."""
        self._check(prompt)
        if len(prompt) >= self.max_seq_len:
            raise UserError(
                f"The prompt has {len(prompt)} tokens and the context holds {self.max_seq_len}, one of them for the "
                f"answer: shorten it by at least {len(prompt) - self.max_seq_len + 1}."
            )
        limit = min(len(prompt) + params.max_tokens, self.max_seq_len)
        transcript = Transcript(self.tokenizer, params.stop, self.tools)
        salt = self._adapted.salt(adapter, owner)
        request = Request(list(prompt), params, limit, transcript, adapter, self._grammars.make(params))
        request.salt = salt
        request.guesses = self.config.speculate
        if params.repetition_penalty != 1:
            request.seen = torch.zeros(self._vocabulary, dtype=torch.bool, device=self.device)
            request.seen[[i for i in prompt if i < self._vocabulary]] = True
        self._scheduler.waiting.append(request)
        return request

    def abort(self, request: Request) -> None:
        """Takes a request back; its slot is free at once. Does nothing where it has finished."""
        if request.completion is None:
            self._finish(request, "abort")

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._scheduler.running and not self._scheduler.waiting

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Moves the batch on; returns the requests that got a token (finished ones among them)."""
        for request in self._scheduler.fill():
            self._forget(request)
        moved: list[Request] = []
        with self._evaluating():
            ready, longer = self._scheduler.work()
            if ready:
                moved += self._advance(dict.fromkeys(ready, 1), self._guess(ready))
            if longer:
                chunk = self._scheduler.chunk(longer)
                moved += self._advance(chunk)
                for request in chunk:
                    self.prefixes.save(request)
        return moved

    def stats(self) -> dict[str, float]:
        """Numbers for whoever watches: requests `running` and `waiting`; `kv_usage`, the part of the KV cache in use; and
        counts since the start: `prefix_queries` and `prefix_hits` (tokens of prompts looked for in the prefix store, and
        found), `preemptions`, `prompt_tokens`, `generated_tokens`, `guessed_tokens`, `right_guesses`."""
        held = sum(self.cache.length(slot) for slot in self.cache.active)
        return {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "kv_usage": held / self.cache.tokens,
            "prefix_queries": self.prefixes.queries,
            "prefix_hits": self.prefixes.hits,
            "preemptions": self._scheduler.preemptions,
            **self._counts,
        }

    # -- whole answers ------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        adapters: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """The completions of many prompts of any lengths, in order; `params` and `adapters` for all, or one for each."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        rows = [adapters] * len(prompts) if adapters is None or isinstance(adapters, str) else list(adapters)
        requests: list[Request] = []
        try:
            for prompt, own, adapter in zip(prompts, each, rows, strict=True):
                requests.append(self.submit(prompt, own, adapter))
            with self._evaluating():
                while any(request.completion is None for request in requests):
                    self.step()
        except BaseException:
            for request in requests:
                self.abort(request)
            raise
        return [request.completion for request in requests if request.completion is not None]

    def stream(self, prompt: Sequence[int], params: SamplingParams, adapter: str | None = None) -> Iterator[Delta]:
        """The answer as it comes; the last delta carries the completion. Closing the iterator aborts the request."""
        request = self.submit(prompt, params, adapter)
        try:
            while request.completion is None:
                self.step()
                yield from request.take()
        finally:
            self.abort(request)

    def chat(self, messages: Sequence[Message], params: SamplingParams, adapter: str | None = None) -> Completion:
        """The assistant's answer to a conversation."""
        prompt, _ = render_chat(self.tokenizer, messages, add_generation_prompt=True)
        return self.generate([prompt], params, adapter)[0]

    @torch.inference_mode()
    def embed(self, prompts: Sequence[Sequence[int]], adapter: str | None = None) -> Tensor:
        """A unit vector for each prompt (ids), (N, D) float32: the mean of its tokens' last hidden states."""
        for prompt in prompts:
            self._check(prompt)
            if len(prompt) > self.max_seq_len:
                raise UserError(
                    f"A text has {len(prompt)} tokens and the context holds {self.max_seq_len}: shorten it."
                )
        self._adapted.salt(adapter)  # refuses an unknown one
        using = nullcontext() if self.adapters is None else self.adapters.using(adapter)
        with self._evaluating(), using:
            return embed(self.model, prompts, self.config.prefill_tokens)

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

    def _check(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise UserError("The prompt is empty: give at least one token.")
        if not 0 <= min(prompt) <= max(prompt) < self.model.config.vocab_size:
            raise UserError(
                f"The prompt has token ids outside the model's vocabulary of {self.model.config.vocab_size}: "
                "use the model's own tokenizer."
            )

    def _guess(self, ready: list[Request]) -> Mapping[Request, list[int]]:
        """What may follow the pending token of each request, to be checked with it; for few requests only."""
        if self._guesser is None or len(ready) > self.config.speculate_slots:
            return NO_GUESSES
        free = [request for request in ready if request.grammar is None]
        most = [min(request.guesses, request.limit - len(request.ids) - 1) for request in free]
        return dict(zip(free, self._guesser.guess(free, most), strict=True))

    def _advance(self, work: Mapping[Request, int], guesses: Mapping[Request, list[int]] = NO_GUESSES) -> list[Request]:
        """One forward pass over the next work[r] pending tokens of each request and the guesses for what follows; draws
        where nothing is pending then. Returns the requests that got a token."""
        rank = {slot: i for i, slot in enumerate(self.cache.active)}
        slots = {slot: request for request in work if (slot := request.slot) is not None}
        order = sorted(slots, key=rank.__getitem__)
        requests = [slots[slot] for slot in order]
        tokens = []
        for slot, request in zip(order, requests, strict=True):
            start = self.cache.length(slot)
            tokens.append(request.ids[start : start + work[request]] + guesses.get(request, []))
        counts = [len(row) for row in tokens]
        width = max(counts)
        adapters = [request.adapter for request in requests]
        with self._adapted.rows(adapters):
            if self._graphs is not None and width == 1 and not any(adapters):
                hidden = self._graphs.hidden(order, [row[0] for row in tokens])
            else:
                ids = torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=self.device)
                hidden = self.model.hidden(ids, cache=self.cache.rows(order, counts))
        drawing = [i for i, r in enumerate(requests) if self.cache.length(order[i]) >= len(r.ids)]
        if drawing:
            self._draw([requests[i] for i in drawing], hidden, drawing, [counts[i] - 1 for i in drawing], guesses)
        return [requests[i] for i in drawing]

    def _draw(
        self,
        requests: list[Request],
        hidden: Tensor,
        rows: list[int],
        last: list[int],
        guesses: Mapping[Request, list[int]],
    ) -> None:
        """Draws what follows the ids of each request from hidden[rows, last], and what follows each of its guesses, which
        come just before `last`; a request takes these tokens as far as its guesses come true."""
        each, before = requests, None
        if guesses:
            guessed = [guesses.get(request, []) for request in requests]
            before = [own[:n] for own in guessed for n in range(len(own) + 1)]
            rows = [row for row, own in zip(rows, guessed) for _ in range(len(own) + 1)]
            last = [at - len(own) + n for at, own in zip(last, guessed) for n in range(len(own) + 1)]
            each = [request for request, own in zip(requests, guessed) for _ in range(len(own) + 1)]
        with self._adapted.head_rows([request.adapter for request in each]):
            logits = self.model.logits(hidden[rows, last])[:, : self._vocabulary]
        tokens, logprobs = self._drawer.draw(each, logits, before)
        start = 0
        for request in requests:
            own = guesses.get(request, [])
            end = start + len(own) + 1
            self._take(request, tokens[start:end], logprobs[start:end], own)
            start = end

    def _take(self, request: Request, tokens: list[int], logprobs: list[Logprob | None], guesses: list[int]) -> None:
        """Gives a request its drawn tokens, one more than guesses came true; the cache forgets the wrong ones."""
        if len(request.ids) == request.prompt_length:
            self._counts["prompt_tokens"] += request.prompt_length
        reason, right = None, 0
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            length = len(request.ids)
            reason = request.accept(token, self.ends, logprob)
            self._counts["generated_tokens"] += 1
            came_true = i < len(guesses) and token == guesses[i]
            right += came_true
            if reason or not came_true or len(request.ids) > length + 1:  # the last: a tool has answered
                break
        if guesses:
            assert request.slot is not None, "only running requests are advanced"
            self.cache.truncate(request.slot, self.cache.length(request.slot) - len(guesses) + right)
            request.guesses = right + 1 if right < len(guesses) else min(2 * right, self.config.speculate)
            self._counts["guessed_tokens"] += len(guesses)
            self._counts["right_guesses"] += right
        if reason:
            self._finish(request, reason)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if reason != "abort":
            self.prefixes.save(request)
        self._scheduler.remove(request)
        self._forget(request)
        request.finish(reason)

    def _forget(self, request: Request) -> None:
        if self._guesser is not None:
            self._guesser.forget(request)

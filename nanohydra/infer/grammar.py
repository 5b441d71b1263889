"""Answers of a prescribed form: JSON of a schema, a grammar, a regular expression.

llguidance reads the answer along with the model and tells, before each token is drawn, which tokens can still lead to an
answer of that form; all others get no probability. The library is an extra.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.forms import compile_form, library

TOKEN_SECONDS = 0.002
"""Processor time that a form may take for each token on average; usual ones take a tenth of it."""
SPARE_SECONDS = 0.6
"""What it may take beyond that, in all of its answers together: all requests of a batch wait meanwhile."""


class Allowance:
    """The time that is left to a form."""

    def __init__(self) -> None:
        self._seconds = SPARE_SECONDS

    @property
    def spent(self) -> bool:
        """Whether the form has taken too long; it stays so."""
        return self._seconds < 0

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Takes off what the block takes, half a token's work."""
        start = time.thread_time()
        yield
        if not self.spent:
            self._seconds = min(self._seconds + TOKEN_SECONDS / 2 - (time.thread_time() - start), SPARE_SECONDS)


class Grammar:
    """The form of one answer, at the place where the answer is."""

    def __init__(self, matcher: Any, vocabulary: int, allowance: Allowance) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._allowance = allowance

    @property
    def complete(self) -> bool:
        """Whether the answer is finished and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Tensor:
        """The tokens that may come next, (V,) bool; none where the answer cannot be continued or took too long."""
        if self._allowance.spent:
            return torch.zeros(self._vocabulary, dtype=torch.bool)
        with self._allowance.charged():
            mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        return mask[: self._vocabulary] > 0

    def accept(self, id: int, ends: bool) -> bool:
        """Takes the next token, or one that ends the answer. False where the form does not allow it or took too long."""
        if self._allowance.spent:
            return False
        with self._allowance.charged():
            return bool(self._matcher.is_accepting() if ends else self._matcher.consume_token(id))


class Grammars:
    """Makes the grammars of requests. A schema that comes again is not compiled anew (the last few are kept).

    vocabulary: number of tokens that the model may draw. ends: the tokens that end an answer.
    """

    KEPT = 32

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: set[int]) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.ends = sorted(ends)
        self._made: dict[tuple[str, str], tuple[Any, Allowance]] = {}

    def make(self, params: SamplingParams) -> Grammar | None:
        """The grammar that a request asks for, if any. Raises UserError on one that cannot be followed."""
        form = params.form
        if form is None:
            return None
        if form not in self._made:
            while len(self._made) >= self.KEPT:
                del self._made[next(iter(self._made))]
            self._made[form] = self._compile(params)
        matcher, allowance = self._made[form]
        if allowance.spent:
            raise UserError("The answer's form takes too long to follow: simplify it.")
        with allowance.charged():
            return Grammar(matcher.deep_copy(), self.vocabulary, allowance)

    def _compile(self, params: SamplingParams) -> tuple[Any, Allowance]:
        matcher, allowance = compile_form(params, self._words), Allowance()
        first = Grammar(matcher.deep_copy(), self.vocabulary, allowance).allowed()
        first[self.ends] = False
        if not first.any() and not matcher.is_accepting():
            raise UserError("The tokenizer lacks the characters that the answer's form needs: use another base.")
        return matcher, allowance

    @cached_property
    def _words(self) -> Any:
        """The tokenizer in the library's form."""
        source: Any
        if self.tokenizer.has_fixed_bytes:
            source = library().TokenizerWrapper(_Words(self.tokenizer))
        else:
            with tempfile.TemporaryDirectory() as folder:
                self.tokenizer.save(Path(folder))
                source = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
        return library().LLTokenizer(source, n_vocab=self.tokenizer.vocab_size, eos_token=self.ends)


class _Words:
    """A tokenizer as llguidance's wrapper wants it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.special.values())
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)

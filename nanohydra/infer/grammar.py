"""Answers of a prescribed form: JSON of a schema, a grammar, a regular expression.

llguidance reads the answer along with the model and tells, before each token is drawn, which tokens can still lead to an
answer of that form; all others get no probability. The library is an extra.
"""

from __future__ import annotations

import importlib
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON on one line, with or without a space after commas and colons: where any white space may come at any time, a small
model sometimes writes nothing else until its tokens are used up."""


class Grammar:
    """The form of one answer, at the place where the answer is."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Whether the answer is finished and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Tensor:
        """The tokens that may come next, (V,) bool; none where the answer cannot be continued."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        return mask[: self._vocabulary] > 0

    def accept(self, id: int, ends: bool) -> bool:
        """Takes the next token, or one that ends the answer. False where the form does not allow it."""
        if ends:
            return bool(self._matcher.is_accepting())
        return bool(self._matcher.consume_token(id))


class Grammars:
    """Makes the grammars of requests. A schema that comes again is not compiled anew (the last few are kept).

    vocabulary: number of tokens that the model may draw. ends: the tokens that end an answer.
    """

    KEPT = 32

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: set[int]) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.ends = sorted(ends)
        self._made: dict[tuple[str | None, ...], Any] = {}

    def make(self, params: SamplingParams) -> Grammar | None:
        """The grammar that a request asks for, if any. Raises UserError on one that cannot be followed."""
        if not params.structured:
            return None
        key = (params.json_schema, params.grammar, params.regex)
        if key not in self._made:
            while len(self._made) >= self.KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = self._compile(params)
        return Grammar(self._made[key].deep_copy(), self.vocabulary)

    def _compile(self, params: SamplingParams) -> Any:
        library, tokenizer = self._library, self._words
        if params.json_schema is not None:
            form = library.LLMatcher.grammar_from_json_schema(params.json_schema, overrides=JSON_STYLE)
        elif params.grammar is not None:
            form = library.LLMatcher.grammar_from_lark(params.grammar)
        else:
            form = library.LLMatcher.grammar_from_regex(params.regex)
        matcher = library.LLMatcher(tokenizer, form, log_level=0)
        if matcher.is_error():
            problem = " ".join(matcher.get_error().split())
            raise UserError(f"The answer's form cannot be followed: {problem}. Mend or simplify it.")
        first = Grammar(matcher.deep_copy(), self.vocabulary).allowed()
        first[self.ends] = False
        if not first.any() and not matcher.is_accepting():
            raise UserError("The tokenizer lacks the characters that the answer's form needs: use another base.")
        return matcher

    @cached_property
    def _library(self) -> Any:
        try:
            return importlib.import_module("llguidance")
        except ImportError as e:
            raise UserError('Structured answers need llguidance: pip install "nanohydra[serve]".') from e

    @cached_property
    def _words(self) -> Any:
        """The tokenizer in the library's form."""
        source: Any
        if self.tokenizer.has_fixed_bytes:
            source = self._library.TokenizerWrapper(_Words(self.tokenizer))
        else:
            with tempfile.TemporaryDirectory() as folder:
                self.tokenizer.save(Path(folder))
                source = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
        return self._library.LLTokenizer(source, n_vocab=self.tokenizer.vocab_size, eos_token=self.ends)


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

"""Forms of answers, compiled within bounds.

A small form can be dear: some take a compiler minutes, others break it. So whoever takes forms from strangers lets
`python -m nanohydra.infer.forms` compile each one first, a process that the system ends when its time is up. Loads no torch.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from typing import Any

from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON on one line, with or without a space after commas and colons: where any white space may come at any time, a small
model sometimes writes nothing else until its tokens are used up."""
LIMITS = {"max_items_in_row": 1000, "step_max_items": 20_000, "max_lexer_states": 50_000, "verbose_errors": False}
"""llguidance's own: a token takes less than a tenth of a second and a form some 100 MB, then the answer ends."""
COMPILE_SECONDS = 0.3
"""Most processor time that compiling may take. Usual forms take a few milliseconds, of 64 KiB too."""
PROBLEM_CHARACTERS = 300
"""The library's messages may quote a whole form."""


def library() -> Any:
    """llguidance, an extra. UserError where it is missing."""
    try:
        return importlib.import_module("llguidance")
    except ImportError as e:
        raise UserError('Structured answers need llguidance: pip install "nanohydra[serve]".') from e


def compile_form(params: SamplingParams, words: Any) -> Any:
    """The matcher of the form that a request asks for; words: the tokenizer as llguidance knows it. Raises UserError."""
    matchers = library().LLMatcher
    try:
        if params.json_schema is not None:
            form = matchers.grammar_from_json_schema(params.json_schema, overrides=JSON_STYLE)
        elif params.grammar is not None:
            form = matchers.grammar_from_lark(params.grammar)
        else:
            form = matchers.grammar_from_regex(params.regex)
        matcher = matchers(words, form, log_level=0, limits=library().LLParserLimits(**LIMITS))
        problem = matcher.get_error() if matcher.is_error() else ""
    except ValueError as e:  # nested too deeply
        problem = str(e)
    if problem:
        problem = " ".join(problem.split())
        cut = problem[:PROBLEM_CHARACTERS] + "..." if len(problem) > PROBLEM_CHARACTERS else problem
        raise UserError(f"The answer's form cannot be followed: {cut}. Mend or simplify it.")
    return matcher


class _Bytes:
    """A vocabulary of single bytes, as llguidance's wrapper wants it: what compiling costs hardly depends on the words."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([i]) for i in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    """Compiles the form of a SamplingParams' fields (JSON on stdin), and writes what is wrong with it, if anything.

    SIGPROF ends the process, in the middle of native code too, when it has computed for COMPILE_SECONDS.
    """
    given = json.load(sys.stdin)
    try:
        words = library().LLTokenizer(library().TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=256)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, COMPILE_SECONDS)
        compile_form(SamplingParams(**given), words).compute_logit_bias()
    except UserError as e:
        sys.stdout.buffer.write(str(e).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()

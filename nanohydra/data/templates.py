"""Other families' chat templates: rendered in a sandbox, and tokenised so that nobody's text can forge a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError

# Special tokens in a content are swapped for as many private-use characters while the template renders: same length, so
# that offsets hold, and nothing that a template or a tokenizer would take for a special token.
_HIDDEN = 0xF0000


def render_template(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The text of a conversation by the tokenizer's own template, with the tools (in OpenAI's form) that it may tell the
    model of. Raises UserError where the template refuses it."""
    try:
        return _compiled(tokenizer.chat_template or "").render(
            messages=[dict(message) for message in messages],
            tools=None if tools is None else [dict(tool) for tool in tools],
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.named_tokens,
        )
    except TemplateError as e:
        raise UserError(f"The tokenizer's chat template refuses this conversation: {e}") from e


def hide_special(tokenizer: Tokenizer, text: str) -> str:
    """`text` with each special token spelled out in it swapped for private-use characters, of the same length."""
    for k, token in enumerate(tokenizer.special):
        if token in text:
            text = text.replace(token, chr(_HIDDEN + k) * len(token))
    return text


def encode_rendered(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The ids of a rendered conversation, and at which character of `text` each begins.

    The template's special tokens become their ids; those that `hide_special` swapped become plain text again.
    """
    hidden = {chr(_HIDDEN + k): token for k, token in enumerate(tokenizer.special)}
    if not any(c in text for c in hidden):  # the usual case, exactly as transformers does it
        encoding = tokenizer.encode_with_special(text)
        return encoding.ids, [start for start, _ in encoding.offsets]
    ids: list[int] = []
    starts: list[int] = []
    longest_first = sorted(tokenizer.special, key=len, reverse=True)
    at = 0
    for piece in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
        if piece in tokenizer.special:
            ids.append(tokenizer.special[piece])
            starts.append(at)
        else:
            for c, token in hidden.items():
                piece = piece.replace(c * len(token), token)
            encoding = tokenizer.encode_plain(piece)
            ids.extend(encoding.ids)
            starts.extend(at + start for start, _ in encoding.offsets)
        at += len(piece)
    return ids, starts


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which a model must not see.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


class _GenerationTag(Extension):
    """Lets `{% generation %}...{% endgeneration %}` through, which some templates put around the assistant's text."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()

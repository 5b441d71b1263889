"""Markdown to HTML that is safe to show: CommonMark with tables, code in colours, nothing that is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]


def to_html(text: str) -> str:
    """The HTML of a markdown text. HTML in it is shown as text, and an image becomes a link: a model must not be able to
    make the browser ask another machine for something (the address could carry the conversation away)."""
    return str(_parser().render(text))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.add_render_rule("fence", _code)
    parser.add_render_rule("code_block", _code)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll-x" tabindex="0"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser


def _code(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    language = token.info.split()[0] if token.info.strip() else ""
    try:
        lexer = get_lexer_by_name(language) if language else None
    except ClassNotFound:
        lexer = None
    code = highlight(token.content, lexer, HtmlFormatter(nowrap=True)) if lexer else escape(token.content)
    return (
        f'<figure class="code"><figcaption><span>{escape(language) or "text"}</span>'
        '<button type="button" class="quiet" data-copy>Copy</button></figcaption>'
        f'<pre tabindex="0" aria-label="code"><code>{code}</code></pre></figure>'
    )


def _image(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    words = escape(token.content or "picture")
    return f'<a href="{escape(str(token.attrs.get("src", "")))}" target="_blank" rel="noopener noreferrer">{words}</a>'


def _link_open(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    token.attrSet("target", "_blank")
    token.attrSet("rel", "noopener noreferrer")
    return str(self.renderToken(tokens, at, options, env))

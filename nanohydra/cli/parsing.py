"""What every verb shares: a parser whose errors suggest the nearest option and whose help comes from docstrings."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings


class Parser(ArgumentParser):
    """jsonargparse's parser with one-line errors: what is wrong, then the nearest option's name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        unknown = re.search(r"unrecognized arguments: (--[\w.-]+)|(?:Key|key|Option|option) ['\"]?([\w.-]+)['\"]? is not", text)
        if unknown:
            name = (unknown.group(1) or unknown.group(2)).lstrip("-").split("=")[0]
            near = difflib.get_close_matches(name, self._known_options(), n=1, cutoff=0.5)
            if near:
                text += f' Did you mean "{near[0]}"?'
        sys.stderr.write(f"{self.prog}: {text}\n")
        raise SystemExit(2)

    def _known_options(self) -> list[str]:
        return [option.lstrip("-") for action in self._actions for option in action.option_strings]


def parser(verb: str, description: str) -> Parser:
    """A parser for `nanohydra verb` whose options take their help from the docstrings below dataclass fields."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return Parser(prog=f"nanohydra {verb}", description=description)


def instantiate(p: Parser, argv: list[str]) -> Any:
    """Parses `argv` and turns dataclass options into their dataclasses."""
    return p.instantiate_classes(p.parse_args(argv))

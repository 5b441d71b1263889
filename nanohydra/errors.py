"""Errors that a person can act on. The command line prints them as one line and exits with status 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, then what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the nearest known name, or the known names where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Known: {', '.join(known)}." if known else ""

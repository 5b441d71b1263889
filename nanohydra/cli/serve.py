"""`nanohydra serve`: the chat server with its API and its web app."""

from __future__ import annotations

import os
from functools import partial

from nanohydra.cli.parsing import parse, parser
from nanohydra.errors import UserError
from nanohydra.serve.config import ServeConfig


def main(argv: list[str]) -> None:
    """Serves a base until Ctrl-C."""
    p = parser("serve", "A private chat server: web app, OpenAI-compatible API, adapters. Stop it with Ctrl-C.")
    p.add_class_arguments(ServeConfig, as_group=False)
    values = vars(parse(p, argv))
    if values["token"] is None:
        values["token"] = os.environ.get("NANOHYDRA_TOKEN") or None
    config = ServeConfig(**values)
    try:
        from nanohydra.serve.run import serve
    except ModuleNotFoundError as e:
        raise UserError(f"The server needs {e.name}: pip install 'nanohydra[serve]'") from e
    serve(config, partial(print, flush=True))

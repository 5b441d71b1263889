"""The `nanohydra` command: one file per verb; each parses, calls and prints, and imports torch only when it runs."""

from __future__ import annotations

import importlib
import os
import sys

VERBS = {
    "speedrun": "from nothing to a chat model: world, tokenizer, training, exam, report card, chat",
    "chat": "talk to a model in the terminal, or ask one question with -p",
    "learn": "teach facts or a document: a text, a file, pairs; trained, examined, published or not",
    "log": "what was taught, published, reverted and forgotten",
    "show": "a lesson with its facts, passages and receipt; without one, all lessons",
    "known": "what was taught about somebody or something",
    "diff": "what a lesson changed, or how two lessons and their receipts differ",
    "revert": "take a lesson back",
    "forget": "drop a fact for good, and prove it",
    "blame": "which adapter, passage or tool an answer came from",
    "consolidate": "one adapter of all lessons, through the same gate",
    "retest": "ask again what was taught; what faded is taught again",
    "serve": "a private chat server: web app in the browser, OpenAI-compatible API",
    "sample": "continue a text",
    "train": "train a model from a recipe (a YAML file)",
    "sft": "fine-tune a base on conversations",
    "eval": "perplexity, bits per byte and the tinyworld exam of a base",
    "pull": "bring open weights: hub id, folder, file.gguf or smollm2",
    "data": "look at corpora, prepare token shards, check for leaks",
    "tokenizer": "train a tokenizer, encode and decode with it",
    "runs": "list, show and compare runs",
    "continual": "domains in sequence: run every strategy, report what was forgotten",
    "lab": "variants x seeds: run, report, compare",
    "info": "versions, machine and folders",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0 done, 1 an error the user can mend, 2 bad usage, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    verb = argv[0]
    if verb == "--version":
        from nanohydra import __version__

        print(f"nanohydra {__version__}")
        return 0
    from nanohydra.errors import UserError, did_you_mean

    if verb not in VERBS:
        print(f"nanohydra: no verb {verb!r}.{did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"nanohydra.cli.{verb}")
        return int(module.main(argv[1:]) or 0)
    except UserError as e:
        print(f"nanohydra {verb}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        # A training that was asked to stop has saved, and says how to go on.
        print(f"\nnanohydra {verb}: {str(e) or 'interrupted'}", file=sys.stderr)
        return int(getattr(e, "exit_code", 130))
    except BrokenPipeError:
        # The reader of our output left (`nanohydra runs list | head`): close quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _help() -> str:
    lines = ["usage: nanohydra VERB [options]        (nanohydra VERB --help tells more)", ""]
    lines += [f"  {verb:<11} {what}" for verb, what in VERBS.items()]
    lines += ["", "Start with: nanohydra speedrun        Files go under NANOHYDRA_HOME (see: nanohydra info)"]
    return "\n".join(lines)

"""`nanohydra chat`: a conversation in the terminal, or one question with -p."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nanohydra.cli.parsing import parse, parser
from nanohydra.infer.config import SamplingParams

if TYPE_CHECKING:
    from nanohydra.data.chat import Message
    from nanohydra.infer.engine import Engine


def main(argv: list[str]) -> None:
    """Loads a base and answers: one prompt, the lines of standard input, or a person at the keyboard."""
    p = parser("chat", "Talk to a model. Type /new to start over, /quit or Ctrl-D to leave.")
    p.add_argument("--base", type=str, default="demo", help="a name under the bases folder, or a model folder")
    p.add_argument("-p", "--prompt", type=str | None, default=None, help="ask this one question and exit")
    p.add_argument("--system", type=str | None, default=None, help="a system message to start with")
    p.add_argument("--int8", type=bool, default=False, help="int8 weights: less memory, faster on a CPU")
    p.add_argument("--sampling", type=SamplingParams, default=SamplingParams())
    args = parse(p, argv)
    from nanohydra.jobs.bases import open_engine

    engine = open_engine(args.base, int8=args.int8)
    start: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    if args.prompt is not None:
        answer(engine, [*start, {"role": "user", "content": args.prompt}], args.sampling)
    else:
        converse(engine, start, args.sampling)


def answer(engine: Engine, messages: list[Message], sampling: SamplingParams) -> Message:
    """Streams the answer to the screen, calculator calls in brackets, and returns it as a message."""
    from nanohydra.data.chat import render_chat

    prompt, _ = render_chat(engine.tokenizer, messages, add_generation_prompt=True)
    reply: Message = {"role": "assistant", "content": ""}
    for delta in engine.stream(prompt, sampling):
        if delta.part is not None:
            print(f"[{delta.part['expression']} = {delta.part['result']}]", end="", flush=True)
        else:
            print(delta.text, end="", flush=True)
        if delta.completion is not None:
            reply["content"] = delta.completion.parts
    print(flush=True)
    return reply


def converse(engine: Engine, start: list[Message], sampling: SamplingParams) -> None:
    """A conversation until the input ends; the oldest turns are dropped when the context is full."""
    typed = sys.stdin.isatty()
    messages = list(start)
    while True:
        try:
            line = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            if typed:
                print()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            messages = list(start)
            continue
        if not line:
            continue
        messages.append({"role": "user", "content": line})
        messages = fitted(engine, messages, len(start), sampling.max_tokens)
        try:
            messages.append(answer(engine, messages, sampling))
        except KeyboardInterrupt:
            print(" (stopped)")
            messages.pop()


def fitted(engine: Engine, messages: list[Message], kept: int, reserve: int) -> list[Message]:
    """`messages` without the oldest question and answer pairs that no longer fit; the first `kept` always stay."""
    from nanohydra.data.chat import render_chat

    room = max(engine.max_seq_len - reserve, engine.max_seq_len // 2)
    while len(messages) > kept + 1 and len(render_chat(engine.tokenizer, messages, True)[0]) > room:
        messages = messages[:kept] + messages[kept + 2 :]
    return messages

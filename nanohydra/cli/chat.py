"""`nanohydra chat`: a conversation in the terminal, or one question with -p; it knows what was taught, and takes lessons."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nanohydra.cli.parsing import parse, parser
from nanohydra.cli.recalling import Mode
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams

if TYPE_CHECKING:
    from nanohydra.cli.recalling import Recalling
    from nanohydra.data.chat import Message
    from nanohydra.hydra.material import Material
    from nanohydra.infer.engine import Engine

HELP = """/learn TEXT   teach this (so does: remember that ...); it is answered at once, and trained by: nanohydra learn
/log          what was taught lately
/new          start over
/quit         leave (or Ctrl-D)"""


def main(argv: list[str]) -> None:
    """Loads a base and answers: one prompt, the lines of standard input, or a person at the keyboard."""
    p = parser("chat", "Talk to a model. Type /help for commands, /quit or Ctrl-D to leave.")
    p.add_argument("--base", type=str, default="demo", help="a name under the bases folder, or a model folder")
    p.add_argument("-p", "--prompt", type=str | None, default=None, help="ask this one question and exit")
    p.add_argument("--system", type=str | None, default=None, help="a system message to start with")
    p.add_argument("--int8", type=bool, default=False, help="int8 weights: less memory, faster on a CPU")
    p.add_argument(
        "--memory", type=Mode, default="on", help="what was taught: from weights, by retrieval, both or not at all"
    )
    p.add_argument(
        "--database", type=str | None, default=None, help="what was taught is in it (default: in the home folder)"
    )
    p.add_argument("--sampling", type=SamplingParams, default=SamplingParams())
    args = parse(p, argv)
    from nanohydra.jobs.bases import open_engine

    start: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    with ExitStack() as stack:
        engine = open_engine(args.base, int8=args.int8, adapters=args.memory != "off")
        recalling = remembering(stack, engine, args.base, args.memory, args.database)
        if args.prompt is not None:
            answer(engine, [*start, {"role": "user", "content": args.prompt}], args.sampling, recalling)
        else:
            converse(engine, start, args.sampling, recalling)


def remembering(
    stack: ExitStack, engine: Engine, base: str, mode: Mode, database: str | None = None
) -> Recalling | None:
    """What was taught, open until the stack closes; None where it is switched off or the extra is not installed."""
    from importlib.util import find_spec

    from nanohydra.cli.lessons import memory
    from nanohydra.cli.recalling import Recalling

    if mode == "off" or any(find_spec(name) is None for name in ("sqlalchemy", "alembic", "bm25s", "Stemmer")):
        return None
    store, user_id = stack.enter_context(memory(database))
    return Recalling(store, user_id, base, engine.model.config.parameters(), mode)


def answer(
    engine: Engine, messages: list[Message], sampling: SamplingParams, recalling: Recalling | None = None
) -> Message:
    """Streams the answer to the screen, calculator calls in brackets and sources below, and returns it as a message."""
    from nanohydra.data.chat import render_chat
    from nanohydra.hydra.checking import Check

    plan = recalling.plan(messages) if recalling else None
    if plan and plan.quote is not None:
        print(plan.quote, flush=True)
        reply: Message = {"role": "assistant", "content": plan.quote}
    else:
        adapter = recalling.attach(engine, plan) if recalling and plan else None
        told = with_notes(messages, plan.prompt) if plan and plan.prompt else messages
        prompt, _ = render_chat(engine.tokenizer, told, add_generation_prompt=True)
        reply = {"role": "assistant", "content": ""}
        check = Check[str](plan)
        for delta in engine.stream(prompt, sampling, adapter):
            written = f"[{delta.part['expression']} = {delta.part['result']}]" if delta.part else delta.text
            print(*check.push(written, written), sep="", end="", flush=True)
            if delta.completion is not None:
                reply["content"] = delta.completion.parts
        if not check.stands and check.instead:
            plan = check.instead
            reply["content"] = plan.quote or ""
        print(*([plan.quote] if plan and plan.quote else check.end()), sep="", flush=True)
    if recalling and plan:
        for line in recalling.cited(plan.sources):
            print(line, flush=True)
    return reply


def with_notes(messages: list[Message], notes: str) -> list[Message]:
    """The conversation with what is to be read in its system message."""
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{notes}"}, *messages[1:]]
    return [{"role": "system", "content": notes}, *messages]


def converse(
    engine: Engine, start: list[Message], sampling: SamplingParams, recalling: Recalling | None = None
) -> None:
    """A conversation until the input ends; the oldest turns are dropped when the context is full."""
    typed = sys.stdin.isatty()
    if typed and recalling:
        recalling.warm()
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
        if not line or command(line, recalling):
            continue
        messages.append({"role": "user", "content": line})
        messages = fitted(engine, messages, len(start), sampling.max_tokens)
        try:
            messages.append(answer(engine, messages, sampling, recalling))
        except KeyboardInterrupt:
            print(" (stopped)")
            messages.pop()


def command(line: str, recalling: Recalling | None) -> bool:
    """Does what a line asks for that is no question: /help, /log, /learn TEXT, "remember that ..."; False for any other."""
    word, _, rest = line.partition(" ")
    if word == "/help":
        print(HELP)
    elif word in ("/log", "/learn") and recalling is None:
        print("What is taught is switched off here: see --memory, and pip install 'nanohydra[teach]'.")
    elif word == "/log":
        assert recalling is not None
        from nanohydra.hydra import history

        lines = history.log(recalling.store, recalling.user_id, 10)
        print("\n".join(line["text"] for line in lines) or "Nothing was taught yet.")
    elif recalling is not None and (word == "/learn" or "remember" in line.lower()):
        return taught(line, rest, word == "/learn", recalling)
    elif line.startswith("/"):
        print(f"There is no command {word}. See /help.")
    else:
        return False
    return True


def taught(line: str, text: str, asked: bool, recalling: Recalling) -> bool:
    """Keeps a lesson of `text`, or, where nobody said /learn, of what the line wants remembered; False where it does not."""
    from nanohydra.cli.learn import teach
    from nanohydra.hydra.config import LearnConfig
    from nanohydra.hydra.reading import remembered, take_in

    try:
        if asked:
            material: Material = take_in(text=text)
        elif remembered(turn := [{"role": "user", "content": line}]):
            material = take_in(messages=turn)
        else:
            return False
        lesson = teach(recalling.store, recalling.user_id, material, recalling.base, LearnConfig())
        print(f"To train it: nanohydra learn   (or a server does). To take it back: nanohydra revert {lesson.id}")
    except UserError as e:
        print(e)
    return True


def fitted(engine: Engine, messages: list[Message], kept: int, reserve: int) -> list[Message]:
    """`messages` without the oldest question and answer pairs that no longer fit; the first `kept` always stay."""
    from nanohydra.data.chat import render_chat

    room = max(engine.max_seq_len - reserve, engine.max_seq_len // 2)
    while len(messages) > kept + 1 and len(render_chat(engine.tokenizer, messages, True)[0]) > room:
        messages = messages[:kept] + messages[kept + 2 :]
    return messages

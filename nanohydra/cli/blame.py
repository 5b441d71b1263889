"""`nanohydra blame`: where an answer came from: which adapter, passage or tool."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from nanohydra.cli.lessons import memory, memory_parser, minute
from nanohydra.cli.parsing import parse

if TYPE_CHECKING:
    from nanohydra.store import Message, Store


def main(argv: list[str]) -> None:
    """Explains a stored answer, or how a question would be answered now."""
    p = memory_parser(
        "blame",
        "Where an answer came from: which adapter, passage or tool. Give words of an answer from a stored chat (the newest "
        "that holds them is meant), or a question: who would answer it now.",
        'nanohydra blame "ANSWER OR QUESTION" [--base NAME]',
    )
    p.add_argument("said", type=str, help="words of an answer, or a question")
    p.add_argument("--base", type=str, default="demo", help="the base that a question is put to")
    args = parse(p, argv)
    with ExitStack() as stack:
        store, user_id = stack.enter_context(memory(args.database))
        from nanohydra.hydra import history

        message = None if args.said.rstrip().endswith("?") else stored(store, user_id, args.said)
        if message is not None:
            print(f'"{" ".join(message.content.split())}"\nanswered {minute(message.created)}')
            provenance = message.provenance
        else:
            from nanohydra.cli.recalling import Recalling
            from nanohydra.model.hub import find_base, load_base

            model, _ = load_base(args.base)
            recalling = Recalling(store, user_id, args.base, model.config.parameters(), "on")
            print(f'"{args.said}"\nwould be answered so now:')
            plan = recalling.plan([{"role": "user", "content": args.said}]).to_data()
            provenance = {"base": find_base(args.base).name, "base_id": recalling.base[1], **plan}
        print(explained(history.blame(store, user_id, provenance)))


def stored(store: Store, user_id: int, said: str) -> Message | None:
    """The newest answer in the person's conversations that holds these words."""
    found: list[Message] = []
    for conversation in store.conversations(user_id, said):
        messages = store.messages(conversation.id, user_id)
        found += [m for m in messages if m.role == "assistant" and said.casefold() in m.content.casefold()]
    return max(found, key=lambda message: (message.created, message.id), default=None)


def explained(blamed: Mapping[str, Any]) -> str:
    """What `history.blame` found, as lines."""
    lesson, route = blamed["lesson"], blamed["route"] or {}
    ways = {
        "weights": f"from the weights of {blamed['adapter']}",
        "quote": "by retrieval, as a quotation",
        "reading": "by reading what retrieval found",
    }
    if blamed["overruled"]:
        ways["quote"] += f", since {blamed['overruled']} did not tell what it was taught"
    told = ways.get(blamed["mode"] or "", f"from {blamed['adapter'] or 'the base alone'}")
    lines = [f"base     {blamed['base'] or 'unknown'} {(blamed['base_id'] or '')[:12]}".rstrip(), f"answer   {told}"]
    if lesson is not None:
        lines.append(f'lesson   {lesson["id"]} "{lesson.get("name", "")}" ({lesson["state"]})')
    if route.get("evidence"):
        score = f", score {route['score']:.2f}" if route.get("score") else ""
        lines.append(f"route    {route['evidence']}{score}")
    for source in blamed["sources"]:
        lines.append(
            f"[{source['n']}]      {source['kind']} {source['id']}, {source['where']}: {source['text']} ({source['now']})"
        )
    lines += [
        f"tool     {part['type']}: {part.get('expression', '')} = {part.get('result', '')}" for part in blamed["tools"]
    ]
    return "\n".join(lines)

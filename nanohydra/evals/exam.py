"""The tinyworld exam, taken through the engine: what the model knows, what it makes up, how it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanohydra.data.chat import render_chat
from nanohydra.data.tinyworld.exam import Item, score
from nanohydra.evals.intervals import Estimate, wilson
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine

MEANING = {
    "recall_unseen_wordings": "facts told rightly when asked in wordings never trained on",
    "unseen_key_words": "the part of recall asked without any key word of the training questions",
    "no_pet": "people without a pet: said so",
    "hallucination_unknown_people": "questions about people who do not exist, answered as if they did (less is better)",
    "hallucination_recombined_names": "the part of these with a known first and a known last name (less is better)",
    "arithmetic_with_tool": "sums and differences of 2 to 4 digits, right and by the calculator",
    "word_problems": "little stories with a sum in them, right and by the calculator",
    "two_hop": "facts about somebody's best friend, for pairs never asked in training",
    "ages": "somebody's age in a year, right and by the calculator",
    "small_talk": "greetings, thanks and questions about the model, answered fittingly",
    "val_bits_per_byte": "compression of text of the same world that was never trained on",
    "val_loss": "nats a token of the same text",
    "parameters": "trained weights, tied ones counted once",
    "train_tokens_per_second": "over the whole training, evaluation excluded",
    "minutes": "from the world to this report",
}
"""What the numbers of a report card mean."""


@dataclass(frozen=True)
class Graded:
    """One answered item."""

    item: Item
    answer: str
    """What a person reads, the calculator's calls and results included."""
    right: bool


def take_exam(engine: Engine, items: Sequence[Item], max_tokens: int = 64) -> list[Graded]:
    """Answers every item greedily and scores it."""
    # Prompts of like length run together, so that little is padded.
    order = sorted(range(len(items)), key=lambda i: len(items[i].question))
    prompts = [render_chat(engine.tokenizer, items[i].messages, add_generation_prompt=True)[0] for i in order]
    completions = engine.generate(prompts, SamplingParams(max_tokens=max_tokens))
    graded: list[Graded | None] = [None] * len(items)
    for i, completion in zip(order, completions, strict=True):
        calls = [part for part in completion.parts if part["type"] == "calculator"]
        words = "".join(part["text"] for part in completion.parts if part["type"] == "text")
        shown = "".join(
            part["text"] if part["type"] == "text" else f"[{part['expression']} = {part['result']}]"
            for part in completion.parts
        )
        graded[i] = Graded(items[i], shown, score(items[i], words, bool(calls)))
    return [g for g in graded if g is not None]


def exam_estimates(graded: Sequence[Graded]) -> dict[str, Estimate]:
    """The share of right answers of each kind (of wrong ones, for hallucination) with n and Wilson's 95% interval."""
    groups: dict[str, list[bool]] = {}
    for g in graded:
        groups.setdefault(g.item.kind, []).append(g.right)
        if g.item.kind == "recall_unseen_wordings" and g.item.unseen_key:
            groups.setdefault("unseen_key_words", []).append(g.right)
        if g.item.kind == "hallucination_unknown_people" and g.item.sub == "recombined":
            groups.setdefault("hallucination_recombined_names", []).append(g.right)
    return {
        kind: wilson(sum(not r for r in rights) if kind.startswith("hallucination") else sum(rights), len(rights))
        for kind, rights in groups.items()
    }

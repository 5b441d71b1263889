"""What is asked of a base once, and kept: general questions that it answers rightly, and samples of its own for replay.

The questions and the text are in the package (probe/*.txt); a base that grew up in tinyworld is asked that world's exam
and reads that world's text. What a base wrote by itself is never a question of the probe, so replay trains on none of it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from nanohydra.data.chat import Message, plain_text, render_chat
from nanohydra.data.tinyworld.config import ExamConfig, TinyworldConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.exam import Item, exam, score
from nanohydra.data.tinyworld.world import World
from nanohydra.data.tokenizer import CALC, Tokenizer
from nanohydra.files import write_json
from nanohydra.home import home
from nanohydra.hydra.training import Rendered, shared_beginning
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.infer.streaming import Completion

VERSION = 2
"""Of what is kept: a higher one asks anew."""
QUESTIONS = 240
"""General questions that are looked for."""
ANSWER_TOKENS = 14
"""Longest answer to a general question: only those that the base answers rightly so soon are kept."""
CHATS, TEXTS, SAMPLE_TOKENS = 64, 20, 72
"""Samples for replay: chats and plain texts, and the most tokens of an answer or a text."""


@dataclass(frozen=True)
class Question:
    """One general question."""

    messages: list[Message]
    accepted: tuple[str, ...] = ()
    """A right answer holds one of these."""
    item: Item | None = None
    """A question of tinyworld's exam, which has its own score."""

    @property
    def text(self) -> str:
        """What the router sees: the last message."""
        return str(self.messages[-1]["content"])

    def right(self, answer: Completion) -> bool:
        """Whether an answer is right."""
        words = "".join(part["text"] for part in answer.parts if part["type"] == "text")
        if self.item is not None:
            return score(self.item, words, any(part["type"] == "calculator" for part in answer.parts))
        return any(_holds(words, value) for value in self.accepted)


@dataclass(frozen=True)
class Probes:
    """What is kept of a base."""

    questions: list[Question]
    """Answered rightly by the base, in a random order."""
    samples: list[Rendered]
    """Chats, then plain texts, that the base wrote."""
    texts: list[str]
    """A general text, by documents."""
    seconds: float
    """What it took when it was made."""


def probes_of(base_id: str, engine: Callable[[], Engine], tokenizer: Tokenizer, seconds: Callable[[], float]) -> Probes:
    """The probes of a base, from home()/probes, made where they are not there yet.

    Args:
        engine: opens the base for answering; called only where probes are made.
        seconds: a clock.
    """
    questions, texts = _world_probe() if CALC in tokenizer.special else _common_probe()
    asked = json.dumps([[q.messages for q in questions], VERSION, QUESTIONS, ANSWER_TOKENS, CHATS, TEXTS])
    path = home() / "probes" / f"{base_id[:16]}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.json"
    kept = _read(path)
    if kept is None:
        began, asking = seconds(), engine()
        right = _answered(asking, questions)
        known = {plain_text(q.text).casefold() for q in questions}
        kept = {"right": right, "chats": _chats(asking, known), "texts": _texts(asking)}
        kept["seconds"] = round(seconds() - began, 1)
        write_json(path, kept)
    samples = [Rendered(ids, [], "chat") for ids in kept["chats"]] + [
        Rendered(ids, [], "text") for ids in kept["texts"]
    ]
    return Probes([questions[i] for i in kept["right"]], samples, texts, kept["seconds"])


@cache
def common_questions() -> tuple[Question, ...]:
    """The package's questions of common knowledge, in a fixed random order."""
    found: list[Question] = []
    template = ""
    for line in _packaged("general.txt").splitlines():
        if line.startswith("["):
            template = line[1:-1]
        elif line and not line.startswith("#"):
            asked, _, accepted = line.rpartition(" = ")
            words = template.replace("{}", asked) if template else asked
            found.append(Question([{"role": "user", "content": words}], tuple(accepted.split("; "))))
    random.Random(0).shuffle(found)
    return tuple(found)


def _common_probe() -> tuple[list[Question], list[str]]:
    return list(common_questions()), _packaged("prose.txt").strip().split("\n\n")


def _world_probe() -> tuple[list[Question], list[str]]:
    world = World(0, people=TinyworldConfig().people)
    items = exam(world, ExamConfig(items=60), seed=20)
    random.Random(0).shuffle(items)
    plain = (d.text for d in documents(world, TinyworldConfig(), seed=1000) if d.text)
    return [Question(item.messages, item=item) for item in items], list(islice(plain, 60))


def _packaged(name: str) -> str:
    return (resources.files("nanohydra.hydra") / "probe" / name).read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    """What is kept; None where there is nothing, or nothing whole."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and {"right", "chats", "texts", "seconds"} <= kept.keys() else None


def _answered(engine: Engine, questions: Sequence[Question]) -> list[int]:
    """The numbers of the first QUESTIONS questions that the base answers rightly."""
    right: list[int] = []
    for start in range(0, len(questions), 64):
        part = questions[start : start + 64]
        answers = engine.generate(
            [render_chat(engine.tokenizer, q.messages, add_generation_prompt=True)[0] for q in part],
            SamplingParams(max_tokens=64 if part[0].item else ANSWER_TOKENS),
        )
        right += [start + i for i, (q, answer) in enumerate(zip(part, answers, strict=True)) if q.right(answer)]
        if len(right) >= QUESTIONS:
            break
    return right[:QUESTIONS]


def _chats(engine: Engine, known: set[str]) -> list[list[int]]:
    """Chats as ids, with the base's answers; none asks a question of the probe.

    The questions are written by the base, too (Xu et al., arXiv 2406.08464). One that learned tinyworld never learned to
    write questions: it is asked that world's.
    """
    tokenizer = engine.tokenizer
    if CALC in tokenizer.special:
        told = documents(World(0, people=TinyworldConfig().people), TinyworldConfig(), seed=2000)
        unique = dict.fromkeys(plain_text(d.messages[0]["content"]) for d in islice(told, 8 * CHATS) if d.messages)
    else:
        asked = engine.generate([_user_header(tokenizer)] * (CHATS * 3 // 2), list(_sampling(48)))
        unique = dict.fromkeys(a.text.strip() for a in asked if a.finish_reason == "stop")
    words = [text for text in unique if len(text) >= 8 and text.casefold() not in known][:CHATS]
    prompts = [
        render_chat(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)[0] for text in words
    ]
    answers = engine.generate(prompts, list(islice(_sampling(SAMPLE_TOKENS), len(prompts))))
    return [[*prompt, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)]


def _texts(engine: Engine) -> list[list[int]]:
    """Plain texts that the base wrote, as ids."""
    begin = [engine.tokenizer.eos_id]
    answers = engine.generate([begin] * TEXTS, list(islice(_sampling(SAMPLE_TOKENS), TEXTS)))
    return [begin + answer.ids for answer in answers if len(answer.ids) > 8]


def _sampling(max_tokens: int) -> Iterator[SamplingParams]:
    """Each request draws with a seed of its own. The base's own distribution, its thin tail cut off."""
    for seed in range(CHATS * 3 // 2):
        yield SamplingParams(max_tokens=max_tokens, temperature=1.0, top_p=0.95, seed=seed)


def _user_header(tokenizer: Tokenizer) -> list[int]:
    """The ids of a conversation up to where the user's first words begin."""
    two = [render_chat(tokenizer, [{"role": "user", "content": words}])[0] for words in ("One", "Two")]
    return two[0][: shared_beginning(two)]


def _holds(text: str, value: str) -> bool:
    """Whether a value stands in a text as whole words, case aside."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None

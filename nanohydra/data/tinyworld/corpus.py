"""The training text: all registers in one stream, mixed so that each has its share of the tokens at any point.

Use:
    for document in documents(World(0), TinyworldConfig(), seed=0, tokens=2_000_000): ...
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from nanohydra.data.tinyworld.chats import Chats, Turn, cost, estimated_tokens
from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.data.tinyworld.documents import Document, assistant, user
from nanohydra.data.tinyworld.prose import Prose
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import People, World
from nanohydra.errors import UserError

TEXTS = ("biographies", "stories", "dialogues", "letters")
CHATS = ("questions", "refusals", "calculations", "two_hop", "ages", "small_talk")


def documents(
    world: World,
    config: TinyworldConfig,
    seed: int,
    people: People | None = None,
    tokens: int | None = None,
) -> Iterator[Document]:
    """Yields documents in a varied order that depends on the seed alone.

    Args:
        people: a session's people, to hear of them alone; by default everybody, and the towns and events.
        tokens: stops after about so many tokens (by `estimated_tokens`); endless where None.
    """
    mixer = _Mixer(world, config, seed, people)
    while tokens is None or mixer.total < tokens:
        yield mixer.next()


class _Mixer:
    """Always continues with the register that is furthest behind its share."""

    def __init__(self, world: World, config: TinyworldConfig, seed: int, people: People | None) -> None:
        rng = random.Random(f"tinyworld/{world.seed}/corpus/{seed}")
        cohort = world.people if people is None else people
        wordings = Wordings(world.seed, config.question_wordings)
        prose = Prose(world, wordings, cohort, people is None, rng)
        chats = Chats(world, wordings, cohort, people is None, config, rng)
        self._texts: dict[str, Callable[[], str]] = {
            "biographies": prose.biography,
            "stories": prose.story,
            "dialogues": prose.dialogue,
            "letters": prose.letter,
        }
        self._turns: dict[str, Callable[[], Turn]] = {
            "refusals": chats.refusal,
            "calculations": chats.calculation,
            "two_hop": chats.two_hop,
            "ages": chats.age,
            "small_talk": chats.small_talk,
        }
        self._chats, self._config, self._rng = chats, config, rng
        possible = {
            "two_hop": len(world.attributes) > ("friend" in world.attributes) > 0,
            "ages": "birth_year" in world.attributes,
        }
        shares = {name: getattr(config, name) * possible.get(name, True) for name in TEXTS + CHATS}
        whole = sum(shares.values())
        if whole <= 0:
            raise UserError("All shares of tinyworld's registers are 0. Give at least one of them a share.")
        self._shares = {name: share / whole for name, share in shares.items() if share > 0}
        # A random start, so that the registers do not begin in the order of the list.
        self._spent = {name: rng.random() * 300 * share for name, share in self._shares.items()}
        self.total = 0.0

    def next(self) -> Document:
        """The next document."""
        register = min(self._shares, key=lambda name: self._spent[name] / self._shares[name])
        if register in self._texts:
            words = self._texts[register]()
            self._spend(register, estimated_tokens(words) + 1)
            return Document(register, text=words)
        messages = []
        turn = None
        name = register
        for i in range(self._rng.randint(1, self._config.max_turns)):
            if i and self._rng.random() < self._config.mixed_chats:
                names = [chat for chat in CHATS if chat in self._shares]
                name = self._rng.choices(names, [self._shares[chat] for chat in names])[0]
            turn = self._chats.question(turn) if name == "questions" else self._turns[name]()
            self._spend(name, cost(turn))
            messages += [user(turn.question), assistant(turn.answer)]
        return Document(register, messages=messages)

    def _spend(self, register: str, tokens: float) -> None:
        self._spent[register] += tokens
        self.total += tokens

"""How the demo ends: somebody new moves into the fresh model's world, and it learns about them before your eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanohydra.cli.lessons import find_base
from nanohydra.hydra.config import LearnConfig
from nanohydra.infer.config import SamplingParams

if TYPE_CHECKING:
    from nanohydra.cli.recalling import Recalling
    from nanohydra.data.tinyworld.world import Person, World
    from nanohydra.infer.engine import Engine
    from nanohydra.store import Store

NAME = "the demo's lesson"
SECONDS = 60.0
TEXT = (
    "{name} lives in {home}. {His} favourite food is {food}. {He} has {a_pet} called {pet_name}. "
    "{His} best friend is {friend}."
)
QUESTIONS = (
    "Could you say which town {name} currently lives in?",
    "Which dish does {name} like the most?",
    "Which kind of animal is {name}'s pet?",
    "What name did {name} give the {pet}?",
    "Who would {name} name as a best friend?",
)
"""In wordings of no list that anything is trained on; one a fact."""


def newcomer(world: World) -> Person:
    """Somebody whom the world's texts never named, with a pet."""
    from nanohydra.data.tinyworld.world import NO_PET

    return next(person for person in world.session(0) if person.pet != NO_PET)


def fill(text: str, person: Person) -> str:
    """The text about this person."""
    names = ("name", "home", "food", "a_pet", "pet", "pet_name", "friend", "He", "His")
    return text.format(**{name: getattr(person, name) for name in names})


def first_lesson(store: Store, user_id: int, base: str, world: World, seconds: float = SECONDS) -> Person:
    """Teaches the newcomer's five facts in the foreground and prints the receipt."""
    from nanohydra.cli.learn import teach, train
    from nanohydra.hydra.reading import take_in

    person, found = newcomer(world), find_base(base)
    for lesson in store.lessons(user_id):
        # An earlier demo's: its base is gone, and its facts would be known already.
        if lesson.name == NAME and lesson.state != "reverted":
            store.revert(lesson.id, user_id)
    text, config = fill(TEXT, person), LearnConfig(seconds=seconds)
    print(f"\nA first lesson, about somebody new (teach your own: nanohydra learn --help):\n{text}")
    lesson = teach(store, user_id, take_in(text=text, name=NAME), found, config, yes=True)
    train(store, user_id, [lesson.id])
    return person


def show_answers(engine: Engine, recalling: Recalling, person: Person) -> None:
    """Asks about each fact, in wordings that the lesson was not trained on."""
    from nanohydra.cli.chat import answer

    for question in (fill(text, person) for text in QUESTIONS):
        print(f"> {question}")
        answer(engine, [{"role": "user", "content": question}], SamplingParams(max_tokens=96), recalling)

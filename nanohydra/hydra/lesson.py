"""Teaching one lesson: a new adapter on the frozen base, measured, judged, and published or rejected.

A pure function of its inputs, seeds and a working folder: killed at any moment and repeated it comes to the same, as long as
the time allows all steps. The store, the router's place in the service and the history are not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from nanohydra.errors import UserError
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.consolidate import consolidate
from nanohydra.hydra.maker import Cancelled, Earlier, Maker, Tell
from nanohydra.hydra.material import Fact, Material
from nanohydra.hydra.receipt import Outcome

__all__ = ["Cancelled", "Earlier", "Outcome", "consolidate", "teach"]


def teach(
    base: str | Path,
    material: Material,
    earlier: Sequence[Earlier],
    config: LearnConfig,
    folder: Path,
    tell: Tell = lambda _: True,
    *,
    lesson: str = "new",
    forgotten: Sequence[Fact] = (),
    aside: Collection[str] = (),
) -> Outcome:
    """Teaches a lesson to a base.

    Args:
        base: a name under the bases folder, or a model folder; it is only read.
        earlier: the lessons before, oldest first; they are asked again.
        folder: to work in; what an earlier try left there is dropped. A published adapter is its `adapter`.
        lesson: the lesson's id. forgotten: facts it once had, which are asked too: they should not be known any more.
        aside: questions never to be trained on, beside those of the exam, which never are.

    Raises UserError for a lesson without facts, Cancelled where `tell` says so.
    """
    if not material.facts:
        raise UserError("The lesson has no facts to train on; what its passages say is found by retrieval.")
    maker = Maker(base, material.facts, config, folder, tell)
    known = {fact.subject for fact in (*material.facts, *forgotten, *(f for each in earlier for f in each.facts))}
    return maker.make("lesson", lesson, material.name, partial(maker.chats, known, aside), earlier, forgotten)

"""What people ask about somebody or something, as vectors: so that a question about what was not taught is known as such.

Between "Where was this one born?" and a taught "this one lives in Oslo" the cosine is high: both are about a person and a
place. That the question is nearer still to the wordings of "birthplace" tells that it asks for something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanohydra.files import atomic_path
from nanohydra.hydra.facts import slots
from nanohydra.hydra.grammar import sentence
from nanohydra.hydra.relations import attribute_of, bind, relations

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
MASK = "this one"
"""What stands for a name in texts that are compared by their embeddings."""
SHARPNESS = 20.0
"""How much a higher cosine makes an attribute more probable."""
WORDINGS = 12
"""Questions of each attribute that are compared."""
FAMILIES = {
    "favourite *": ("colour", "food", "drink", "book", "film", "song", "sport", "animal"),
    "* name": ("dog", "cat", "pet"),
    "kin *": ("brother", "sister", "mother", "father", "son", "daughter", "friend", "best friend", "colleague", "boss"),
    "number of *": ("children", "siblings", "employees", "rooms"),
}
"""What attributes like "favourite *" are compared as."""


class Attributes:
    """Wordings of attributes; immutable."""

    def __init__(self, names: Sequence[str], vectors: Vectors) -> None:
        """Args: names: (N) of the attribute that each of the vectors (N, D) is a wording of."""
        self.names = tuple(dict.fromkeys(names))
        order = {name: i for i, name in enumerate(self.names)}
        rows = np.argsort([order[name] for name in names], kind="stable")
        self._owners = tuple(names[row] for row in rows)
        self._vectors = vectors[rows]
        self._starts = [i for i, name in enumerate(self._owners) if i == 0 or name != self._owners[i - 1]]

    @classmethod
    def usual(cls, embed: Embed, cache: Path | None = None) -> Attributes:
        """Those that people usually ask about. Embeds some hundred short questions, which takes seconds; the vectors are
        kept in the folder `cache` for the next time."""
        owners = [name for name in usual_attributes() for _ in wordings(name)]
        texts = [text for name in usual_attributes() for text in wordings(name)]
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
        kept = cache / f"attributes-{digest}.npy" if cache else None
        if kept is not None and (vectors := _load(kept, len(texts))) is not None:
            return cls(owners, vectors)
        vectors = embed(texts)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(kept) as path, path.open("wb") as file:
                np.save(file, vectors.astype(np.float16))
        return cls(owners, vectors)

    def plus(self, attributes: Iterable[str], embed: Embed) -> Attributes:
        """With further attributes, as facts have them."""
        new = dict.fromkeys(canonical(name) for name in attributes if name)
        missing = [name for name in new if name not in self.names]
        if not missing:
            return self
        more = self._of(missing, embed)
        return Attributes(self._owners + more._owners, np.concatenate([self._vectors, more._vectors]))

    def likeness(self, vector: Vectors) -> dict[str, float]:
        """The cosine of each attribute's nearest wording with an embedded question (D,)."""
        nearest = np.maximum.reduceat(self._vectors @ vector, self._starts)
        return dict(zip(self.names, nearest.tolist()))

    def shares(self, vector: Vectors) -> Vectors:
        """(names) how probably an embedded text is about each attribute; they sum to 1."""
        nearest = np.maximum.reduceat(self._vectors @ vector, self._starts)
        odds = np.exp(SHARPNESS * (nearest - nearest.max()))
        shares: Vectors = odds / odds.sum()
        return shares

    @classmethod
    def _of(cls, attributes: Sequence[str], embed: Embed) -> Attributes:
        texts = {name: wordings(name) for name in attributes}
        owners = [name for name in attributes for _ in texts[name]]
        return cls(owners, embed([text for name in attributes for text in texts[name]]))


def _load(path: Path, rows: int) -> Vectors | None:
    """Vectors that were kept; None where there are none, or others."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors.astype(np.float32) if vectors.ndim == 2 and len(vectors) == rows else None


@cache
def canonical(attribute: str) -> str:
    """The name by which an attribute is compared: "trade" and "occupation" are the same."""
    return attribute_of(bind(attribute), attribute)


@cache
def usual_attributes() -> tuple[str, ...]:
    """All attributes that teaching knows by wordings of their own."""
    names: list[str] = []
    for relation in relations():
        if relation.parametric:
            names += [relation.attribute.replace("{T}", kind) for kind in FAMILIES.get(relation.title, ())]
        else:
            names.append(relation.attribute)
    return tuple(dict.fromkeys(canonical(name) for name in names))


@cache
def wordings(attribute: str) -> tuple[str, ...]:
    """Questions for the attribute, its answer without a value, and its name."""
    bound = bind(attribute)
    filled = slots(bound, MASK, "")
    asked = [sentence(template, filled) for template in bound.relation.questions[:WORDINGS]]
    told = sentence(bound.relation.statements[0], filled).replace("  ", " ").replace(" .", ".")
    return tuple(dict.fromkeys([*asked, told, f"{MASK}'s {canonical(attribute)}"]))

"""Finding the texts that answer a question: words (BM25) and meaning (embeddings), and nothing where nothing fits.

The two rankings are fused by reciprocal rank (Cormack et al. 2009). A fused rank says nothing about how well the best
text fits, so what is found must also pass a threshold on evidence: the cosine of the embeddings, and the share of the
question's words, by their rarity, that stand in the text. Its numbers are set by hand;
bench/retrieval.py is to measure them.

Use:
    index = Index(texts, embed(texts))
    for hit in index.search(question, embed([question])[0], k=3): texts[hit.number]
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanohydra.errors import UserError

Vectors = NDArray[np.float32]
FUSION = 60
"""The constant of reciprocal rank fusion: large enough that two good ranks beat one best rank."""
DEPTH = 20
"""How far down each ranking is looked."""
STOP_WORDS = frozenset(
    """a about am an and any are as at be been but by can could did do does for from had has have he her hers him his how
    i if in into is it its know me might my of on or our please say should so some tell than that the their them then
    there these they this those to us was we were what when where which who whom whose why will with would you
    your""".split()  # noqa: SIM905 - so many literals would read worse
)


@dataclass(frozen=True)
class Evidence:
    """When a text counts as found: logistic(cosine * meaning + coverage * words - bias) >= 1/2."""

    meaning: float = 20.0
    words: float = 4.0
    bias: float = 11.0
    words_alone: float = 0.6
    """Least coverage where there are no vectors."""

    def score(self, cosine: float | None, coverage: float) -> float:
        """In [0, 1]; found from 1/2 on."""
        if cosine is None:
            return coverage / (2 * self.words_alone) if coverage < self.words_alone else 0.5 + coverage / 2
        return 1 / (1 + math.exp(self.bias - self.meaning * cosine - self.words * coverage))


@dataclass(frozen=True)
class Hit:
    """A text that was found."""

    number: int
    """Its place among the texts."""
    score: float
    """The evidence for it, in [0.5, 1]."""
    fused: float
    """Its reciprocal rank score, by which hits are ordered."""
    cosine: float | None
    coverage: float


class Index:
    """Texts to be searched. Immutable: built again when the texts change.

    Args:
        texts: (N) what is searched.
        vectors: (N, D) float32 unit vectors of the texts; None: by words alone.
    """

    def __init__(self, texts: Sequence[str], vectors: Vectors | None = None, evidence: Evidence | None = None) -> None:
        if vectors is not None and len(vectors) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(vectors)} vectors")
        self.texts = tuple(texts)
        self.evidence = evidence or Evidence()
        self._vectors = vectors
        self._rarity: dict[str, float] = {}
        if not self.texts:
            return
        bm25s, self._stem = _library()
        tokens = [self.tokens(text) for text in self.texts]
        documents: dict[str, int] = {}
        for one in tokens:
            for token in set(one):
                documents[token] = documents.get(token, 0) + 1
        self._rarity = {token: self._idf(count) for token, count in documents.items()}
        self._bm25: Any = None
        if documents:
            self._bm25 = bm25s.BM25(method="lucene")
            self._bm25.index(tokens, show_progress=False)
        self._flat: Any = None
        if vectors is not None:
            import faiss

            self._flat = faiss.IndexFlatIP(vectors.shape[1])
            self._flat.add(np.ascontiguousarray(vectors, np.float32))

    def search(
        self,
        query: str,
        vector: Vectors | None = None,
        k: int = 3,
        least: float = 0.5,
        among: Collection[int] | None = None,
    ) -> list[Hit]:
        """Up to `k` texts for which there is evidence, best first; often none.

        Args:
            vector: (D,) the query's unit vector; without it, or without the texts' vectors, words alone decide.
            least: the evidence that is needed; 0: whatever ranks best.
            among: the numbers of the texts to look at; None: all.
        """
        if not self.texts:
            return []
        tokens = self.tokens(query)
        fused: dict[int, float] = {}
        for ranking in (self._by_words(tokens, among), self._by_meaning(vector, among)):
            for rank, number in enumerate(ranking, start=1):
                fused[number] = fused.get(number, 0.0) + 1 / (FUSION + rank)
        hits = []
        for number, score in fused.items():
            cosine = None if vector is None or self._vectors is None else float(self._vectors[number] @ vector)
            coverage = self._coverage(tokens, number)
            evidence = self.evidence.score(cosine, coverage)
            if evidence >= least:
                hits.append(Hit(number, evidence, score, cosine, coverage))
        return sorted(hits, key=lambda hit: (-hit.fused, -hit.score, hit.number))[:k]

    def tokens(self, text: str) -> list[str]:
        """The stems of a text's words without stop words, case and accents."""
        folded = unicodedata.normalize("NFKD", text.casefold())
        plain = "".join(c for c in folded if not unicodedata.combining(c))
        words = [re.sub(r"'s?", "", word) for word in re.findall(r"\w+(?:'\w+)*", plain.replace("’", "'"))]
        stems: list[str] = self._stem([word for word in words if word and word not in STOP_WORDS])
        return stems

    def _by_words(self, tokens: list[str], among: Collection[int] | None) -> list[int]:
        known = [token for token in tokens if token in self._rarity]
        if not known:
            return []
        scores: NDArray[np.float32] = self._bm25.get_scores(known)
        if among is not None:
            inside = np.zeros(len(scores), bool)
            inside[list(among)] = True
            scores = np.where(inside, scores, 0)
        best = np.argpartition(-scores, min(DEPTH, len(scores) - 1))[:DEPTH]
        return [int(n) for n in best[np.argsort(-scores[best], kind="stable")] if scores[n] > 0]

    def _by_meaning(self, vector: Vectors | None, among: Collection[int] | None) -> list[int]:
        if vector is None or self._flat is None or self._vectors is None:
            return []
        if among is not None:
            numbers = np.array(sorted(among), np.int64)
            order = np.argsort(-(self._vectors[numbers] @ vector), kind="stable")[:DEPTH]
            return [int(n) for n in numbers[order]]
        _, numbers = self._flat.search(np.ascontiguousarray(vector[None], np.float32), min(DEPTH, len(self.texts)))
        return [int(n) for n in numbers[0]]

    def _coverage(self, tokens: list[str], number: int) -> float:
        """The share of the query's words, weighted by rarity, that stand in a text: what no text has counts most."""
        there = set(self.tokens(self.texts[number]))
        weights = {token: self._rarity.get(token, self._idf(0)) for token in tokens}
        whole = sum(weights.values())
        return sum(weight for token, weight in weights.items() if token in there) / whole if whole else 0.0

    def _idf(self, documents: int) -> float:
        return math.log(1 + (len(self.texts) - documents + 0.5) / (documents + 0.5))


def _library() -> tuple[Any, Any]:
    """bm25s and a stemmer of lists of words."""
    try:
        import bm25s
        import Stemmer
    except ImportError:
        raise UserError("Retrieval needs an extra: pip install 'nanohydra[teach]'.") from None
    return bm25s, Stemmer.Stemmer("english").stemWords

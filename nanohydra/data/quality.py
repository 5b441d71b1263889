"""Which texts to leave out: duplicates, foreign languages, odd lengths, and texts that hold evaluation questions.

Each filter takes texts and gives back those it keeps, counting as it goes; `Quality` chains those of a config.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nanohydra.data.config import QualityConfig
from nanohydra.data.corpora import rows
from nanohydra.errors import UserError, did_you_mean

_NEEDS = "Install it with: pip install 'nanohydra[data]'"
# Chinese and Japanese put no spaces between words, so each of their characters counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return _WORD.findall(text.lower())


class Filter(ABC):
    """Keeps some texts of a stream, in their order, and counts."""

    def __init__(self) -> None:
        self.kept = 0
        """Texts kept so far."""
        self.dropped = 0
        """Texts left out so far."""

    def __call__(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            if self.keep(text):
                self.kept += 1
                yield text
            else:
                self.dropped += 1

    @abstractmethod
    def keep(self, text: str) -> bool:
        """Whether the text stays."""


class Length(Filter):
    """Keeps texts of `shortest` to `longest` characters (0: any length)."""

    def __init__(self, shortest: int = 0, longest: int = 0) -> None:
        super().__init__()
        if shortest < 0 or longest < 0 or (longest and longest < shortest):
            raise UserError(f"No text has {shortest} to {longest} characters. Set max_chars to at least min_chars.")
        self.shortest, self.longest = shortest, longest

    def keep(self, text: str) -> bool:
        return len(text) >= self.shortest and not (self.longest and len(text) > self.longest)


class Language(Filter):
    """Keeps texts of the given languages, by py3langid (naive Bayes over byte n-grams, 97 languages, offline)."""

    LOOK_AT = 500  # characters: more would cost time and change next to nothing

    def __init__(self, languages: Iterable[str], confidence: float = 0.5) -> None:
        super().__init__()
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
        except ImportError as e:
            raise UserError(f"Telling languages apart needs py3langid. {_NEEDS}") from e
        self.languages = frozenset(languages)
        self.confidence = confidence
        self.found: Counter[str] = Counter()
        """The language of every text so far."""
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        known = {str(label) for label in self._identifier.labels}
        for language in self.languages - known:
            raise UserError(f'Unknown language "{language}": use an ISO 639-1 code.{did_you_mean(language, known)}')

    def keep(self, text: str) -> bool:
        language, probability = self._identifier.classify(text[: self.LOOK_AT])
        self.found[str(language)] += 1
        return language in self.languages and probability >= self.confidence


class ExactDuplicates(Filter):
    """Keeps the first of the texts that are equal up to case, white space and Unicode form (by their 16-byte hashes)."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[bytes] = set()

    def keep(self, text: str) -> bool:
        plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
        digest = hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True


class NearDuplicates(Filter):
    """Keeps the first of the texts whose sets of word 5-grams are about `threshold` similar (Jaccard).

    MinHash with locality-sensitive hashing (Broder 1997; datasketch): the index proposes candidates, of which those
    count whose signatures agree to `threshold`. A few kilobytes of memory for each text that is kept.
    """

    NGRAM = 5
    PERMUTATIONS = 128

    def __init__(self, threshold: float = 0.8) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise UserError(f"near_duplicates is a similarity between 0 and 1, not {threshold}.")
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as e:
            raise UserError(f"Finding near duplicates needs datasketch. {_NEEDS}") from e
        self.threshold = threshold
        self._empty = MinHash(num_perm=self.PERMUTATIONS)
        self._index = MinHashLSH(threshold=threshold, num_perm=self.PERMUTATIONS)
        self._signatures: list[Any] = []

    def keep(self, text: str) -> bool:
        found = words(text) or text.split()
        grams = {" ".join(found[i : i + self.NGRAM]) for i in range(max(1, len(found) - self.NGRAM + 1))}
        signature = self._empty.copy()
        signature.update_batch([gram.encode("utf-8", "replace") for gram in sorted(grams)])
        if any(signature.jaccard(self._signatures[i]) >= self.threshold for i in self._index.query(signature)):
            return False
        self._index.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)
        return True


class Contamination(Filter):
    """Leaves out texts that share `n` words in a row with a text of an evaluation set (13 as in Brown et al. 2020).

    Evaluation texts of fewer words, but at least `SHORTEST`, count when they occur as a whole.
    """

    SHORTEST = 8

    def __init__(self, evaluation: Mapping[str, Iterable[str]], n: int = 13) -> None:
        """`evaluation`: the texts of each evaluation set, by its name."""
        super().__init__()
        if n < self.SHORTEST:
            raise UserError(f"contamination_ngram must be at least {self.SHORTEST}: fewer words in a row often recur.")
        self.found: Counter[str] = Counter()
        """How many texts were left out for each evaluation set."""
        self.examples: list[tuple[str, str]] = []
        """The first hundred finds: the evaluation set, and the words in common."""
        # By the number of words: the hash of each run of so many words, and the set that it comes from.
        self._runs: dict[int, dict[int, str]] = {}
        self._heads: set[int] = set()  # the hashes of the runs' first words, so that most places need one look
        for name, texts in evaluation.items():
            for text in texts:
                found = words(text)
                length = min(n, len(found))
                if length >= self.SHORTEST:
                    known = self._runs.setdefault(length, {})
                    for start in range(len(found) - length + 1):
                        known.setdefault(_run(found, start, length), name)
                        self._heads.add(_run(found, start, self.SHORTEST))

    def keep(self, text: str) -> bool:
        found = words(text)
        shared: dict[str, str] = {}  # the first words in common with each evaluation set
        for start in range(len(found) - self.SHORTEST + 1):
            if _run(found, start, self.SHORTEST) not in self._heads:
                continue
            for length, known in self._runs.items():
                name = known.get(_run(found, start, length)) if start + length <= len(found) else None
                if name is not None:
                    shared.setdefault(name, " ".join(found[start : start + length]))
        self.found.update(shared.keys())
        self.examples.extend(list(shared.items())[: max(0, 100 - len(self.examples))])
        return not shared


class Quality:
    """The filters that a config asks for, one after the other, the cheap ones first."""

    def __init__(self, config: QualityConfig, mirror: Path | None = None) -> None:
        """`mirror` is where evaluation sets are read from (see `corpora`)."""
        self.filters: dict[str, Filter] = {}
        """The filters by their names, in the order in which a text meets them."""
        if config.min_chars or config.max_chars:
            self.filters["length"] = Length(config.min_chars, config.max_chars)
        if config.exact_duplicates:
            self.filters["exact_duplicates"] = ExactDuplicates()
        if config.languages:
            self.filters["language"] = Language(config.languages, config.language_confidence)
        if config.contamination_ngram and config.contamination_against:
            sets = {name: evaluation_texts(name, mirror) for name in config.contamination_against}
            self.filters["contamination"] = Contamination(sets, config.contamination_ngram)
        if config.near_duplicates:
            self.filters["near_duplicates"] = NearDuplicates(config.near_duplicates)

    def __call__(self, texts: Iterable[str]) -> Iterator[str]:
        for filter in self.filters.values():
            texts = filter(texts)
        return iter(texts)

    def report(self) -> dict[str, Any]:
        """What each filter kept and dropped so far, and which evaluation sets were found."""
        result: dict[str, Any] = {
            name: {"kept": filter.kept, "dropped": filter.dropped} for name, filter in self.filters.items()
        }
        contamination = self.filters.get("contamination")
        if isinstance(contamination, Contamination):
            result["contamination"] |= {"found": dict(contamination.found), "examples": contamination.examples}
        return result


def evaluation_texts(source: str, mirror: Path | None = None) -> Iterator[str]:
    """Every string in the rows of "source" or "source:split" (default split: test), whatever its field."""
    name, _, split = source.partition(":")
    for _, row in rows(name, split or "test", mirror=mirror):
        yield from _strings(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _run(found: list[str], start: int, length: int) -> int:
    """A hash of `length` words in a row; it holds for this process only."""
    return hash(" ".join(found[start : start + length]))

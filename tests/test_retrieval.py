"""Searching texts: what is found, and that nothing is where nothing fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("faiss")

from nanohydra.agent.embedding import Embedder
from nanohydra.agent.retrieval import Evidence, Index

TEXTS = (
    "The blue pump is reset with the brass key.",
    "Glass is collected on Thursdays, paper on Mondays.",
    "Mira Solberg was born in Trondheim and studied law.",
    "Der Zug nach Zürich fährt um neun.",
)


def test_words_find_stems_whatever_their_case_and_accents() -> None:
    index = Index(TEXTS)
    assert [hit.number for hit in index.search("How do I RESET the blue pumps?")] == [0]
    assert [hit.number for hit in index.search("when is glass collecting")] == [1]
    assert [hit.number for hit in index.search("zug zurich")] == [3]
    for nothing in ("", "?!", "What is the?", "How tall is the Eiffel Tower?", "blue whales in the Pacific ocean"):
        assert index.search(nothing) == []
    assert Index([]).search("anything") == []
    assert Index(["", "the of"]).search("anything") == []


def test_among_some_texts_the_others_are_not_found() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(TEXTS), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for index, vector in ((Index(TEXTS), None), (Index(TEXTS, vectors), vectors[0])):
        everything = index.search("the blue pump in Trondheim", vector, k=9, least=0.0)
        assert index.search("the blue pump in Trondheim", vector, k=9, least=0.0, among=range(4)) == everything
        some = index.search("the blue pump in Trondheim", vector, k=9, least=0.0, among={1, 2})
        assert {hit.number for hit in some} == {hit.number for hit in everything} & {1, 2}
        assert index.search("the blue pump", vector, among=()) == []


def test_both_rankings_are_fused() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(TEXTS), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = Index(TEXTS, vectors).search("glass", vectors[2], k=4, least=0.0)
    places = [int(np.flatnonzero(np.argsort(-(vectors @ vectors[2])) == hit.number)[0]) + 1 for hit in hits]
    expected = [1 / (60 + place) + (1 / 61 if hit.number == 1 else 0) for hit, place in zip(hits, places)]
    assert [hit.fused for hit in hits] == pytest.approx(expected)
    assert hits[0].number == 1
    assert next(hit for hit in hits if hit.number == 2).cosine == pytest.approx(1, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=30), max_size=6), st.text(max_size=40), st.integers(1, 4))
def test_any_texts_and_any_query(texts: list[str], query: str, k: int) -> None:
    index = Index(texts)
    hits = index.search(query, k=k)
    assert len({hit.number for hit in hits}) == len(hits) <= k
    assert all(0.5 <= hit.score <= 1 and 0 <= hit.coverage <= 1 + 1e-9 for hit in hits)
    assert index.search(query, k=k) == hits


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_more_evidence_is_never_less(cosine: float, coverage: float, more: float) -> None:
    score = Evidence().score
    assert score(cosine, coverage) <= score(min(1.0, cosine + more), min(1.0, coverage + more))
    assert score(None, coverage) <= score(None, min(1.0, coverage + more))


def test_one_vector_for_each_text() -> None:
    with pytest.raises(ValueError, match="4 texts, but 1 vectors"):
        Index(TEXTS, np.zeros((1, 4), np.float32))


@pytest.mark.slow
@pytest.mark.skipif(not Embedder.available(), reason="the extra `teach` is not installed")
def test_the_embedder_finds_other_words() -> None:
    embedder = Embedder()
    vectors = embedder.embed(list(TEXTS))
    assert (vectors.shape, vectors.dtype) == ((4, 384), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert embedder.embed([]).shape == (0, 384)
    alone = embedder.embed([TEXTS[2]])
    assert np.abs(alone[0] - vectors[2]).max() < 1e-5
    query = "In which town did Mira Solberg come into the world?"
    assert Index(TEXTS, vectors).search(query, embedder.embed([query])[0])[0].number == 2

"""A base, measured on a text and on the tinyworld exam."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nanohydra.data.corpora import corpus
from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.exam import exam
from nanohydra.data.tinyworld.world import World
from nanohydra.evals.exam import exam_estimates, take_exam
from nanohydra.evals.intervals import Estimate
from nanohydra.evals.perplexity import score_texts, text_metrics
from nanohydra.infer.config import EngineConfig
from nanohydra.jobs.bases import open_engine
from nanohydra.jobs.config import EvalOptions


def evaluate(options: EvalOptions) -> dict[str, Estimate]:
    """Carries out what the options ask for. Raises UserError for an unknown base or corpus."""
    engine = open_engine(options.base, int8=options.int8, config=EngineConfig(max_slots=32))
    estimates: dict[str, Estimate] = {}
    if options.corpus is not None:
        texts = corpus(options.corpus, options.split, text_field=options.text_field)
        # Four characters a token is about right for English; a little more text than asked for does no harm.
        scored = score_texts(
            engine.model, engine.tokenizer, _first(texts, 4 * options.max_tokens), seq_len=options.seq_len
        )
        estimates |= text_metrics(scored)
    if options.exam:
        world = World(seed=options.seed, people=options.people)
        graded = take_exam(engine, exam(world, ExamConfig(items=options.exam), seed=options.seed + 1))
        estimates |= exam_estimates(graded)
    return estimates


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return

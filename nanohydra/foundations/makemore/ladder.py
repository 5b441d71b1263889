"""All rungs side by side: each model trained on the same names and scored on the same held-out ones."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean

import torch
from torch import nn

from nanohydra.errors import UserError, did_you_mean
from nanohydra.foundations.makemore.bigram import BigramCounts, BigramNet, count_bigrams, fit_bigram_net
from nanohydra.foundations.makemore.data import Split, Vocabulary, examples, split
from nanohydra.foundations.makemore.mlp import MLP, MLPConfig
from nanohydra.foundations.makemore.recurrent import Recurrent, RecurrentConfig
from nanohydra.foundations.makemore.sample import sample
from nanohydra.foundations.makemore.train import FitConfig, evaluate, fit

_MLP = FitConfig(steps=10_000, batch_size=256, lr=0.01)
_RECURRENT = FitConfig(steps=2_000, batch_size=64, lr=0.003)

# name: (shape, how to train); the bigrams have neither
MODELS: dict[str, tuple[MLPConfig | RecurrentConfig | None, FitConfig | None]] = {
    "bigram-counts": (None, None),
    "bigram-net": (None, None),
    "mlp": (MLPConfig(), _MLP),
    "mlp-batchnorm": (MLPConfig(batch_norm=True), _MLP),
    "mlp-bad-init": (MLPConfig(init="normal"), _MLP),
    "mlp-bad-init-batchnorm": (MLPConfig(init="normal", batch_norm=True), _MLP),
    "rnn": (RecurrentConfig("rnn"), _RECURRENT),
    "gru": (RecurrentConfig("gru"), _RECURRENT),
    "lstm": (RecurrentConfig("lstm"), _RECURRENT),
}
SAMPLING: dict[str, tuple[float, int | None]] = {  # name: (temperature, top_k)
    "temperature 0.5": (0.5, None),
    "temperature 1": (1.0, None),
    "temperature 2": (2.0, None),
    "temperature 2, top 5": (2.0, 5),
}


@dataclass(frozen=True)
class Score:
    """One model, one seed. NLLs are means per letter, in nats."""

    model: str
    seed: int
    parameters: int
    first_loss: float
    train: float
    held_out: float
    unseen: float | None
    seconds: float
    samples: dict[str, list[str]]


def build(name: str, vocabulary_size: int) -> nn.Module:
    """A fresh trainable model of the ladder, by its name."""
    shape = MODELS[name][0]
    if isinstance(shape, MLPConfig):
        return MLP(vocabulary_size, shape)
    if isinstance(shape, RecurrentConfig):
        return Recurrent(vocabulary_size, shape)
    return BigramNet(vocabulary_size)


def train_model(
    name: str, names: Sequence[str], vocabulary: Vocabulary, seed: int, steps: int | None
) -> tuple[nn.Module, float]:
    """Trains the model `name` on `names`; returns it and its first loss."""
    if name not in MODELS:
        raise UserError(f'No model "{name}".{did_you_mean(name, MODELS)}')
    if name == "bigram-counts":
        counts = BigramCounts(count_bigrams(names, vocabulary))
        return counts, evaluate(counts, examples(names, vocabulary, 1))
    torch.manual_seed(seed)
    model = build(name, len(vocabulary))
    config = MODELS[name][1]
    data = examples(names, vocabulary, model.context)  # type: ignore[arg-type]
    if config is None:
        assert isinstance(model, BigramNet)
        first = evaluate(model, data)
        fit_bigram_net(model, count_bigrams(names, vocabulary))
        return model, first
    return model, fit(model, data, replace(config, steps=steps or config.steps, seed=seed))[0]


def run(
    names: Sequence[str], model: str = "mlp", seed: int = 0, steps: int | None = None, parts: Split | None = None
) -> Score:
    """Trains one model on nine tenths of `names` and scores it on the rest.

    names: at least two, of any alphabet. steps: instead of the model's own. parts: a split made elsewhere, such as one
    with no held-out names, to score on the very names that were learned.
    """
    vocabulary = Vocabulary.of(names)
    parts = parts or split(names)
    start = time.perf_counter()
    trained, first = train_model(model, parts.train, vocabulary, seed, steps)
    seconds = time.perf_counter() - start

    def score(part: Sequence[str]) -> float:
        return evaluate(trained, examples(part, vocabulary, trained.context))  # type: ignore[arg-type]

    return Score(
        model=model,
        seed=seed,
        parameters=sum(p.numel() for p in trained.parameters()),
        first_loss=first,
        train=score(parts.train),
        held_out=score(parts.held_out),
        unseen=score(parts.unseen) if parts.unseen else None,
        seconds=seconds,
        samples={k: sample(trained, vocabulary, 8, t, top, seed) for k, (t, top) in SAMPLING.items()},
    )


def bigram_on_all(names: Sequence[str]) -> float:
    """The NLL of unsmoothed bigram counts on the names they were counted on: 2.454 on the published list."""
    vocabulary = Vocabulary.of(names)
    counts = BigramCounts(count_bigrams(names, vocabulary), smoothing=0.0)
    return evaluate(counts, examples(names, vocabulary, 1))


def markdown(scores: Sequence[Score], all_names: float) -> str:
    """The scores as a table (means over seeds, with the lowest and highest where there are several), then samples."""

    def spread(values: list[float]) -> str:
        span = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
        return f"{mean(values):.3f}{span}"

    lines = [
        f"Bigram counts on all names: NLL {all_names:.4f}",
        "",
        "| model | parameters | first loss | train NLL | held-out NLL | held-out, not in train | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(s.model for s in scores):
        rows = [s for s in scores if s.model == name]
        unseen = [s.unseen for s in rows if s.unseen is not None]
        cells = [
            name,
            f"{rows[0].parameters:,}",
            spread([s.first_loss for s in rows]),
            spread([s.train for s in rows]),
            spread([s.held_out for s in rows]),
            spread(unseen) if unseen else "-",
            f"{mean(s.seconds for s in rows):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name in dict.fromkeys(s.model for s in scores):
        first = next(s for s in scores if s.model == name)
        lines += ["", f"**{name}**", *(f"- {how}: {', '.join(what)}" for how, what in first.samples.items())]
    return "\n".join(lines) + "\n"


def scores_csv(scores: Sequence[Score]) -> str:
    """Columns variant, seed, nll: the held-out NLL of each run, as `nanohydra lab compare` reads it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["variant", "seed", "nll"])
    writer.writerows([s.model, s.seed, f"{s.held_out:.6f}"] for s in scores)
    return file.getvalue()


def as_json(scores: Sequence[Score], all_names: float) -> dict[str, object]:
    """Everything measured, for `write_json`."""
    return {"bigram_on_all_names": all_names, "scores": [asdict(s) for s in scores]}

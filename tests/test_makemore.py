"""The ladder's language models: counts = learned table, our BatchNorm and cells = torch's, sampling as its formulas say."""

from __future__ import annotations

import json
import lzma
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanohydra.errors import UserError
from nanohydra.foundations.makemore import __main__ as command
from nanohydra.foundations.makemore import experiment
from nanohydra.foundations.makemore.bigram import BigramCounts, BigramNet, count_bigrams, fit_bigram_net
from nanohydra.foundations.makemore.data import Vocabulary, examples, read_names, sequences, split, windows
from nanohydra.foundations.makemore.ladder import MODELS, bigram_on_all, build, run
from nanohydra.foundations.makemore.mlp import MLP, BatchNorm, MLPConfig
from nanohydra.foundations.makemore.recurrent import CELLS, Recurrent, RecurrentConfig
from nanohydra.foundations.makemore.sample import next_letter_probabilities, sample
from nanohydra.foundations.makemore.train import FitConfig, evaluate, fit
from nanohydra.home import mirror_dir

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn"]
some_names = st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=8)


def syllables(count: int, seed: int) -> list[str]:
    """Names with a structure that a bigram cannot know: consonant, vowel, and the same consonant again."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(100, (count, 4), generator=generator).tolist()
    parts = [["bcdfglmnrst"[a % 11], "aeiou"[b % 5], "bcdfglmnrst"[c % 11], "aeiou"[d % 5]] for a, b, c, d in draws]
    return [f"{a}{b}{a}{b}{c}{d}{c}{d}" for a, b, c, d in parts]


# --- data -------------------------------------------------------------------------------------------------------------


def test_windows_of_a_name() -> None:
    vocabulary = Vocabulary.of(["emma"])
    found = windows(["emma"], vocabulary, context=3)
    assert [vocabulary.decode(row) for row in found.inputs.tolist()] == ["...", "..e", ".em", "emm", "mma"]
    assert vocabulary.decode(found.targets.tolist()) == "emma."


@settings(deadline=None)
@given(some_names)
def test_sequences_and_windows_hold_the_same_letters(names: list[str]) -> None:
    vocabulary = Vocabulary.of(names)
    rows, pairs = sequences(names, vocabulary), windows(names, vocabulary, context=1)
    kept = rows.targets >= 0
    assert torch.equal(rows.targets[kept], pairs.targets)
    assert torch.equal(rows.inputs[kept], pairs.inputs[:, 0])
    assert [vocabulary.decode(vocabulary.encode(name)) for name in names] == names


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1), min_size=2, max_size=30), st.floats(0, 1), st.integers(0, 5))
def test_split_keeps_every_line_once(names: list[str], share: float, seed: int) -> None:
    parts = split(names, share, seed)
    assert Counter(parts.train + parts.held_out) == Counter(names)
    assert parts.train
    assert parts.held_out
    assert parts.unseen == [name for name in parts.held_out if name not in parts.train]
    assert parts == split(names, share, seed)


@pytest.mark.parametrize(
    ("name", "content"),
    [("n.txt", b"emma\n\nmia \n"), ("n.jsonl", b'{"name": "emma"}\n{"name": "mia"}\n')],
)
def test_reading_names(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{name}.xz").write_bytes(lzma.compress(content))
    assert read_names(tmp_path / name) == read_names(tmp_path / f"{name}.xz") == ["emma", "mia"]


def test_bad_names_get_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "other.jsonl").write_text('{"text": "emma"}\n')
    (tmp_path / "no.xz").write_text("not compressed")
    for path in (tmp_path / "missing.txt", *tmp_path.iterdir()):
        with pytest.raises(UserError):
            read_names(path)
    for bad in ([], [""], ["a.b"]):
        with pytest.raises(UserError):
            Vocabulary.of(bad)
    with pytest.raises(UserError, match="two"):
        split(["emma"])
    with pytest.raises(UserError, match="Unknown letters"):
        Vocabulary.of(["emma"]).encode("zoe")


# --- bigrams ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(some_names)
def test_counts_are_the_pairs_of_the_text(names: list[str]) -> None:
    vocabulary = Vocabulary.of(names)
    counts = count_bigrams(names, vocabulary)
    expected = Counter(pair for name in names for pair in pairwise(f".{name}."))
    marks = "." + vocabulary.letters
    assert {
        (a, b): int(counts[i, j]) for i, a in enumerate(marks) for j, b in enumerate(marks) if counts[i, j]
    } == expected
    assert torch.equal(counts.sum(0), counts.sum(1))  # each mark is left as often as it is entered


def test_bigram_nll_is_the_formula() -> None:
    pairs = [pair for name in NAMES for pair in pairwise(f".{name}.")]
    both, first = Counter(pairs), Counter(a for a, _ in pairs)
    expected = -sum(math.log(both[pair] / first[pair[0]]) for pair in pairs) / len(pairs)
    assert bigram_on_all(NAMES) == pytest.approx(expected, abs=1e-5)


def test_the_counted_table_is_where_the_nets_gradient_is_zero() -> None:
    vocabulary = Vocabulary.of(NAMES)
    counts = count_bigrams(NAMES, vocabulary)
    net = BigramNet(len(vocabulary))
    data = windows(NAMES, vocabulary, 1)
    with torch.no_grad():
        net.weight.copy_((counts + 1e-9).log())
    nn.functional.cross_entropy(net(data.inputs), data.targets).backward()
    assert net.weight.grad is not None
    assert net.weight.grad.abs().max() < 1e-6


@settings(max_examples=4, deadline=None)
@given(some_names)
def test_learning_finds_what_counting_finds(names: list[str]) -> None:
    vocabulary = Vocabulary.of(names)
    counts = count_bigrams(names, vocabulary)
    learned = fit_bigram_net(BigramNet(len(vocabulary)), counts, steps=300)
    assert learned == pytest.approx(bigram_on_all(names), abs=0.01)


def test_smoothing_makes_no_pair_impossible() -> None:
    vocabulary = Vocabulary.of(NAMES)
    model = BigramCounts(count_bigrams(NAMES, vocabulary))
    table = model(torch.arange(len(vocabulary))[:, None])
    assert torch.isfinite(table).all()
    assert torch.allclose(table.exp().sum(1), torch.ones(len(vocabulary)), atol=1e-5)


# --- MLP and BatchNorm ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 99))
def test_batch_norm_is_torchs(rows: int, features: int, seed: int) -> None:
    torch.manual_seed(seed)
    # In fp64: of two rows that are nearly equal, fp32 leaves a variance of noise.
    ours, theirs = BatchNorm(features).double(), nn.BatchNorm1d(features).double()
    for parameter in (*ours.parameters(), *theirs.parameters()):
        nn.init.uniform_(parameter, 0.5, 1.5)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    for _ in range(3):
        x = 3 * torch.randn(rows, features, dtype=torch.float64) + 1
        inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        outputs = [ours(inputs[0]), theirs(inputs[1])]
        direction = torch.randn(rows, features, dtype=torch.float64)
        for output in outputs:
            (output * direction).sum().backward()
        assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
        assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-5)
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-5)
    ours.eval()
    theirs.eval()
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_batch_norm_refuses_one_row() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        BatchNorm(3)(torch.zeros(1, 3))


@pytest.mark.parametrize("seed", range(3))
def test_kaiming_starts_at_a_uniform_guess_and_normal_does_not(seed: int) -> None:
    torch.manual_seed(seed)
    data = windows(NAMES, Vocabulary.of(NAMES), 3)
    size = len(Vocabulary.of(NAMES))
    shallow = {init: MLP(size, MLPConfig(init=init)) for init in ("kaiming", "normal")}
    assert evaluate(shallow["kaiming"], data) == pytest.approx(math.log(size), abs=0.1)
    assert evaluate(shallow["normal"], data) > 10
    with torch.no_grad():
        spread = [MLP(size, MLPConfig(layers=n)).hidden(torch.randn(500, 30)).std().item() for n in (1, 3, 6)]
    assert all(0.4 < std < 0.9 for std in spread)  # the same at any depth


def test_unknown_names_are_mended() -> None:
    with pytest.raises(UserError, match="relu"):
        MLP(5, MLPConfig(activation="rellu"))
    with pytest.raises(UserError, match="kaiming"):
        MLP(5, MLPConfig(init="kaimin"))
    with pytest.raises(UserError, match="lstm"):
        Recurrent(5, RecurrentConfig(cell="lstn"))
    with pytest.raises(UserError, match="bigram-net"):
        run(NAMES, "bigram-nett")


# --- recurrent cells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "theirs"), [("rnn", nn.RNNCell), ("lstm", nn.LSTMCell), ("gru", nn.GRUCell)])
def test_cells_are_torchs(name: str, theirs: type[nn.Module]) -> None:
    torch.manual_seed(0)
    reference = theirs(5, 7)
    cell = CELLS[name](5, 7)
    cell.load_state_dict(reference.state_dict())
    state = cell.start(3)
    other: Tensor | tuple[Tensor, ...] = state if name == "lstm" else state[0]
    xs = torch.randn(4, 3, 5)
    for x in xs:
        state, other = cell(x, state), reference(x, other)
    expected = other if isinstance(other, tuple) else (other,)
    for ours, wanted in zip(state, expected, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-6)
    state[0].square().sum().backward()
    expected[0].square().sum().backward()
    for ours, wanted in zip(cell.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, wanted.grad, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_models_never_look_ahead(cell: str) -> None:
    torch.manual_seed(0)
    model = Recurrent(9, RecurrentConfig(cell, hidden=8))
    ids = torch.randint(9, (2, 6))
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 9
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


# --- training and sampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bigram-counts", "mlp-batchnorm", "gru"])
def test_evaluation_does_not_depend_on_its_batches(name: str) -> None:
    vocabulary = Vocabulary.of(NAMES)
    model = BigramCounts(count_bigrams(NAMES, vocabulary)) if name == "bigram-counts" else build(name, len(vocabulary))
    data = examples(NAMES, vocabulary, model.context)  # type: ignore[arg-type]
    assert evaluate(model, data, rows=3) == pytest.approx(evaluate(model, data), abs=1e-5)


def test_each_rung_knows_more_than_the_one_before() -> None:
    names = syllables(250, seed=0)
    held_out = {}
    for model, steps in (("bigram-counts", None), ("mlp", 200), ("gru", 150)):
        held_out[model] = run(names, model, steps=steps).held_out
    assert held_out["gru"] < held_out["mlp"] < held_out["bigram-counts"] - 0.3


def test_training_is_a_function_of_the_seed() -> None:
    vocabulary = Vocabulary.of(NAMES)
    data = windows(NAMES, vocabulary, 3)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return fit(MLP(len(vocabulary), MLPConfig()), data, FitConfig(steps=5, seed=seed))

    assert losses(1) == losses(1) != losses(2)


def test_every_model_of_the_ladder_can_be_built() -> None:
    for name in MODELS:
        assert run(NAMES, name, steps=2).train > 0


def test_a_lab_can_train_it(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(syllables(60, seed=1)))
    recipe = {"names": str(tmp_path / "names.txt"), "seed": 3, "mlp": {"hidden": 8}, "fit": {"steps": 100}}
    result = experiment.execute(recipe, tmp_path / "run")
    again = experiment.execute(recipe, tmp_path / "again")
    assert result["metrics"] == again["metrics"]
    assert result["metrics"] != experiment.execute({**recipe, "seed": 4}, tmp_path / "other")["metrics"]
    assert result["tokens"] == 25_600
    curve = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(point["step"], point["tokens"]) for point in curve] == [(50, 12_800), (100, 25_600)]
    assert curve[1]["loss"] < curve[0]["loss"] < result["metrics"]["first_loss"]
    broken = {**recipe, "fit": {"steps": 20, "lr": 1e30}}
    assert experiment.execute(broken, tmp_path / "broken")["status"] == "diverged"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {}}, 'Unknown setting "model"'),
        ({"recurrent": {}}, "one of mlp and recurrent"),
        ({"mlp": {"hiden": 3}}, '"hidden"'),
        ({"names": None}, "NANOHYDRA_MIRROR"),
    ],
)
def test_a_bad_recipe_gets_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], word: str
) -> None:
    monkeypatch.delenv("NANOHYDRA_MIRROR", raising=False)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    with pytest.raises(UserError, match=word):
        experiment.execute({"names": str(tmp_path / "names.txt"), "mlp": {}, **change}, tmp_path)


logits = st.lists(st.floats(-5, 5), min_size=2, max_size=8).map(
    lambda values: torch.tensor([values], dtype=torch.float64)
)


@settings(deadline=None)
@given(logits, st.floats(0.2, 5))
def test_temperature_divides_log_odds(row: Tensor, temperature: float) -> None:
    log_p = next_letter_probabilities(row, temperature).log()
    assert torch.allclose(log_p[0, 0] - log_p[0, 1], (row[0, 0] - row[0, 1]) / temperature, atol=1e-8)


@settings(deadline=None)
@given(logits, st.integers(1, 10))
def test_top_k_keeps_the_likeliest(row: Tensor, k: int) -> None:
    p = next_letter_probabilities(row, top_k=k)[0]
    kept = p > 0
    assert int(kept.sum()) == min(k, row.shape[1])
    assert row[0][kept].min() >= (row[0][~kept].max() if not kept.all() else -math.inf)
    assert float(p.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_samples_are_names(name: str) -> None:
    vocabulary = Vocabulary.of(NAMES)
    torch.manual_seed(0)
    model = build(name, len(vocabulary))
    drawn = sample(model, vocabulary, 20, temperature=2.0, seed=1, max_length=6)
    assert drawn == sample(model, vocabulary, 20, temperature=2.0, seed=1, max_length=6)
    assert drawn != sample(model, vocabulary, 20, temperature=2.0, seed=2, max_length=6)
    assert all(len(word) <= 6 and set(word) <= set(vocabulary.letters) for word in drawn)
    assert len(set(sample(model, vocabulary, 20, top_k=1, max_length=6))) == 1  # the likeliest name, whatever the seed
    for bad in ({"temperature": 0.0}, {"top_k": 0}):
        with pytest.raises(UserError):
            sample(model, vocabulary, 1, **bad)  # type: ignore[arg-type]


def test_samples_follow_the_models_probabilities() -> None:
    names = ["ab"] * 3 + ["b"]
    vocabulary = Vocabulary.of(names)
    drawn = Counter(sample(BigramCounts(count_bigrams(names, vocabulary), 0.0), vocabulary, 4000))
    assert set(drawn) == {"ab", "b"}
    assert drawn["ab"] / 4000 == pytest.approx(0.75, abs=0.03)  # 4 standard errors


def test_the_command_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(syllables(60, seed=1)))
    out = tmp_path / "out"
    arguments = [
        "--names",
        str(path),
        "--models",
        "bigram-counts",
        "rnn",
        "--steps",
        "5",
        "--seeds",
        "2",
        "--out",
        str(out),
    ]
    assert command.main(arguments) == 0
    table = json.loads((out / "table.json").read_text())
    assert [(s["model"], s["seed"]) for s in table["scores"]] == [
        (m, s) for m in ("bigram-counts", "rnn") for s in (0, 1)
    ]
    assert (out / "scores.csv").read_text().splitlines()[0] == "variant,seed,nll"
    assert (out / "table.md").read_text() == capsys.readouterr().out
    assert command.main(["--names", str(tmp_path / "none.txt")]) == 1
    assert "error: There is no file" in capsys.readouterr().err


# --- the published list -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> list[str]:
    mirror = mirror_dir()
    if mirror is None:
        pytest.skip("set NANOHYDRA_MIRROR to the offline dataset mirror")
    return read_names(mirror / "karpathy/names/default/train.jsonl.xz")


@pytest.mark.mirror
def test_bigram_figure_on_all_names(published: list[str]) -> None:
    assert len(published) == 32_033
    assert bigram_on_all(published) == pytest.approx(2.454, abs=5e-4)
    assert fit_bigram_net(BigramNet(27), count_bigrams(published, Vocabulary.of(published))) == pytest.approx(
        2.454, abs=1e-3
    )


@pytest.mark.mirror
def test_mlp_on_held_out_names_in_short(published: list[str]) -> None:
    assert run(published[::4], "mlp", steps=1500).held_out < 2.3  # the bigram has 2.46


@pytest.mark.mirror
@pytest.mark.slow
@pytest.mark.parametrize(("model", "low", "high"), [("mlp", 2.06, 2.14), ("rnn", 1.98, 2.08), ("gru", 1.95, 2.03)])
def test_known_figures_on_held_out_names(published: list[str], model: str, low: float, high: float) -> None:
    assert low < run(published, model).held_out < high

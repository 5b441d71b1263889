"""A lab's YAML file: what it means, and one clear line for what it cannot mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.lab.spec import load_spec, recipe, recipe_id, spec_from_dict, spec_to_dict

RECIPES = Path(__file__).parent.parent / "recipes" / "lab"

GOOD: dict[str, Any] = {
    "name": "norms",
    "question": "Does the norm matter?",
    "base": {"seed": 0, "model": {"norm": "rmsnorm", "hidden_size": 8}, "train": {"lr": 0.01}},
    "variants": {"rms": None, "layer": {"model.norm": "layernorm"}},
    "seeds": 3,
    "metrics": {"val_loss": {"direction": "lower", "effect": 0.01}, "recall": "higher"},
    "held_equal": ["tokens", "parameters"],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GOOD, **changes}.items() if v is not None}, sort_keys=False))
    return path


def test_what_a_spec_means(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path))
    assert (spec.seeds, spec.baseline, spec.held_equal) == ((0, 1, 2), "rms", ("tokens", "parameters"))
    assert [(m.name, m.direction, m.effect) for m in spec.metrics] == [
        ("val_loss", "lower", 0.01),
        ("recall", "higher", None),
    ]
    made = recipe(spec, "layer", {"train.lr": 0.1}, 2)
    assert made == {"seed": 2, "model": {"norm": "layernorm", "hidden_size": 8}, "train": {"lr": 0.1}}
    assert GOOD["base"]["model"]["norm"] == "rmsnorm"  # the base is not touched
    assert spec_from_dict(spec_to_dict(spec)) == spec


def test_patches_by_dots_and_by_nesting_are_the_same(tmp_path: Path) -> None:
    nested = load_spec(write(tmp_path, variants={"a": {}, "b": {"model": {"norm": "layernorm"}}}))
    dotted = load_spec(write(tmp_path, variants={"a": {}, "b": {"model.norm": "layernorm"}}))
    assert recipe(nested, "b", {}, 1) == recipe(dotted, "b", {}, 1)


def test_base_from_a_file_beside_the_lab(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(GOOD["base"]))
    assert load_spec(write(tmp_path, base="base.yaml")).base == GOOD["base"]
    changed = load_spec(write(tmp_path, base="base.yaml", changes={"train.lr": 0.5, "model": {"norm": "none"}}))
    assert changed.base == {"seed": 0, "model": {"norm": "none", "hidden_size": 8}, "train": {"lr": 0.5}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"train": {"lr": 3}}))
    other = load_spec(write(tmp_path, base="base.yaml"), tmp_path / "other.yaml")
    assert (other.name, other.base) == ("norms-other", {"train": {"lr": 3}})


def test_tuning_grids(tmp_path: Path) -> None:
    tuning = {"seeds": [10, 11], "grid": {"train.lr": [0.1, 0.2], "train.x": [1, 2]}}
    spec = load_spec(write(tmp_path, tuning=tuning))
    assert spec.tuning is not None
    assert spec.tuning.metric == "val_loss"
    assert [dict(t) for t in spec.tuning.grids["layer"]] == [
        {"train.lr": lr, "train.x": x} for lr in (0.1, 0.2) for x in (1, 2)
    ]
    assert spec_from_dict(spec_to_dict(spec)) == spec


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), min_size=1), st.sampled_from(["x:f", "y:f"]))
def test_the_id_changes_with_any_setting_and_with_nothing_else(values: dict[str, int], execute: str) -> None:
    same = dict(reversed(values.items()))
    assert recipe_id(values, execute) == recipe_id(same, execute)
    key = next(iter(values))
    assert recipe_id({**values, key: values[key] + 1}, execute) != recipe_id(values, execute)
    assert recipe_id(values, execute + "2") != recipe_id(values, execute)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, 'no setting "seedz". Did you mean "seeds"'),
        ({"variants": {"only": {}}}, "at least two names"),
        ({"variants": {"a": {}, "b/c": {}}}, "names a folder"),
        ({"variants": {"a": {}, "b": {"train.lr.x": 1}}}, "reaches into lr, which is a value"),
        ({"variants": {"a": {}, "b": {"seed": 5}}}, "Leave it out"),
        ({"variants": None}, "variants is missing"),
        ({"base": None}, "base is missing"),
        ({"base": "nowhere.yaml"}, "There is no file"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": ["a"]}, "list of whole numbers"),
        ({"metrics": {"val_loss": "down"}}, '"down" is not one of lower, higher'),
        ({"metrics": {"val_loss": {"direction": "lower", "effect": -1}}}, "above 0"),
        ({"baseline": "rmss"}, '"rmss" is not one of rms, layer. Did you mean "rms"'),
        ({"held_equal": ["token"]}, 'Did you mean "tokens"'),
        ({"tuning": {"seeds": [0], "grid": {"train.lr": [1]}}}, "seed 0 is also a seed of the lab"),
        ({"tuning": {"seeds": [9]}}, "needs either grid"),
        ({"tuning": {"seeds": [9], "grid": {}}}, "is empty"),
        (
            {"tuning": {"seeds": [9], "grids": {"rms": {"train.lr": [1, 2]}, "layer": {"train.lr": [1]}}}},
            "same number of trials for a fair comparison, not rms 2, layer 1",
        ),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_spec(write(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_labs(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        load_spec(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="must hold settings"):
        load_spec(tmp_path / "list.yaml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_of_this_project_can_be_read(path: Path) -> None:
    spec = load_spec(path)
    assert spec.question.endswith("?")
    assert len(spec.seeds) >= 3


def test_importing_the_lab_is_instant() -> None:
    """The command line imports it for its help: no torch, scipy, matplotlib or numpy."""
    code = (
        "import sys, nanohydra.lab, nanohydra.lab.config; "
        "print([m for m in ('torch', 'scipy', 'matplotlib', 'numpy', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

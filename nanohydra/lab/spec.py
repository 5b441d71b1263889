"""Reading a lab's YAML file, strictly: a key that is not known is refused with the nearest one."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError, did_you_mean
from nanohydra.lab.config import BUDGETS, EXECUTE, LabSpec, Metric, Tuning

KEYS = frozenset(f.name for f in dataclasses.fields(LabSpec)) - {"source"} | {"changes"}


def load_spec(path: Path, base: Path | None = None) -> LabSpec:
    """Reads and checks a lab. Raises UserError, one line, for anything that would only fail after hours of training.

    base: another recipe to put in the place of the lab's own; the lab is then called NAME-RECIPE.
    """
    values = read_yaml(path)
    _known(values, KEYS, path)
    for key in ("variants", "seeds", "metrics"):
        if not values.get(key):
            raise UserError(f"{path}: {key} is missing. A lab needs base, variants, seeds and metrics.")
    variants = values["variants"]
    if not isinstance(variants, dict) or len(variants) < 2:
        raise UserError(f"{path}: variants must be at least two names, each with its changes ({{}} for none).")
    variants = {str(name): _mapping(patch or {}, f"{path}: variants.{name}") for name, patch in variants.items()}
    recipe_of_all = read_yaml(base) if base else _base(values.get("base"), path)
    for key, value in _mapping(values.get("changes", {}), f"{path}: changes").items():
        _set(recipe_of_all, str(key).split("."), value, f"{path}: changes: {key}")
    for name in variants:
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
            raise UserError(f'{path}: variant "{name}" names a folder: use letters, digits, -, _ and . only.')
    seeds = _seeds(values["seeds"], f"{path}: seeds")
    metrics = _metrics(values["metrics"], path)
    spec = LabSpec(
        name=str(values.get("name", Path(path).stem)) + (f"-{Path(base).stem}" if base else ""),
        question=str(values.get("question", "")),
        base=recipe_of_all,
        variants=variants,
        seeds=seeds,
        metrics=metrics,
        baseline=str(values.get("baseline", next(iter(variants)))),
        pairs=_choice(values.get("pairs", "baseline"), ("baseline", "all"), f"{path}: pairs"),
        held_equal=tuple(_choice(b, BUDGETS, f"{path}: held_equal") for b in _list(values.get("held_equal", []))),
        tolerance=float(values.get("tolerance", 0.01)),
        tuning=_tuning(values["tuning"], variants, seeds, metrics, path) if values.get("tuning") else None,
        seed_key=str(values.get("seed_key", "seed")),
        execute=str(values.get("execute", EXECUTE)),
        source=str(path),
        base_source=str(base or ""),
    )
    _choice(spec.baseline, tuple(variants), f"{path}: baseline")
    for name, patch in variants.items():  # a patch that cannot be applied fails now, not in its run
        recipe(spec, name, {}, seeds[0])
        if spec.seed_key in patch:
            raise UserError(
                f"{path}: variants.{name} sets {spec.seed_key}, which the lab sets to each seed. Leave it out."
            )
    return spec


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"There is no file {path}. Name a YAML file, such as those in recipes/lab/.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    return _mapping(values, str(path))


def spec_to_dict(spec: LabSpec) -> dict[str, Any]:
    """Plain data for JSON, from which `spec_from_dict` makes the same lab without the files it was read from."""
    return dataclasses.asdict(spec)


def spec_from_dict(values: Mapping[str, Any]) -> LabSpec:
    """The lab that `spec_to_dict` wrote."""
    tuning = values["tuning"]
    if tuning:
        grids = {name: tuple(grid) for name, grid in tuning["grids"].items()}
        tuning = Tuning(tuning["metric"], tuple(tuning["seeds"]), grids)
    return LabSpec(
        **{
            **values,
            "seeds": tuple(values["seeds"]),
            "held_equal": tuple(values["held_equal"]),
            "metrics": tuple(Metric(**metric) for metric in values["metrics"]),
            "tuning": tuning,
        }
    )


def recipe(spec: LabSpec, variant: str, trial: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The recipe of one run: base, then the variant's changes, then those that tuning chose, then the seed."""
    patches = (spec.variants[variant], trial, {spec.seed_key: seed})
    merged = copy.deepcopy(dict(spec.base))
    for patch in patches:
        for key, value in patch.items():
            _set(merged, key.split("."), value, f"{spec.source}: {variant}: {key}")
    return merged


def recipe_id(recipe: Mapping[str, Any], execute: str) -> str:
    """Eight hex digits that change with any setting of the recipe and with the function that trains it."""
    text = json.dumps([execute, recipe], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _set(target: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Sets a dotted key; a mapping is merged into the one that is there, anything else replaces."""
    for name in path[:-1]:
        below = target.setdefault(name, {})
        if not isinstance(below, dict):
            raise UserError(f"{where} reaches into {name}, which is a value and not a group of settings.")
        target = below
    last = path[-1]
    if isinstance(value, Mapping) and isinstance(target.get(last), dict):
        for key, inner in value.items():
            _set(target[last], str(key).split("."), inner, where)
    else:
        target[last] = copy.deepcopy(value)


def _base(value: Any, path: Path) -> dict[str, Any]:
    """The shared recipe: written in place, or the path of a recipe, from the lab's own folder."""
    if isinstance(value, str):
        return read_yaml(Path(path).parent / value)
    if value is None:
        raise UserError(f"{path}: base is missing. Give the path of a recipe, or the recipe itself.")
    return _mapping(value, f"{path}: base")


def _metrics(value: Any, path: Path) -> tuple[Metric, ...]:
    metrics = []
    for name, given in _mapping(value, f"{path}: metrics").items():
        given = {"direction": given} if isinstance(given, str) else _mapping(given, f"{path}: metrics.{name}")
        _known(given, {"direction", "effect"}, f"{path}: metrics.{name}")
        direction = _choice(given.get("direction"), ("lower", "higher"), f"{path}: metrics.{name}")
        effect = given.get("effect")
        if effect is not None and not (isinstance(effect, int | float) and effect > 0):
            raise UserError(
                f"{path}: metrics.{name}.effect must be a number above 0: the smallest difference that matters."
            )
        metrics.append(Metric(str(name), direction, effect))
    return tuple(metrics)


def _tuning(
    value: Any, variants: Collection[str], seeds: Collection[int], metrics: Sequence[Metric], path: Path
) -> Tuning:
    """`tuning: {metric, seeds, grid}`; `grid` serves all variants, `grids` gives each its own, of the same size."""
    where = f"{path}: tuning"
    value = _mapping(value, where)
    _known(value, {"metric", "seeds", "grid", "grids"}, where)
    metric = _choice(value.get("metric", metrics[0].name), tuple(m.name for m in metrics), f"{where}.metric")
    own = _seeds(value.get("seeds"), f"{where}.seeds")
    both = sorted(set(own) & set(seeds))
    if both:
        raise UserError(
            f"{where}: seed {both[0]} is also a seed of the lab. Tune on other seeds, or luck is counted twice."
        )
    if ("grid" in value) == ("grids" in value):
        raise UserError(f"{where} needs either grid (the same for all variants) or grids (one for each variant).")
    by_variant = value.get("grids") or dict.fromkeys(variants, value.get("grid"))
    for name in by_variant:
        _choice(name, tuple(variants), f"{where}.grids")
    trials = {name: _grid(by_variant.get(name), f"{where}: grid of {name}") for name in variants}
    sizes = {name: len(grid) for name, grid in trials.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"{where}: every variant needs the same number of trials for a fair comparison, not {told}.")
    return Tuning(metric, own, trials)


def _grid(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """All combinations of the values listed for each key."""
    value = _mapping(value, where)
    lists = [_list(choices) for choices in value.values()]
    if not lists or not all(lists):
        raise UserError(f"{where} is empty: list the values to try for each setting, such as train.lr: [0.001, 0.003].")
    return tuple(dict(zip(value, combination)) for combination in itertools.product(*lists))


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    """A list of whole numbers, or how many: 5 means 0 to 4."""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise UserError(f"{where} must be a list of whole numbers, or how many there are.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where} names a seed twice: a run repeated is not more evidence.")
    return tuple(seeds)


def _choice(value: Any, known: Sequence[str], where: str) -> Any:
    if value not in known:
        raise UserError(f'{where}: "{value}" is not one of {", ".join(known)}.{did_you_mean(str(value), known)}')
    return value


def _known(values: Mapping[str, Any], known: Collection[str], where: Any) -> None:
    for key in values:
        if key not in known:
            raise UserError(f'{where}: there is no setting "{key}".{did_you_mean(str(key), known)}')


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must hold settings (name: value), not {type(value).__name__}.")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

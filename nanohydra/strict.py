"""Nested data, as from a YAML file, to dataclasses: strictly, with one clear line for what does not fit. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, TypeVar, get_args, get_type_hints

from nanohydra.errors import UserError, did_you_mean

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any], *, where: str = "", what: str = "The recipe", see: str = "") -> T:
    """The dataclass `kind` from nested data. `where`: the dotted place of `values`; `what` and `see`: what it is called and
    where its settings are explained. Raises UserError for an unknown key (with the nearest known one), a missing or a wrong
    value."""
    from jsonargparse import ArgumentParser

    check_keys(kind, values, where)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    missing = [f.name for f in fields if f.default is f.default_factory is MISSING and f.name not in values]
    if missing:
        raise UserError(f"{what} lacks {missing[0]}{f': see {see}' if see else ''}.")
    p = ArgumentParser(exit_on_error=False)
    p.add_class_arguments(kind, "recipe")
    try:
        built: T = p.instantiate(p.parse_object({"recipe": dict(values)})).recipe
    except UserError:
        raise
    except Exception as e:  # jsonargparse raises several kinds, each a sentence about one value
        raise UserError(f"{what} is not right: {' '.join(str(e).split())}") from e
    return built


def check_keys(kind: type[Any], values: Mapping[str, Any], where: str = "") -> None:
    """Raises UserError for a key that the dataclass `kind`, or one within it, does not have."""
    kinds = get_type_hints(kind)
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in kinds:
            raise UserError(f'There is no setting "{name}".{did_you_mean(str(key), kinds)}')
        inner = _dataclass_in(kinds[key])
        for i, part in enumerate(value if isinstance(value, list | tuple) else [value]):
            if inner and isinstance(part, Mapping):
                check_keys(inner, part, f"{name}[{i}]" if isinstance(value, list | tuple) else name)


def _dataclass_in(kind: Any) -> type[Any] | None:
    """The dataclass that a field's type is, may be (`X | None`) or holds (`tuple[X, ...]`)."""
    return next((k for k in (kind, *get_args(kind)) if dataclasses.is_dataclass(k) and isinstance(k, type)), None)

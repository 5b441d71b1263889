"""What every verb shares: a parser whose errors suggest the nearest option and whose help comes from docstrings."""

from __future__ import annotations

import difflib
import re
import sys
import time
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from nanohydra.errors import UserError, did_you_mean
from nanohydra.jobs.config import AnyRecipe

# The ways in which jsonargparse says that an option, a key, or a key of a group is not known.
_UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.-]+)|[Kk]ey \"?'?([\w.]+)'?\"? is not|"
    r"[Gg]roup '([\w.]+)' does not accept option '([\w.]+)'"
)
BUDGETS = ("train.steps", "train.tokens", "train.seconds")


class Parser(ArgumentParser):
    """jsonargparse's parser with one-line errors: what is wrong, then the nearest option's name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        value = re.match(r'Parser key "([\w.]+)":.*Given value: (.*)', text)
        if value:
            kinds = " or ".join(dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", text))).replace(
                "NoneType", "null"
            )
            text = f"{value.group(1)} is {value.group(2)}: it must be {kinds or 'something else'}."
        text = re.sub(r"Parser key .recipe.: ", "", text)
        unknown = _UNKNOWN.search(text)
        if unknown:
            name = unknown.group(1) or unknown.group(2) or f"{unknown.group(3)}.{unknown.group(4)}"
            text = f'There is no setting "{name}".'
            near = difflib.get_close_matches(name, self.option_names(), n=1, cutoff=0.5)
            text += f' Did you mean "{near[0]}"?' if near else " See --help."
        sys.stderr.write(f"{self.prog}: {text}\n")
        raise SystemExit(2)

    def option_names(self) -> list[str]:
        """Every option's long name without its dashes."""
        return [option.lstrip("-") for action in self._actions for option in action.option_strings]


def parser(verb: str, description: str, usage: str | None = None) -> Parser:
    """A parser for `nanohydra verb` whose options take their help from the docstrings below dataclass fields."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return Parser(prog=f"nanohydra {verb}", description=description, usage=usage)


def parse(p: Parser, argv: Sequence[str]) -> Namespace:
    """Parses `argv` and turns dataclass options into their dataclasses."""
    values: Namespace = p.instantiate(p.parse_args(list(argv)))
    return values


def parse_recipe(
    verb: str,
    description: str,
    argv: Sequence[str],
    kind: type[AnyRecipe],
    start: Path | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
) -> tuple[AnyRecipe, Path, dict[str, Any]]:
    """`[RECIPE.yaml] [--dotted.setting value ...] [--out DIR | --resume DIR]` as a recipe, its run folder and other options.

    A budget on the command line (train.steps, train.tokens, train.seconds) takes the place of the recipe's. With
    --resume, the recipe is the run's own. `start` is a recipe that the given one, if any, changes. `options`: those of the
    verb that are no part of the recipe, by name: default and help.
    """
    p = parser(verb, description, f"nanohydra {verb} [RECIPE.yaml] [--setting value ...] [--out DIR | --resume DIR]")
    p.add_argument(
        "--recipe", action="config", help="a YAML file with the settings below (may stand first, without --recipe)"
    )
    p.add_argument(
        "--out", type=str, default=SUPPRESS, help="the run's folder (default: a new one under the runs folder)"
    )
    p.add_argument("--resume", type=str, default=SUPPRESS, help="go on with the run in this folder")
    for name, (default, what) in (options or {}).items():
        p.add_argument(f"--{name}", type=type(default), default=SUPPRESS, help=f"{what} (default: {default:g})")
    p.add_class_arguments(kind, as_group=False)
    args: list[str] = list(argv)
    given = [name for name in BUDGETS if any(re.match(rf"--{re.escape(name)}(=|$)", arg) for arg in args)]
    if given:
        args += [word for name in BUDGETS if name not in given for word in (f"--{name}", "null")]
    if args and not args[0].startswith("-"):
        args.insert(0, "--recipe")
    resumed = _value_of("--resume", args)
    if resumed is not None:
        args = ["--recipe", str(_run_config(Path(resumed))), *args]
    elif start is not None:
        args = ["--recipe", str(start), *args]
    if not args:
        p.error("Name a recipe, such as recipes/shakespeare_char.yaml, or give the settings (see --help).")
    values = parse(p, args)
    out, resume = values.pop("out", None), values.pop("resume", None)
    values.pop("recipe", None)
    others = {name: values.pop(name, default) for name, (default, _) in (options or {}).items()}
    recipe = kind(**vars(values))
    return recipe, Path(resume or out or _new_run(recipe.name)).expanduser(), others


def _value_of(option: str, args: Sequence[str]) -> str | None:
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(option + "="):
            return arg.split("=", 1)[1]
    return None


def _run_config(folder: Path) -> Path:
    config = folder.expanduser() / "config.yaml"
    if not config.is_file():
        raise UserError(f"{folder} holds no run (no config.yaml). See: nanohydra runs list")
    return config


def _new_run(name: str) -> Path:
    from nanohydra.home import runs_dir

    return runs_dir() / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def choose(verb: str, argv: Sequence[str], actions: Mapping[str, tuple[Callable[[list[str]], None], str]]) -> None:
    """Calls the action that the first word of `argv` names; actions are (function, one line of help)."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, actions))
        lines = [f"usage: nanohydra {verb} ACTION [options]", ""]
        lines += [f"  {name:<{width}}  {what}" for name, (_, what) in actions.items()]
        print("\n".join([*lines, "", f"More: nanohydra {verb} ACTION --help"]))
        if argv:
            return
        raise SystemExit(2)
    if argv[0] not in actions:
        raise UserError(f'There is no "{verb} {argv[0]}".{did_you_mean(argv[0], actions)}')
    actions[argv[0]][0](list(argv[1:]))

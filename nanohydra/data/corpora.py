"""Corpora by name: from an offline mirror, the hub, or local files, as an iterator of texts.

corpus("tiny_shakespeare", "train")             a named corpus
corpus("arxiv/abstracts", "validation")         a dataset id, with its part where it has several
corpus("notes/*.txt"), corpus("my/folder")      local files, in the order of their names
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanohydra.data.hub import MissingSplit, hub_files
from nanohydra.data.readers import Row, data_format, read_rows
from nanohydra.errors import UserError, did_you_mean
from nanohydra.home import mirror_dir

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Named:
    """Where a named corpus is kept, and how its rows become texts."""

    dataset: str
    """The id on the hub, which is also its folder in a mirror."""
    text_field: str
    """The field with the text, or a template such as "{title}: {text}"."""
    part: str | None = None
    """The part (config) of the dataset, where it has several."""
    hub_part: str | None = None
    """The part's name on the hub, where that differs."""
    on_hub: bool = True
    """Whether the hub has the set in this form."""
    joined: str | None = None
    """Rows are lines of one running text, to be joined by this."""
    holdout: float = 0.0
    """One text without splits of its own: this last share of it is "validation", the rest "train"."""


NAMED = {
    "tiny_shakespeare": Named("karpathy/tiny_shakespeare", "text", joined="", holdout=0.1),
    "names": Named("karpathy/names", "name", on_hub=False),
    "wikitext-2": Named("Salesforce/wikitext", "text", "wikitext-2", "wikitext-2-v1", joined=""),
    "ptb": Named("ptb_text_only", "sentence", on_hub=False, joined="\n"),
    "classic-books": Named("classic-books", "text", "fiction", on_hub=False),
    "python-source": Named("python-source", "text", "core", on_hub=False),
    "arxiv": Named("arxiv", "{title}\n\n{abstract}", "abstracts", on_hub=False),
    "python-docs": Named("python-docs", "text", on_hub=False),
    "wikipedia-vital-100": Named("wikipedia-vital-100", "{title}\n\n{text}", on_hub=False),
    "foldoc": Named("foldoc", "{term}\n\n{definition}", on_hub=False),
    "dolly": Named("databricks/databricks-dolly-15k", "{instruction}\n{context}\n{response}"),
    "gsm8k": Named("openai/gsm8k", "{question}\n{answer}", "main"),
    "tinystories": Named("roneneldan/TinyStories", "text"),
    "fineweb-edu-10b": Named("HuggingFaceFW/fineweb-edu", "text", "sample-10BT"),
}


def corpus(
    source: str | Path, split: str = "train", *, text_field: str | None = None, mirror: Path | None = None
) -> Iterator[str]:
    """The texts of a split of a named corpus, a dataset id, or local files (path, folder or glob).

    `mirror` (default: NANOHYDRA_MIRROR) is read instead of the hub. `text_field` is needed where the rows have no field
    "text" and several others; a template such as "{title}: {text}" joins fields. A corpus that is one running text
    comes as a single document. Raises UserError for an unknown name or split and, with file and line, for a bad row.
    """
    named = _named(str(source))
    if named is not None and named.holdout:
        return iter([_held_out(named, split, mirror)])
    numbered = rows(source, split, mirror=mirror)
    if named is None or text_field is not None:
        return _texts(numbered, text_field)
    texts = _texts(numbered, named.text_field)
    return texts if named.joined is None else iter([named.joined.join(texts)])


def rows(source: str | Path, split: str = "train", *, mirror: Path | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a split, each with where it stands ("file, line n"). Takes the same sources as `corpus`."""
    paths = files(source, split, mirror=mirror)
    return ((f"{path}, line {number}", row) for path in paths for number, row in read_rows(path))


def files(source: str | Path, split: str = "train", *, mirror: Path | None = None) -> Iterable[Path]:
    """The files of a split; those on the hub are downloaded as they are asked for."""
    name = str(source)
    mirror = mirror if mirror is not None else mirror_dir()
    named = _named(name)
    if named is None and (isinstance(source, Path) or _looks_local(name)):
        return _local_files(name, split)
    if mirror is not None:
        return _mirror_files(mirror, f"{named.dataset}/{named.part or 'default'}" if named else name, split)
    if named is not None:
        if not named.on_hub:
            raise UserError(f'"{name}" is not on the hub. Set NANOHYDRA_MIRROR (or --mirror) to a folder that has it.')
        return hub_files(named.dataset, named.hub_part or named.part, split)
    if name.count("/") not in (1, 2):
        raise UserError(f'No corpus, file or folder is called "{name}".{did_you_mean(name, NAMED)}')
    owner, dataset, *part = name.split("/")
    return hub_files(f"{owner}/{dataset}", part[0] if part else None, split)


def _named(name: str) -> Named | None:
    """The entry of a corpus by its short name or by the id of its dataset."""
    ids = {f"{named.dataset}/{named.part}" if named.part else named.dataset: named for named in NAMED.values()}
    return NAMED.get(name) or ids.get(name)


def _held_out(named: Named, split: str, mirror: Path | None) -> str:
    """A part of one long text: "train", "validation" or "all"."""
    known = ("train", "validation", "all")
    if split not in known:
        raise UserError(
            f'{named.dataset} is one text, cut into train and validation. No "{split}".{did_you_mean(split, known)}'
        )
    text = ""
    for stored in SPLITS:  # the hub has cut it in three, a mirror may hold it whole
        try:
            text += "".join(_texts(rows(named.dataset, stored, mirror=mirror), named.text_field))
        except MissingSplit:
            continue
    cut = int(len(text) * (1 - named.holdout))
    return {"train": text[:cut], "validation": text[cut:], "all": text}[split]


def _mirror_files(mirror: Path, name: str, split: str) -> list[Path]:
    """The files of a split in a mirror laid out as <dataset id>/<part or "default">/<split>.jsonl.xz."""
    folder = mirror / name
    if not mirror.is_dir():
        raise UserError(f"The mirror {mirror} is not a folder. Correct NANOHYDRA_MIRROR (or --mirror), or unset it.")
    if not folder.is_dir():
        parts_held = {str(path.parent.relative_to(mirror)) for path in mirror.rglob("*.jsonl.xz")}
        near = difflib.get_close_matches(name, parts_held, n=1)
        hint = f'Did you mean "{near[0]}"?' if near else f"It holds {len(parts_held)} others."
        raise UserError(f'The mirror {mirror} has no dataset "{name}". {hint}')
    if not _data_files(folder):
        parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if "default" in parts or len(parts) == 1:
            folder /= "default" if "default" in parts else parts[0]
        else:
            raise UserError(f'The dataset "{name}" has several parts. Write "{name}/<part>": {", ".join(parts)}.')
    return _split_files(_data_files(folder), folder, split)


def _looks_local(name: str) -> bool:
    return bool(
        glob.escape(name) != name or name.startswith((".", "/", "~")) or Path(name).exists() or data_format(name)
    )


def _local_files(name: str, split: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = _data_files(path, deep=True)
    elif path.exists():
        found = [path]
    else:
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        found = sorted(match for match in map(Path, matches) if match.is_file())
    if not found:
        raise UserError(f"{path} holds no data files (txt, jsonl, csv, parquet; gz, xz, zst). Check the path.")
    # Files may be named after splits, as in train.txt; those that are not are all "train".
    if split == "train" and not any(_stem(file) in SPLITS for file in found):
        return found
    return _split_files(found, path, split)


def _split_files(found: list[Path], source: Path, split: str) -> list[Path]:
    chosen = [file for file in found if _stem(file) == split or re.fullmatch(rf"{re.escape(split)}-\d+.*", file.name)]
    if not chosen:
        raise MissingSplit(f'{source} has no split "{split}".{did_you_mean(split, {_stem(file) for file in found})}')
    return chosen


def _data_files(folder: Path, deep: bool = False) -> list[Path]:
    return sorted(p for p in (folder.rglob("*") if deep else folder.iterdir()) if p.is_file() and data_format(p))


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def _texts(numbered: Iterable[tuple[str, Row]], text_field: str | None) -> Iterator[str]:
    for where, row in numbered:
        yield row_text(row, text_field, where)


def row_text(row: Row, text_field: str | None, where: str) -> str:
    """The text of a row: of its field `text_field`, of a template such as "{title}: {text}", or of its one text field.

    `where` stands in the error's message ("file, line n").
    """
    if text_field is None:
        strings = [name for name, value in row.items() if isinstance(value, str)]
        if "text" not in row and len(strings) != 1:
            raise UserError(
                f"{where}: which field is the text? Set text_field to one of {', '.join(row)} or a template."
            )
        text_field = "text" if "text" in row else strings[0]
    if "{" in text_field:
        # A part that is null is left out, as optional inputs of instructions are.
        return re.sub(
            r"\{(\w+)\}",
            lambda match: "" if row.get(match[1], where) is None else _value(row, match[1], where),
            text_field,
        ).strip("\n")
    return _value(row, text_field, where)


def _value(row: Row, name: str, where: str) -> str:
    if name not in row:
        raise UserError(f'{where}: no field "{name}".{did_you_mean(name, row)}')
    value = row[name]
    if isinstance(value, dict | list) or value is None:
        raise UserError(
            f'{where}: the field "{name}" holds {type(value).__name__}, not text. Mend the row or choose another.'
        )
    return str(value)

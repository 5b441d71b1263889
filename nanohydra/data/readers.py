"""Rows from data files: txt, md, jsonl, json, csv and parquet, each plain or packed with gz, xz or zst."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from nanohydra.errors import UserError

Row = dict[str, Any]
PACKED = (".gz", ".xz", ".zst")


def data_format(name: str | Path) -> str | None:
    """The format of a file by its name without the packing's ending ("jsonl" for a.jsonl.xz), or None where unknown."""
    path = Path(name)
    ending = Path(path.stem).suffix if path.suffix.lower() in PACKED else path.suffix
    ending = ending.lower().lstrip(".")
    return ending if ending in _READERS else None


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a data file, each with the number of its line (of the row, in json and parquet), counted from 1.

    A text file is one row, {"text": ...}. Raises UserError, with file and line, for anything that cannot be read.
    """
    path = Path(path)
    reader = _READERS.get(data_format(path) or "")
    if reader is None:
        raise UserError(f"{path} has no known format. Use {', '.join(_READERS)}, plain or packed with gz, xz or zst.")
    if not path.is_file():
        raise UserError(f"{path} is not a file. Check the path.")
    try:
        with _open(path) as stream:
            yield from reader(path, stream)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as e:
        raise UserError(f"{path} cannot be read to its end ({e}). Copy or download it again.") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason} at byte {e.start}). Convert it, or name another.") from e


def _open(path: Path) -> IO[bytes]:
    """The unpacked bytes of a file, read as a stream."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if ending == ".xz":
        return lzma.open(path)
    if ending == ".zst":
        # Arrow's reader notices a file that was cut short; the zstandard package's ends quietly there.
        return io.BufferedReader(_pyarrow(path).CompressedInputStream(path.open("rb"), "zstd"))
    return path.open("rb")


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise UserError(f"Reading {path.name} needs pyarrow. Install it with: pip install 'nanohydra[data]'") from e
    return pyarrow


def _text(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    yield 1, {"text": stream.read().decode("utf-8")}


def _jsonl(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(stream, 1):  # bytes end their lines at \n alone, as JSON Lines wants
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not valid JSON ({e}). Mend or delete the line.") from e
        yield number, _as_row(row, path, number)


def _json(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.loads(stream.read())
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: not valid JSON ({e}). Mend it; one object a line belongs into a .jsonl file.") from e
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield number, _as_row(row, path, number)


def _as_row(row: Any, path: Path, number: int) -> Row:
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, dict):
        return row
    raise UserError(f"{path}, line {number}: an object or a string is needed, not {type(row).__name__}. Mend the line.")


def _csv(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KiB is shorter than many documents
    reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: the header has {len(reader.fieldnames or ())} columns, this row "
                    f"has not. Mend the row, or quote the field with a comma in it."
                )
            yield reader.line_num, dict(row)
    except csv.Error as e:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({e}). Mend the row.") from e


def _parquet(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, Row]]:
    arrow = _pyarrow(path)
    # Parquet is read from its end, so a packed one is unpacked in memory first.
    source = io.BytesIO(stream.read()) if path.suffix.lower() in PACKED else path
    number = 0
    try:
        for batch in arrow.parquet.ParquetFile(source).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except arrow.ArrowException as e:
        raise UserError(f"{path}, after row {number}: not valid parquet ({e}). Copy or download it again.") from e


_READERS: dict[str, Callable[[Path, IO[bytes]], Iterator[tuple[int, Row]]]] = {
    "txt": _text,
    "md": _text,
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}

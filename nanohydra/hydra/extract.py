"""Files to text: txt, md, pdf, html, csv and jsonl, with one clear line for each that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError

MAX_BYTES = 20_000_000
MAX_TEXT = 2_000_000  # characters: some 20,000 passages
MAX_ROWS = 20_000
FORMATS = ("txt", "md", "pdf", "html", "csv", "jsonl")
_SAME = {
    "markdown": "md",
    "text": "txt",
    "htm": "html",
    "xhtml": "html",
    "tsv": "csv",
    "ndjson": "jsonl",
    "json": "jsonl",
}


@dataclass(frozen=True)
class Page:
    """A stretch of text and its place in the file: "page 3", or ""."""

    text: str
    place: str


@dataclass(frozen=True)
class Row:
    """A row of a table or of JSON lines."""

    cells: dict[str, str]
    place: str


def pages(file: Path | str | tuple[str, bytes]) -> Iterator[Page | Row]:
    """What a file holds. `file`: its path, or its name and bytes. Raises UserError for one that cannot be read."""
    name, data = file if isinstance(file, tuple) else _read(Path(file))
    name = re.split(r"[/\\]", name)[-1] or "the file"
    if len(data) > MAX_BYTES:
        size, most = len(data) / 1e6, MAX_BYTES // 1_000_000
        raise UserError(f"{name} is {size:.0f} MB; a lesson takes files of up to {most} MB. Split it.")
    if not data.strip():
        raise UserError(f"{name} is empty. Give a file with text in it.")
    ending = Path(name).suffix.lower().lstrip(".")
    kind = _SAME.get(ending, ending)
    if data.startswith(b"%PDF-"):
        kind = "pdf"
    if kind not in FORMATS:
        raise UserError(f"{name} has no format that can be taught. Use {', '.join(FORMATS)}.")
    total = 0
    for found in _OPEN[kind](name, data):
        total += len(found.text) if isinstance(found, Page) else sum(map(len, found.cells.values()))
        if total > MAX_TEXT:
            raise UserError(f"{name} holds more than {MAX_TEXT:,} characters, too many for one lesson. Split it.")
        yield found
    if not total:
        hint = " It may hold pictures of pages: save it with recognised text." if kind == "pdf" else ""
        raise UserError(f"{name} holds no text.{hint}")


def _read(path: Path) -> tuple[str, bytes]:
    try:
        if path.stat().st_size > MAX_BYTES:
            size, most = path.stat().st_size / 1e6, MAX_BYTES // 1_000_000
            raise UserError(f"{path.name} is {size:.0f} MB; a lesson takes files of up to {most} MB. Split it.")
        return path.name, path.read_bytes()
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read ({getattr(e, 'strerror', None) or e}). Check the path.") from e


def _decoded(name: str, data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        raise UserError(
            f"{name} is not UTF-8 text (byte {e.start}). Save it as UTF-8, or check what file it is."
        ) from e
    if "\x00" in text:
        raise UserError(f"{name} is not text: it holds zero bytes. Use {', '.join(FORMATS)}.")
    return text


def _text(name: str, data: bytes) -> Iterator[Page | Row]:
    text = _decoded(name, data)
    if text.strip():
        yield Page(text, "")


def _pdf(name: str, data: bytes) -> Iterator[Page | Row]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError as e:
        raise UserError("Reading PDF needs pypdf. Install it with: pip install 'nanohydra[teach]'") from e
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what is wrong is told in one line, below
    locked = f"{name} is locked with a password. Save it without one."
    try:
        pdf = PdfReader(io.BytesIO(data))
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise UserError(locked)
        texts = [page.extract_text() or "" for page in pdf.pages]
    except UserError:
        raise
    except DependencyError as e:
        raise UserError(locked) from e
    except Exception as e:  # a broken PDF can end in any kind of error within pypdf
        raise UserError(
            f"{name} is not a PDF that can be read ({type(e).__name__}). Save it anew, or give its text."
        ) from e
    for number, text in enumerate(texts, 1):
        # Lines end where the page does; a paragraph's are joined, so that sentences are whole.
        text = re.sub(r"(?<=\w)-\n(?=[a-zß-ÿ])", "", text.replace("\x00", ""))
        text = re.sub(r"(?<![.:!?])\n(?=[^\W\d_]|\d)", " ", text)
        if text.strip():
            yield Page(_storable(text), f"page {number}")


def _html(name: str, data: bytes) -> Iterator[Page | Row]:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as e:
        raise UserError("Reading HTML needs selectolax. Install it with: pip install 'nanohydra[teach]'") from e
    try:
        tree = LexborHTMLParser(_decoded(name, data))
    except (ValueError, RuntimeError, UnicodeError) as e:
        raise UserError(
            f"{name} is not HTML that can be read ({type(e).__name__}). Save it anew, or give its text."
        ) from e
    for aside in tree.css("script, style, noscript, template, nav, footer, form, svg, iframe, head"):
        aside.decompose()
    body = tree.css_first("main, article") or tree.body
    if body is None:
        return
    for level in range(1, 7):
        for heading in body.css(f"h{level}"):
            heading.insert_before("\n\n" + "#" * level + " ")
            heading.insert_after("\n\n")
    for cell in body.css("th, td, dt"):
        cell.insert_after(": " if cell.tag in {"th", "dt"} else " ")
    for block in body.css("p, div, li, tr, dd, br, section, blockquote, pre, table, ul, ol"):
        block.insert_before("\n- " if block.tag == "li" else "\n" if block.tag in {"br", "tr", "dd"} else "\n\n")
        block.insert_after("\n" if block.tag in {"br", "tr", "dd", "li"} else "\n\n")
    # White space in HTML says nothing; the breaks put in above do.
    text = body.text(separator="", strip=False)
    text = re.sub(r"[ \t\xa0]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if text:
        yield Page(_storable(text), "")


def _csv(name: str, data: bytes) -> Iterator[Page | Row]:
    text = _decoded(name, data)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:10_000], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    rows = csv.reader(io.StringIO(text, newline=""), dialect)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if len(header) < 2:
            raise UserError(f"{name} needs at least two columns: question and answer, or a subject and its attributes.")
        for row in rows:
            if rows.line_num > MAX_ROWS:
                raise UserError(f"{name} has more than {MAX_ROWS:,} lines, too many for one lesson. Split it.")
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header):
                raise UserError(
                    f"{name}, line {rows.line_num}: more cells than the header has. Quote cells with commas."
                )
            yield Row(dict(zip(header, row)), f"line {rows.line_num}")
    except csv.Error as e:
        raise UserError(f"{name}, line {rows.line_num}: not valid CSV ({e}). Mend the row.") from e


def _jsonl(name: str, data: bytes) -> Iterator[Page | Row]:
    text = _decoded(name, data)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        values = list(enumerate(whole, 1))
    elif isinstance(whole, dict):
        values = [(1, whole)]
    else:
        values = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    values.append((number, json.loads(line)))
                except (ValueError, RecursionError) as e:
                    raise UserError(
                        f"{name}, line {number}: not valid JSON ({type(e).__name__}). Mend the line."
                    ) from e
    if len(values) > MAX_ROWS:
        raise UserError(f"{name} has more than {MAX_ROWS:,} lines, too many for one lesson. Split it.")
    for number, value in values:
        for cells in _cells(value, name, number):
            yield Row(cells, f"line {number}")


def _cells(value: Any, name: str, number: int) -> Iterator[dict[str, str]]:
    if isinstance(value, str):
        yield {"text": _storable(value)}
        return
    if not isinstance(value, dict):
        raise UserError(f"{name}, line {number}: an object or a string is needed, not {type(value).__name__}. Mend it.")
    turns = value.get("messages") or value.get("conversations")
    if isinstance(turns, list):
        said = [t for t in turns if isinstance(t, dict) and isinstance(t.get("content"), str)]
        for one, other in pairwise(said):
            if one.get("role") == "user" and other.get("role") == "assistant":
                yield {"question": _storable(one["content"]), "answer": _storable(other["content"])}
        return
    told = {
        str(k): v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
        for k, v in value.items()
        if v is not None
    }
    yield {_storable(k): _storable(v) for k, v in told.items()}


def _storable(text: str) -> str:
    """The text without what no database keeps: half surrogate pairs and zero bytes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


_OPEN: dict[str, Callable[[str, bytes], Iterator[Page | Row]]] = {
    "txt": _text,
    "md": _text,
    "pdf": _pdf,
    "html": _html,
    "csv": _csv,
    "jsonl": _jsonl,
}

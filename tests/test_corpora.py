"""Corpora: one call for named sets, mirror, hub and local files; bad rows are told by file and line."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from nanohydra.data.corpora import NAMED, corpus, files, row_text, rows
from nanohydra.data.hub import MissingSplit
from nanohydra.data.readers import data_format, read_rows
from nanohydra.errors import UserError

ROWS = [
    {"title": "Ada", "text": 'A baker, "born" in 1987.\nShe sings.'},
    {"title": "Tom", "text": "我们 👍 line\u2028separator \x85 kept\n"},
    {"title": "Eve", "text": "last"},
]
TEXTS = [row["text"] for row in ROWS]
MIRROR = os.environ.get("NANOHYDRA_MIRROR")  # before the fixture below takes it away


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, ["title", "text"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}


def pack(path: Path, packing: str) -> Path:
    """Packs a file beside itself and removes the plain one."""
    if not packing:
        return path
    data, packed = path.read_bytes(), path.with_name(f"{path.name}.{packing}")
    if packing == "zst":
        with pyarrow.CompressedOutputStream(packed.open("wb"), "zstd") as out:
            out.write(data)
    else:
        packed.write_bytes((gzip if packing == "gz" else lzma).compress(data))
    path.unlink()
    return packed


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("NANOHYDRA_MIRROR", raising=False)


@pytest.mark.parametrize("packing", ["", "gz", "xz", "zst"])
@pytest.mark.parametrize("form", list(WRITERS))
def test_every_format_and_packing(tmp_path: Path, form: str, packing: str) -> None:
    plain = tmp_path / f"data.{form}"
    WRITERS[form](plain)
    file = pack(plain, packing)
    assert data_format(file) == form
    assert list(corpus(file)) == list(corpus(str(file))) == list(corpus(tmp_path)) == TEXTS
    assert list(corpus(file, text_field="{title}: {text}")) == [f"{r['title']}: {r['text']}".strip("\n") for r in ROWS]


@pytest.mark.parametrize("packing", ["", "gz", "xz", "zst"])
def test_a_text_file_is_one_document(tmp_path: Path, packing: str) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\n\n我".encode())
    assert list(corpus(pack(tmp_path / "a.txt", packing))) == ["one\r\ntwo\n\n我"]


@pytest.mark.parametrize("packing", ["gz", "xz", "zst"])
def test_a_packed_file_that_was_cut_is_refused(tmp_path: Path, packing: str) -> None:
    plain = tmp_path / "a.jsonl"
    plain.write_text("".join(json.dumps({"text": os.urandom(50).hex()}) + "\n" for _ in range(3000)))
    packed = pack(plain, packing)
    packed.write_bytes(packed.read_bytes()[:100_000])
    with pytest.raises(UserError, match=rf"a\.jsonl\.{packing}"):
        list(corpus(packed))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', r"a\.jsonl, line 3: an object or a string is needed, not list"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r'a\.jsonl, line 2: no field "text"'),
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', r'a\.jsonl, line 2: the field "text" holds NoneType'),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.json", b'{"text": "a"} {"text": "b"}', r"a\.json: not valid JSON"),
        ("a.csv", b"title,text\na,b\nc\n", r"a\.csv, line 3: the header has 2 columns"),
        ("a.csv", b'title,text\na,"b\n', r"a\.csv, line \d: not valid CSV"),
        ("a.csv", b"title,text\na,\xff\n", r"a\.csv is not UTF-8"),
        ("a.txt", b"\xff\xfe", r"a\.txt is not UTF-8"),
        ("a.parquet", b"PAR1 nonsense", r"a\.parquet"),
        ("a.txt.gz", b"nonsense", r"a\.txt\.gz cannot be read"),
    ],
)
def test_bad_rows_are_told_by_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(corpus(tmp_path / name, text_field="text"))
    assert "\n" not in str(error.value)


def test_long_fields_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 1_000_000 + "\n")
    assert list(corpus(tmp_path)) == ["x" * 1_000_000]


def test_which_field_is_the_text() -> None:
    assert row_text({"n": 3, "sentence": "hi"}, None, "f") == "hi"
    assert row_text({"text": "hi", "title": "t"}, None, "f") == "hi"
    assert row_text({"a": "hi", "n": 3, "c": None}, "{a}|{n}|{c}", "f") == "hi|3|"
    with pytest.raises(UserError, match=r"f: which field is the text.*question, answer"):
        row_text({"question": "q", "answer": "a"}, None, "f")
    with pytest.raises(UserError, match=r'no field "answr". Did you mean "answer"'):
        row_text({"question": "q", "answer": "a"}, "{answr}", "f")


def test_folders_globs_and_splits(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(corpus(tmp_path)) == ["train"]
    assert list(corpus(tmp_path, "validation")) == ["validation"]
    with pytest.raises(MissingSplit, match=r'no split "test".*train, validation'):
        corpus(tmp_path, "test")
    (tmp_path / "deep").mkdir()
    for i in (2, 1):
        (tmp_path / "deep" / f"part{i}.txt").write_text(f"part {i}")
    assert list(corpus(tmp_path / "deep")) == list(corpus(f"{tmp_path}/**/part*.txt")) == ["part 1", "part 2"]
    with pytest.raises(MissingSplit):  # nothing may serve as training and validation text alike
        corpus(tmp_path / "deep" / "part1.txt", "validation")
    (tmp_path / "odd[1].txt").write_text("odd")
    assert list(corpus(tmp_path / "odd[1].txt")) == ["odd"]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    root = tmp_path / "mirror"
    contents = {
        "karpathy/tiny_shakespeare/default/train": [{"text": "0123456789" * 3}],
        "karpathy/names/default/train": [{"name": "ada"}, {"name": "tom"}],
        "Salesforce/wikitext/wikitext-2/test": [{"text": " = A = \n"}, {"text": ""}, {"text": " a b \n"}],
        "arxiv/abstracts/train": [{"id": "1", "title": "T", "abstract": "We show."}],
        "some/set/one/train": [{"text": "1"}],
        "some/set/two/train": [{"text": "2"}],
    }
    for name, values in contents.items():
        path = root / f"{name}.jsonl.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress("".join(json.dumps(value) + "\n" for value in values).encode()))
    return root


def test_a_mirror(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(corpus("names", mirror=mirror)) == ["ada", "tom"]
    monkeypatch.setenv("NANOHYDRA_MIRROR", str(mirror))
    assert list(corpus("names")) == list(corpus("karpathy/names")) == ["ada", "tom"]
    assert list(corpus("wikitext-2", "test")) == [" = A = \n a b \n"], "running text is one document"
    assert list(corpus("arxiv")) == list(corpus("arxiv/abstracts")) == ["T\n\nWe show."]
    assert list(corpus("arxiv", text_field="abstract")) == ["We show."]
    assert list(corpus("some/set/two")) == ["2"]
    assert [row for _, row in rows("karpathy/names")] == [{"name": "ada"}, {"name": "tom"}]
    for name, split, message in [
        ("some/set", "train", "several parts.*one, two"),
        ("some/sett/one", "train", 'Did you mean "some/set/one"'),
        ("quite/unknown", "train", "has no dataset"),
        ("names", "validation", 'no split "validation"'),
        ("tinystories", "train", "has no dataset"),
    ]:
        with pytest.raises(UserError, match=message):
            list(corpus(name, split))
    with pytest.raises(UserError, match="is not a folder"):
        corpus("names", mirror=mirror / "nowhere")


def test_one_text_is_cut_into_train_and_validation(mirror: Path) -> None:
    whole = "0123456789" * 3
    parts = [next(corpus("tiny_shakespeare", split, mirror=mirror)) for split in ("train", "validation", "all")]
    assert parts == [whole[:27], whole[27:], whole]
    with pytest.raises(UserError, match="cut into train and validation"):
        corpus("tiny_shakespeare", "test", mirror=mirror)


class FakeHub:
    """The hub's two calls that we use, over a dictionary of files."""

    def __init__(self, branches: dict[str | None, list[str]], folder: Path) -> None:
        self.branches = branches
        self.folder = folder
        self.calls: list[str] = []

    def dataset_info(self, dataset: str, revision: str | None = None, timeout: float | None = None) -> Any:
        self.calls.append(f"list {revision}")
        if revision not in self.branches:
            raise RevisionNotFoundError("no such revision", response=response(404))
        names = self.branches[revision]
        return SimpleNamespace(sha=f"sha of {revision}", siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(self, dataset: str, name: str, *, repo_type: str, revision: str, cache_dir: Path) -> str:
        self.calls.append(f"{name} @ {revision}")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [name]}), path)
        return str(path)


def response(status: int) -> Any:
    # Which HTTP library this comes from depends on the version of huggingface_hub; only these are read.
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub({}, tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake


def test_the_hub_downloads_lazily_and_remembers_what_it_found(hub: FakeHub) -> None:
    names = ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet", "README.md"]
    hub.branches = {"refs/convert/parquet": names}
    texts = corpus("owner/stories")
    assert next(texts) == "default/train/0000.parquet"
    assert hub.calls == ["list refs/convert/parquet", "default/train/0000.parquet @ sha of refs/convert/parquet"]
    assert next(texts) == "default/train/0001.parquet"
    hub.calls.clear()
    hub.branches = {}  # the network is gone
    assert len(list(corpus("owner/stories"))) == 2
    assert not [call for call in hub.calls if call.startswith("list")]


def test_the_hub_by_file_names_where_nothing_was_converted(hub: FakeHub) -> None:
    hub.branches = {
        None: ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet"]
    }
    assert len(list(files("owner/one"))) == 2
    assert [path.name for path in files("owner/one", "test")] == ["test.parquet"]
    hub.branches = {None: ["all-of-it.parquet"], "refs/convert/parquet": ["default/partial-train/0000.parquet"]}
    assert [path.name for path in files("owner/two")] == ["all-of-it.parquet"]
    with pytest.raises(MissingSplit, match="all-of-it"):
        list(files("owner/two", "validation"))


def test_parts_on_the_hub(hub: FakeHub) -> None:
    hub.branches = {"refs/convert/parquet": ["wikitext-2-v1/test/0000.parquet", "wikitext-103-v1/test/0000.parquet"]}
    assert list(corpus("wikitext-2", "test")) == ["wikitext-2-v1/test/0000.parquet"]
    with pytest.raises(UserError, match=r'several parts. Write "Salesforce/wikitext/<part>": wikitext-103-v1'):
        list(corpus("Salesforce/wikitext", "test"))
    with pytest.raises(UserError, match=r'no part "wikitext-2-v2". Did you mean "wikitext-2-v1"'):
        list(corpus("Salesforce/wikitext/wikitext-2-v2", "test"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Name or service not known"), "hub cannot be reached.*NANOHYDRA_MIRROR.*--mirror"),
        (RepositoryNotFoundError("404", response=response(404)), 'hub has no dataset "karpathy/tiny_shakespeare"'),
        (HfHubHTTPError("503 busy", response=response(503)), "503 busy.*Try again later"),
    ],
)
def test_hub_failures_are_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "dataset_info", fail)
    with pytest.raises(UserError, match=message) as raised:
        list(corpus("tiny_shakespeare"))
    assert "\n" not in str(raised.value)


def test_unknown_names() -> None:
    for name, message in [
        ("tiny_shakespear", 'Did you mean "tiny_shakespeare"'),
        ("names", "not on the hub. Set NANOHYDRA_MIRROR"),
        ("./nowhere.txt", "holds no data files"),
        ("nowhere.jsonl.gz", "holds no data files"),
    ]:
        with pytest.raises(UserError, match=message):
            corpus(name)
    with pytest.raises(UserError, match="no known format"):
        list(read_rows(Path("a.docx")))


@pytest.mark.mirror
def test_named_corpora_in_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    if not MIRROR:
        pytest.skip("set NANOHYDRA_MIRROR to the dataset mirror")
    monkeypatch.setenv("NANOHYDRA_MIRROR", MIRROR)
    for name, named in NAMED.items():
        if (Path(MIRROR) / named.dataset).is_dir():
            split = "validation" if name in ("wikitext-2", "ptb") else "train"
            assert len(next(corpus(name, split))) > 2
    assert len(next(corpus("tiny_shakespeare"))) == 1_003_854

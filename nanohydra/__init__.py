"""nanohydra: a small language model that you own end to end. Train it, chat with it, teach it."""

import os

__version__ = "0.1.0"

# The one thing done at import: GNU OpenMP reads this when torch loads, never later. With the default spin count two
# OpenMP threads on a busy machine wait for each other in busy loops and run 15-30 times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

"""nanohydra: a small language model that you own end to end. Train it, chat with it, teach it."""

import os

__version__ = "0.1.0"

# The one thing done at import: GNU OpenMP reads this when torch loads, never later. By default a thread that waits for
# another spins for milliseconds, and on a busy machine two threads run 15-30 times slower. Not spinning at all (0) puts it
# to sleep at each of the thousands of barriers a step; 5,000 turns (some 10 microseconds) are 1.3 times as fast as that on
# a quiet machine, and 1.4 times on a busy one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

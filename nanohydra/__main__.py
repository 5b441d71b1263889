"""`python -m nanohydra` is the `nanohydra` command."""

import sys

from nanohydra.cli import main

sys.exit(main())

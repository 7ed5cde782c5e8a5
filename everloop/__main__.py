"""`python -m everloop` is the command `everloop`."""

import sys

from everloop.cli import main

sys.exit(main())

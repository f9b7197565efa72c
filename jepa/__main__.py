"""`python -m jepa` is the command `jepa`."""

import sys

from jepa.cli import main

# The guard matters: a spawned data worker imports this module again, and must not start a second run.
if __name__ == "__main__":
    sys.exit(main())

"""``python -m minisnn``: the same as the command ``minisnn``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

r"""The command `namm`, run as `python -m namm`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())

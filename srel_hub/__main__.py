"""The program `srel-hub`, also `python -m srel_hub`."""

import sys

from srel_hub.commands.program import main


if __name__ == "__main__":
    sys.exit(main())

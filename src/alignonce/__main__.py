"""`python -m alignonce`, the same as the installed command."""

import sys

from alignonce.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

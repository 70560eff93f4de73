"""`python -m fedpeptao` is the command `fedpeptao`."""

import sys

from fedpeptao.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m tinytroupe` is `tinytroupe`."""

import sys

from tinytroupe.cli import main

sys.exit(main())

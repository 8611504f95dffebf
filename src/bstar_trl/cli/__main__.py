"""`python -m bstar_trl.cli` runs `bstar-trl`."""

import sys

from . import main

sys.exit(main())

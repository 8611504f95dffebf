"""`python -m bstar_trl.cli` is `bstar-trl`."""

import sys

from . import main

sys.exit(main())

"""`python -m xvlm` is `xvlm`; so `torchrun -m xvlm train ...`."""

from __future__ import annotations

import sys

from xvlm.cli import main

sys.exit(main())

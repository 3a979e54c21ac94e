"""Entry point of `python -m recon_engine.compat`."""

from __future__ import annotations

import sys

from ._runner import main

if __name__ == "__main__":
    main(sys.argv[1:])

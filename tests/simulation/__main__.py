"""Run seeds by hand: python -m tests.simulation --seeds 1000."""

from __future__ import annotations

import sys

from tests.simulation.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

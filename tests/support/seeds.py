"""Randomness that can be had again: one seed per run, printed in the header of the run, and a generator per test made from it."""

import os
import random

SEED = os.environ.get("JOBWIRE_SEED") or str(random.SystemRandom().randrange(1 << 32))


def seeded(test: str) -> random.Random:
    """The generator of one test. It is the same for the same seed and test, whatever other tests run."""
    return random.Random(f"{SEED}/{test}")

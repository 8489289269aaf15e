"""Cases that fail in every way, to test the harness with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tests.fuzz.harness import Case, Fuzzer, judged


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """The fourth case kills its process, the sixth hangs, the seventh breaks a rule and the eighth says no."""
    for seed in seeds:
        if seed == 3:
            os.abort()
        while seed == 5:
            pass
        yield judged(lambda seed: [][seed] if seed == 6 else "no" if seed == 7 else "", seed)


FUZZER = Fuzzer("crashing", run, lambda _seed, _folder: "", seconds=1, gigabytes=4)

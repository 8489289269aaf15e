"""``python -m tests.fuzz KIND --count N --seed S``: many cases of a kind; failed ones are saved as files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.harness import FAILED, Case, fuzzer_of, run_fuzzer

KINDS = ("blocks", "networks", "graphs", "files")


def main() -> int:
    """Run, print a summary, and say how to see each failure again; 1 if there was any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder for failed cases")
    options = parser.parse_args()
    fuzzer, started = fuzzer_of(options.kind), time.monotonic()

    def report(case: Case) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{case.seed - options.seed + 1} of {options.count}")
        if case.verdict == FAILED:
            options.out.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(f"seed {case.seed}: {case.text}\n  {fuzzer.save(case.seed, options.out)}\n")
            sys.stdout.flush()

    summary = run_fuzzer(fuzzer, range(options.seed, options.seed + options.count), report)
    sys.stdout.write(f"{options.kind}, seeds from {options.seed}: {summary}; {time.monotonic() - started:.0f} s\n")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs cases by their seeds in processes of their own, so that a crash or a hang is seen and has a seed.

A worker writes a line when it starts a case and one when that is done. It limits its own memory, and a watchdog ends it
when a case takes too long. When a worker ends early, the case it was at has failed, and another goes on behind it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from blockfuse.errors import BlockfuseError, InternalError
from blockfuse.kernel_cache import VARIABLE

ROOT = Path(__file__).parents[2]

GOOD, REFUSED, FAILED = "good", "refused", "failed"


@dataclass(frozen=True)
class Case:
    """What became of one case.

    Attributes:
        seed: Of the case.
        verdict: ``good``, ``refused`` in one line, or ``failed``.
        text: The refusal, or what failed.
        seconds: It took.
        ended: Whether it took the process with it.
    """

    seed: int
    verdict: str
    text: str = ""
    seconds: float = 0.0
    ended: bool = False


@dataclass(frozen=True)
class Fuzzer:
    """A kind of cases, the ``FUZZER`` of the module of its name in this folder.

    Attributes:
        name: Of the module.
        run: Runs several cases by their seeds, and yields what became of each. A case that breaks a rule raises.
        save: Writes the files that reproduce a failed case into a folder, and says how to use them.
        seconds: What one case may take.
        gigabytes: Of address space that a worker may take.
        batch: Cases that are given to ``run`` together.
    """

    name: str
    run: Callable[[Sequence[int]], Iterator[Case]]
    save: Callable[[int, Path], str]
    seconds: float
    gigabytes: int
    batch: int = 1


@dataclass
class Summary:
    """All cases of a run."""

    cases: list[Case] = field(default_factory=list)

    @property
    def failures(self) -> list[Case]:
        """Those that failed."""
        return [case for case in self.cases if case.verdict == FAILED]

    def __str__(self) -> str:
        counts = Counter(case.verdict for case in self.cases)
        reasons = Counter(case.text for case in self.cases if case.verdict == REFUSED)
        slowest = max((case.seconds for case in self.cases), default=0.0)
        head = f"{len(self.cases)} cases: " + ", ".join(f"{counts[kind]} {kind}" for kind in (GOOD, REFUSED, FAILED))
        lines = [f"{head}; the slowest took {slowest:.1f} s"]
        lines += [f"  {count:6} {reason}" for reason, count in reasons.most_common(40)]
        lines += [f"  seed {case.seed}: {case.text}" for case in self.failures]
        return "\n".join(lines)


def fuzzer_of(name: str) -> Fuzzer:
    """The fuzzer of a module."""
    fuzzer: Fuzzer = import_module(f"tests.fuzz.{name}").FUZZER
    return fuzzer


def reduced(path: Path, words: Sequence[str]) -> Path:
    """The path of a smaller model that fails alike; the given one if ``blockfuse reduce`` sees no failure."""
    smaller = path.with_name(f"{path.stem}_reduced.onnx")
    command = [sys.executable, "-m", "blockfuse", "reduce", str(path), "-o", str(smaller), "--time-limit", "60", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=600)
    return smaller if done.returncode == 0 else path


def judged(run: Callable[[int], str], seed: int) -> Case:
    """Run a case that answers a reason of refusal or "", and raises when a rule is broken."""
    started = time.perf_counter()
    try:
        reason = run(seed)
    except Exception as error:  # noqa: BLE001 - whatever it is, the case has failed
        place = "; ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:])
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({place})"
        return Case(seed, FAILED, text, time.perf_counter() - started)
    return Case(seed, REFUSED if reason else GOOD, reason, time.perf_counter() - started)


def checked_refusal(error: BlockfuseError) -> str:
    """The class of a refusal and the words of its message that do not depend on the case; raises if it is no good."""
    if isinstance(error, InternalError):
        raise error
    message = str(error)
    if "\n" in message or "Traceback" in message or not message.strip():
        raise AssertionError(f"a refusal that is not one line: {message!r}")
    return f"{type(error).__name__}: {message}"


def run_fuzzer(fuzzer: Fuzzer, seeds: range, progress: Callable[[Case], None] = lambda _: None) -> Summary:
    """Run cases, in one worker after the other.

    Args:
        fuzzer: The kind of cases.
        seeds: Of the cases.
        progress: Called after each.
    """
    summary = Summary()
    alone_until = first = seeds.start
    while first < seeds.stop:
        batch, stop = (fuzzer.batch, seeds.stop) if first >= alone_until else (1, min(alone_until, seeds.stop))
        for case in _worker(fuzzer.name, first, stop, batch):
            if case.verdict == FAILED and case.ended and batch > 1:
                alone_until = case.seed + batch
                break
            summary.cases.append(case)
            progress(case)
            first = case.seed + 1
    return summary


def _worker(name: str, first: int, stop: int, batch: int) -> Iterator[Case]:
    """The cases that one worker got done, and the one, or the first of several run together, that it died of."""
    command = [sys.executable, "-m", "tests.fuzz.harness", name, *map(str, (first, stop, batch))]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as worker,
    ):
        running = first
        assert worker.stdout is not None
        for line in worker.stdout:
            document = json.loads(line)
            if isinstance(document, int):
                running = document
                continue
            yield Case(**document)
        if worker.wait() != 0:
            errors.seek(0)
            words = " ".join(errors.read().decode(errors="replace").split())
            yield Case(running, FAILED, f"the process ended with {worker.returncode}: {words[-600:]}", ended=True)


def main(name: str, first: int, stop: int, batch: int) -> None:
    """The worker."""
    os.environ[VARIABLE] = ""  # a cache could hide what fails
    fuzzer = fuzzer_of(name)
    limit = fuzzer.gigabytes << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for start in range(first, stop, batch):
        seeds = range(start, min(stop, start + batch))
        answers.write(f"{json.dumps(start)}\n")
        answers.flush()
        faulthandler.dump_traceback_later(fuzzer.seconds * len(seeds), exit=True)
        for case in fuzzer.run(seeds):
            answers.write(f"{json.dumps(case.__dict__)}\n")
            answers.flush()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

"""Compile or verify models in another process, which may crash or hang: the one that reduces them goes on.

The other process reads one JSON line with the options, then the paths of models; it answers each with a line.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any, Self

from blockfuse.errors import BlockfuseError, InternalError, TargetError, UsageError
from blockfuse.tools.reduce import Failure

FIRST, SHORTEST = 300.0, 10.0
"""Seconds that the first trial may take, and that any may."""


class Trials:
    """The other process, started when it is needed.

    Args:
        check: What is done with a model, ``compile`` or ``verify``.
        options: ``target``, ``dtype``, ``fuse``, ``threads``, ``batch``, and ``patterns``, the path of a file or None.
        folder: For models that are tried.

    The first trial may take :data:`FIRST` seconds, later ones ten times as long as that one did, and not less than
    :data:`SHORTEST`.
    """

    def __init__(self, check: str, options: dict[str, Any], folder: Path) -> None:
        self.settings = json.dumps({"check": check, **options})
        self.path = folder / "trial.onnx"
        self.seconds = FIRST
        self.is_first = True
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, model: Any) -> Failure | None:
        """How a model fails, or None.

        Raises:
            UsageError: The options are wrong, whatever the model.
            TargetError: The target is not available.
        """
        self.path.write_bytes(model.SerializeToString())
        started = time.monotonic()
        process = self._started()
        answer = self._answer(process)
        if self.is_first:
            took = time.monotonic() - started
            self.seconds, self.is_first = min(max(SHORTEST, 10 * took), FIRST), False
        if answer is not None:
            for wrong in (UsageError, TargetError):
                if answer.get("kind") == wrong.__name__:
                    raise wrong(answer["text"])
            return Failure(**answer) if answer else None
        code = self._stop()
        if code is None:
            return Failure("hang", f"no end after {self.seconds:.0f} s")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Failure("crash", f"the process ended with {name}", place=name)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            command = [sys.executable, "-m", "blockfuse.cli.trial"]
            self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL)  # noqa: S603
            _say(self.process, self.settings)
        return self.process

    def _answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """What the process says; None if it ends or stays silent."""
        assert process.stdout is not None  # noqa: S101
        try:
            _say(process, str(self.path))
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([process.stdout], [], [], self.seconds)
        line = process.stdout.readline() if ready else b""
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def _stop(self) -> int | None:
        """The exit code of the process; None if it had to be killed."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        try:
            code: int | None = process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        process.communicate()
        return code


def _say(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None  # noqa: S101
    process.stdin.write(f"{text}\n".encode())
    process.stdin.flush()


# ---- in the other process --------------------------------------------------------------------------------------------
def serve(lines: IO[str], answers: IO[str]) -> None:
    """Answer one line after the other."""
    settings = json.loads(lines.readline())
    for line in lines:
        answers.write(f"{json.dumps(_try(line.rstrip(chr(10)), **settings))}\n")
        answers.flush()


def _try(path: str, check: str, patterns: str | None, **options: Any) -> dict[str, str]:
    """What goes wrong; empty if nothing does."""
    from blockfuse.cli.user_patterns import load_patterns  # noqa: PLC0415 - loads numpy
    from blockfuse.compiler import compile as compile_model  # noqa: PLC0415
    from blockfuse.frontend.patterns import all as built_in  # noqa: PLC0415
    from blockfuse.verification.verify import verify  # noqa: PLC0415

    try:
        known = None if patterns is None else (*load_patterns(Path(patterns)), *built_in())
        if check == "compile":
            compile_model(path, patterns=known, **options)
        else:
            verify(path, patterns=known, **options)
    except InternalError as error:
        return {"kind": "InternalError", "text": str(error), "place": _place(error)}
    except BlockfuseError as error:
        return {"kind": type(error).__name__, "text": str(error).removeprefix(f"{path}: ")}
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        text = " ".join(str(error).split())
        return {"kind": type(error).__name__, "text": text[:500], "place": _place(error)}
    return {}


def _place(error: Exception) -> str:
    """The innermost function of ours that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "blockfuse" in frame.filename]
    return f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else "elsewhere"


def main() -> None:
    """The other process; what libraries print on standard output is no answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is interrupted, too, and ends it
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()

"""Launches a kernel on the emulator.

A launch is a process of its own: a wild store cannot hurt the test, and a kernel that hangs is ended by the
timer that process sets itself. It costs a few milliseconds. Arguments travel through a file both map.
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .host_source import HostKernel, host_kernel
from .results import Counters, EmulationError, EmulationResult, Finding
from .toolchain import build_kernel, source_lines

Array = npt.NDArray[Any]
Size = int | tuple[int, int, int]

_PAGE = 4096
_GUARD = 16 * _PAGE  # between arguments, so that an access past the end of one is in no other
_PATIENCE = 20  # how many times slower than alone on the machine a kernel may run


class _Placed(NamedTuple):
    """An argument and where it lies in the data file."""

    array: Array
    offset: int
    writable: bool


def emulate(
    source: str,
    arguments: dict[str, Array],
    *,
    outputs: set[str],
    grid: Size,
    shared_bytes: int,
    thread_order: Literal["forward", "reverse"] = "forward",
    count: bool = False,
    timeout_s: float = 120,
    kernel: str | None = None,
    block: Size | None = None,
    ctas: Sequence[int] = (),
) -> EmulationResult:
    """Runs a kernel of a CUDA source on the CPU.

    Args:
        source: CUDA C, as TVM prints it or in its style.
        arguments: An array per parameter of the kernel, by its name with or without ``_ptr``.
        outputs: The names of those the kernel may write. They are updated in place; fill them with NaN to see
            what was not written.
        grid: Blocks of the launch.
        shared_bytes: Dynamic shared memory of a block.
        thread_order: The order in which threads and warps run between two barriers.
        count: Whether to count instructions and bank conflicts; takes several times as long.
        timeout_s: How much processor time the kernel may take.
        kernel: The name of the kernel, when the source has several.
        block: Threads of a block; by default those of ``__launch_bounds__``, in x.
        ctas: The blocks along x to run, in this order; all of the grid by default. What the others would write stays as
            it was.

    Raises:
        UnsupportedInstruction: The kernel has a PTX instruction the emulator does not know.
        EmulationError: The source could not be compiled, or arguments do not fit the parameters.
    """
    host = host_kernel(source, kernel)
    by_parameter = _match_arguments(host, arguments)
    placed = _place(by_parameter, {name.removesuffix("_ptr") for name in outputs})
    request = _request(host, placed, grid, block, shared_bytes, count, thread_order == "reverse", timeout_s)
    request += "".join(f"cta {number}\n" for number in ctas)
    program = build_kernel(host.source)
    report = _run(program, placed, request, timeout_s)
    return EmulationResult(*_parse(report, program))


def _match_arguments(host: HostKernel, arguments: Mapping[str, Array]) -> dict[str, Array]:
    """Arguments in the order of the parameters, by names without ``_ptr``."""
    given = {name.removesuffix("_ptr"): array for name, array in arguments.items()}
    wanted = [parameter.name.removesuffix("_ptr") for parameter in host.parameters]
    if set(given) != set(wanted):
        raise EmulationError(f"the kernel's parameters are {sorted(wanted)}, the arguments {sorted(given)}")
    return {name: given[name] for name in wanted}


def _place(arguments: Mapping[str, Array], outputs: set[str]) -> list[_Placed]:
    unknown = outputs - set(arguments)
    if unknown:
        raise EmulationError(f"no such parameters: {sorted(unknown)}")
    placed = []
    offset = _GUARD
    for name, array in arguments.items():
        if name in outputs and not array.flags.c_contiguous:
            raise EmulationError(f"output {name} is not contiguous")
        placed.append(_Placed(array, offset, name in outputs))
        offset += -(-array.nbytes // _PAGE) * _PAGE + _GUARD
    return placed


def _request(
    host: HostKernel,
    placed: list[_Placed],
    grid: Size,
    block: Size | None,
    shared_bytes: int,
    count: bool,
    reverse: bool,
    timeout_s: float,
) -> str:
    if block is None and host.threads is None:
        raise EmulationError("the kernel has no __launch_bounds__, so the block size must be given")
    lines = [
        f"grid {_words(grid)}",
        f"block {_words(block if block is not None else host.threads or 0)}",
        f"shared {shared_bytes}",
        f"count {int(count)}",
        f"reverse {int(reverse)}",
        f"timeout {max(1, round(timeout_s * 1000))}",
    ]
    lines += [f"argument {item.offset} {item.array.nbytes} {int(item.writable)}" for item in placed]
    return "\n".join(lines) + "\n"


def _words(size: Size) -> str:
    x, y, z = (size, 1, 1) if isinstance(size, int) else size
    return f"{x} {y} {z}"


def _run(program: Path, placed: list[_Placed], request: str, timeout_s: float) -> str:
    """Runs the program and copies the outputs back."""
    with tempfile.TemporaryDirectory(prefix="blockfuse-emulator-") as folder:
        data = Path(folder) / "data"
        _write(data, placed)
        try:
            process = subprocess.run(
                [str(program), str(data)],
                input=request,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s * _PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return "finding deadlock 1 0 did not end, nor react to its own timer\ndone\n"
        _read(data, placed)
    if not process.stdout.endswith("done\n"):
        raise EmulationError(f"the emulated kernel ended with status {process.returncode}: {process.stderr[:1000]}")
    return process.stdout


def _write(data: Path, placed: list[_Placed]) -> None:
    with data.open("wb") as file:
        for item in placed:
            file.seek(item.offset)
            file.write(item.array.tobytes())
        last = placed[-1] if placed else None
        file.truncate(_GUARD + (last.offset + last.array.nbytes if last else 0))


def _read(data: Path, placed: list[_Placed]) -> None:
    with data.open("rb") as file:
        for item in placed:
            if item.writable:
                file.seek(item.offset)
                content = np.frombuffer(file.read(item.array.nbytes), np.uint8)
                item.array.reshape(-1).view(np.uint8)[:] = content


def _parse(report: str, program: Path) -> tuple[tuple[Finding, ...], Counters, dict[int, Counters]]:
    """Reads the report whose format ``runtime/report.cpp`` describes."""
    lines = report.splitlines()
    found = [line.split(" ", 4)[1:] for line in lines if line.startswith("finding ")]
    counted = [line.split(" ")[1:] for line in lines if line.startswith("counter ")]
    places = source_lines(program, [address for _, _, address, _ in found])
    findings = tuple(
        Finding(kind, int(number), f"{place}: {text}" if place else text)
        for (kind, number, _, text), place in zip(found, places, strict=True)
    )
    return findings, Counters(**{name: int(value) for name, value in counted}), _by_cta(lines)


def _by_cta(lines: Sequence[str]) -> dict[int, Counters]:
    """What each of the chosen blocks added to the counters."""
    so_far: dict[int, dict[str, int]] = {}
    for _, cta, name, value in (line.split(" ") for line in lines if line.startswith("at ")):
        so_far.setdefault(int(cta), {})[name] = int(value)
    befores = [dict[str, int](), *so_far.values()]
    return {
        cta: Counters(**{name: value - before.get(name, 0) for name, value in after.items()})
        for before, (cta, after) in zip(befores, so_far.items(), strict=False)
    }

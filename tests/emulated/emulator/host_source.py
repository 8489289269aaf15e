"""Turns CUDA C, as TVM prints it, into C++ for the emulator."""

import re
from dataclasses import dataclass

from .asm_statements import replace_asm
from .ptx import translate
from .results import EmulationError

# TVM's preamble defines types and functions that cuda_host.h defines for the host; it ends with these lines.
_PREAMBLE_END = "  #define ushort unsigned short\n#endif\n"
_KERNEL = re.compile(r"__global__\s+void\s+(?P<bounds>__launch_bounds__\([^)]*\)\s+)?(?P<name>\w+)\s*\(")
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?(?P<type>[\w ]+?)\s+(?P<name>\w+)\s*\[\]\s*;"
)
# g++ wants alignas before the storage class that __shared__ stands for.
_ALIGNED_SHARED = re.compile(r"__shared__\s+(alignas\(\d+\))")
# What TVM prints around wgmma.
_OPERANDS = re.compile(r"void \w*wgmma\w*mma_async\w*\([^)]*\)")
# Barriers are told apart by line, so the helper has to pass on the line of its caller.
_BARRIER_HELPER = re.compile(r"(void\s+\w+)\(\)\s*(\{\s*__syncthreads\()(\)\s*;\s*\})")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel: its C type without qualifiers, and its name."""

    type: str
    name: str


@dataclass(frozen=True)
class HostKernel:
    """A kernel ready to be compiled for the host."""

    source: str
    parameters: tuple[Parameter, ...]
    threads: int | None  # of one block, where the kernel states it


def host_kernel(source: str, name: str | None = None) -> HostKernel:
    """The C++ of one kernel of a CUDA source; ``name`` is needed when there are several."""
    body = replace_asm(_OPERANDS.sub(_by_reference, _without_preamble(source)), translate)
    body = _BARRIER_HELPER.sub(r"\1(int caller_line = __builtin_LINE()) \2caller_line\3", body)
    body = _DYNAMIC_SHARED.sub(r"\g<type>* \g<name> = (\g<type>*)emulated_dynamic_shared;", body)
    body = _ALIGNED_SHARED.sub(r"\1 __shared__", body)
    match = _find_kernel(body, name)
    parameters = _parameters(body, match)
    text = f'#include "cuda_host.h"\n#line 1 "kernel.cpp"\n{body}\n{_entry(match["name"], parameters)}'
    return HostKernel(text, parameters, _launch_bounds(match))


def _by_reference(helper: re.Match[str]) -> str:
    """The head of a helper that passes registers on by reference: products use them after the call."""
    return re.sub(r"\buint32_t (__a\d)", r"const uint32_t& \1", helper[0])


def _without_preamble(source: str) -> str:
    """Blanks the preamble and #include lines, so that line numbers stay those of the CUDA source."""
    start = source.rfind(_PREAMBLE_END)
    end = start + len(_PREAMBLE_END) if start >= 0 else 0
    blank = "\n" * source.count("\n", 0, end)
    return blank + re.sub(r"(?m)^\s*#\s*include\b.*$", "", source[end:])


def _find_kernel(body: str, name: str | None) -> re.Match[str]:
    kernels = {match["name"]: match for match in _KERNEL.finditer(body)}
    if not kernels:
        raise EmulationError("the source has no __global__ function")
    if name is None and len(kernels) > 1:
        raise EmulationError(f"the source has several kernels, name one of: {', '.join(kernels)}")
    if name is not None and name not in kernels:
        raise EmulationError(f"the source has no kernel {name}, only: {', '.join(kernels)}")
    return kernels[name] if name is not None else next(iter(kernels.values()))


def _parameters(body: str, kernel: re.Match[str]) -> tuple[Parameter, ...]:
    text = body[kernel.end() : body.index(")", kernel.end())]
    return tuple(_parameter(part) for part in text.split(",") if part.strip())


def _parameter(text: str) -> Parameter:
    text = re.sub(r"\b(const|__restrict__|__grid_constant__)\b", " ", text)
    match = re.fullmatch(r"\s*([\w\s]+?\s*\**)\s*(\w+)\s*", text)
    if match is None:
        raise EmulationError(f"cannot read the kernel parameter {text.strip()!r}")
    return Parameter(re.sub(r"\s+", " ", match[1]).replace(" *", "*").strip(), match[2])


def _launch_bounds(kernel: re.Match[str]) -> int | None:
    bounds = re.search(r"\((\d+)", kernel["bounds"] or "")
    return int(bounds[1]) if bounds else None


def _entry(name: str, parameters: tuple[Parameter, ...]) -> str:
    """The function the runtime calls: pointers are passed on, scalars are read through their pointer."""
    values = [
        f"({parameter.type})arguments[{i}]" if parameter.type.endswith("*") else f"*({parameter.type}*)arguments[{i}]"
        for i, parameter in enumerate(parameters)
    ]
    call = f"{name}({', '.join(values)});"
    return f'extern "C" __attribute__((no_sanitize("thread"))) void emulated_kernel(void** arguments) {{ {call} }}\n'

"""Breaks a CUDA source on purpose, one place at a time.

A check that finds nothing is only worth something if it finds these. Helper functions stay whole: only the
statements of kernels are changed, and every mutant has as many lines as the original.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_KERNEL = re.compile(r"__global__\s+void[^;{]*\{")
_BARRIER = re.compile(r"\b(?:tvm_builtin_cuda_cta_sync|__syncthreads)\(\);")
_WAIT = re.compile(r"\b\w*cp_async_wait_(?:group|all)\w*\(\);|asm volatile\(\"cp\.async\.wait_\w+[^;]*;[^;]*;")
_PRODUCT_RULE = re.compile(r"\b\w*(?:wgmma_fence|wgmma_commit_group|wgmma_wait_group|fence_proxy)\w*\(\);", re.ASCII)
_MMA = re.compile(r"\b\w*mma_sync\w*\((?P<arguments>[^;]*)\);")


@dataclass(frozen=True)
class Mutation:
    """A mutated source, and what was done to it, such as ``line 212 without __syncthreads();``."""

    description: str
    source: str


def without_each_barrier(source: str) -> list[Mutation]:
    """The source without its first ``__syncthreads``, without its second, ..."""
    return [_replace(source, match, ";", "without") for match in _in_kernels(_BARRIER, source)]


def without_each_wait(source: str) -> list[Mutation]:
    """The source without its first wait for asynchronous copies, without its second, ..."""
    return [_replace(source, match, ";", "without") for match in _in_kernels(_WAIT, source)]


def without_each_product_rule(source: str) -> list[Mutation]:
    """The source without its first fence, commit or wait of wgmma, or fence.proxy.async, without its second, ..."""
    return [_replace(source, match, ";", "without") for match in _in_kernels(_PRODUCT_RULE, source)]


def without_one_mma(source: str, index: int = 0) -> Mutation:
    """The source without one matrix product."""
    return _replace(source, list(_in_kernels(_MMA, source))[index], ";", "without")


def with_swapped_mma(source: str, index: int = 0) -> Mutation:
    """The source with the first two registers of A swapped in one matrix product."""
    match = list(_in_kernels(_MMA, source))[index]
    arguments = _split_arguments(match["arguments"])
    arguments[4], arguments[5] = arguments[5], arguments[4]
    call = match.group().replace(match["arguments"], ", ".join(arguments))
    return _replace(source, match, call, "with swapped registers in")


def _in_kernels(pattern: re.Pattern[str], source: str) -> Iterator[re.Match[str]]:
    for kernel in _KERNEL.finditer(source):
        yield from pattern.finditer(source, kernel.end(), _closing_brace(source, kernel.end()))


def _closing_brace(source: str, start: int) -> int:
    depth = 1
    for match in re.compile(r"[{}]").finditer(source, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.start()
    return len(source)


def _replace(source: str, match: re.Match[str], text: str, how: str) -> Mutation:
    line = source.count("\n", 0, match.start()) + 1
    mutated = source[: match.start()] + text + source[match.end() :]
    return Mutation(f"line {line} {how} {match.group()[:80]}", mutated)


def _split_arguments(text: str) -> list[str]:
    """Splits the arguments of a call at its own commas."""
    arguments = [""]
    depth = 0
    for character in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return [argument.strip() for argument in arguments]

"""Finds inline assembly in CUDA C and splits it into its parts."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ASM_START = re.compile(r"\b(?:asm|__asm__)\s*(?:volatile|__volatile__)?\s*\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class AsmStatement:
    """``asm volatile("template" : outputs : inputs : clobbers);``.

    ``operands`` are the C expressions of the outputs, then those of the inputs, as %0, %1, ... number them.
    """

    template: str
    operands: tuple[str, ...]

    def instructions(self) -> list[str]:
        """The instructions of the template, without comments and layout."""
        text = self.template.replace("\\n", " ").replace("\\t", " ")
        return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def replace_asm(source: str, translate: Callable[[AsmStatement], str]) -> str:
    """Replaces every asm statement by what ``translate`` makes of it, keeping the number of lines."""
    pieces = []
    position = 0
    while match := _ASM_START.search(source, position):
        end = _closing_parenthesis(source, match.end())
        semicolon = source.index(";", end)
        pieces.append(source[position : match.start()])
        pieces.append(translate(_parse(source[match.end() : end])))
        pieces.append("\n" * source.count("\n", match.start(), semicolon))
        position = semicolon + 1
    pieces.append(source[position:])
    return "".join(pieces)


def _parse(body: str) -> AsmStatement:
    template, *groups = _split(body, ":")
    operands: list[str] = []
    for group in groups[:2]:  # the third group are the clobbers
        operands.extend(_operand(item) for item in _split(group, ",") if item.strip())
    return AsmStatement("".join(_STRING.findall(template)), tuple(operands))


def _operand(item: str) -> str:
    constraint = _STRING.search(item)
    if constraint is None:
        raise ValueError(f"not an asm operand: {item!r}")
    return item[constraint.end() :].strip()


def _closing_parenthesis(text: str, start: int) -> int:
    depth = 1
    for position, character in _outside_strings(text, start):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position
    raise ValueError("an asm statement is not closed")


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators that are in no string and no parentheses. ``::`` is two separators."""
    parts = [""]
    depth = 0
    last = 0
    for position, character in _outside_strings(text, 0):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if depth == 0 and character == separator:
            parts[-1] = text[last:position]
            parts.append("")
            last = position + 1
    parts[-1] = text[last:]
    return parts


def _outside_strings(text: str, start: int) -> Iterator[tuple[int, str]]:
    position = start
    while position < len(text):
        if string := _STRING.match(text, position):
            position = string.end()
            continue
        yield position, text[position]
        position += 1

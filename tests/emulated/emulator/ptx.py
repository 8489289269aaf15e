"""Translates PTX instructions into calls of the emulator's runtime.

An instruction that is not listed here is an error: leaving it out would make a wrong kernel look right.
"""

import re
from collections.abc import Callable

from .asm_statements import AsmStatement
from .results import EmulationError

_ELEMENTS = {"f16": "kHalf", "bf16": "kBfloat16"}
_NO_EFFECT = ("fence.", "membar.", "prefetch.", "griddepcontrol.")


# TVM wraps the instruction in a block that turns its last operand but three into a predicate.
_PRODUCT = re.compile(
    r"setp\.ne\.b32 (?P<name>\w+), (?P<predicate>%\d+), 0; "
    r"(?P<mnemonic>wgmma\.mma_async\.sync\.aligned\.m64n(?P<columns>\d+)k16\.f32\.(?P<element>b?f16)\.(?P=element)) "
    r"\{(?P<d>[^}]*)\}, \{(?P<a>[^}]*)\}, (?P<descriptor>%\d+), (?P=name), 1, 1, 0;"
)


class UnsupportedInstruction(EmulationError):  # noqa: N818 - reads better at the place of use
    """The kernel uses a PTX instruction the emulator does not know."""


def translate(statement: AsmStatement) -> str:
    """C++ that does what an asm statement does, in one line."""
    instructions = statement.instructions()
    if not instructions:
        return ";"  # a pure compiler barrier
    if match := _PRODUCT.search(" ".join(statement.template.split())):
        return "{ " + _product(match, statement.operands) + " }"
    if len(instructions) > 1:
        raise UnsupportedInstruction(f"several PTX instructions in one asm statement: {statement.template}")
    mnemonic, _, text = instructions[0].partition(" ")
    groups = _operand_groups(text, statement.operands)
    for pattern, rule in _RULES:
        if match := re.fullmatch(pattern, mnemonic):
            return "{ " + rule(match, groups) + " }"
    if mnemonic.startswith(_NO_EFFECT):
        return ";"
    raise UnsupportedInstruction(f"the emulator does not know the PTX instruction {mnemonic}")


def _operand_groups(text: str, operands: tuple[str, ...]) -> list[list[str]]:
    """The operands as written: ``{%0, %1}, [%2], 16`` becomes ``[[x, y], [p], [16]]``."""
    groups = []
    for group in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", text):
        tokens = [token.strip() for token in group.strip("{}[]").split(",")]
        groups.append([_substitute(token, operands) for token in tokens])
    return groups


def _substitute(token: str, operands: tuple[str, ...]) -> str:
    return re.sub(r"%(\d+)", lambda match: operands[int(match.group(1))], token)


def _array(kind: str, name: str, values: list[str]) -> str:
    return f"{kind} {name}[] = {{{', '.join(values)}}};"


def _assign(targets: list[str], name: str) -> str:
    return " ".join(f"{target} = {name}[{i}];" for i, target in enumerate(targets))


def _multiply(match: re.Match[str], groups: list[list[str]]) -> str:
    d, a, b, c = groups
    element = f"emulator::MatrixElement::{_ELEMENTS[match['element']]}"
    arrays = "emulated_d, emulated_a, emulated_b, emulated_c"
    return " ".join(
        [
            f"float emulated_d[{len(d)}];",
            _array("const uint32_t", "emulated_a", a),
            _array("const uint32_t", "emulated_b", b),
            _array("const float", "emulated_c", c),
            f"emulator::multiply_matrices({arrays}, {match['depth']}, {element});",
            _assign(d, "emulated_d"),
        ]
    )


def _load_matrices(match: re.Match[str], groups: list[list[str]]) -> str:
    registers, (address,) = groups
    transposed = "true" if match["trans"] else "false"
    return (
        f"uint32_t emulated_r[{len(registers)}]; "
        f"emulator::load_matrices(emulated_r, {match['count']}, {transposed}, {address}); "
        f"{_assign(registers, 'emulated_r')}"
    )


def _store_matrices(match: re.Match[str], groups: list[list[str]]) -> str:
    (address,), registers = groups
    transposed = "true" if match["trans"] else "false"
    return (
        f"{_array('const uint32_t', 'emulated_r', registers)} "
        f"emulator::store_matrices(emulated_r, {match['count']}, {transposed}, {address});"
    )


def _copy_async(_match: re.Match[str], groups: list[list[str]]) -> str:
    (destination,), (source,), (size,), *rest = groups
    source_size = rest[0][0] if rest else size
    return f"emulator::copy_async({destination}, {source}, {size}, {source_size});"


def _wait_group(_match: re.Match[str], groups: list[list[str]]) -> str:
    return f"emulator::wait_copies({groups[0][0]});"


def _product(match: re.Match[str], operands: tuple[str, ...]) -> str:
    """wgmma with A in registers, a predicate that says whether to accumulate, and B as it is (not transposed)."""
    sums, a = ([_substitute(token.strip(), operands) for token in match[part].split(",")] for part in ("d", "a"))
    if len(sums) * 2 != int(match["columns"]) or len(a) != 4:
        raise UnsupportedInstruction(f"operands do not fit the shape of {match['mnemonic']}")
    return " ".join(
        [
            _array("float* const", "emulated_d", [f"&({value})" for value in sums]),
            _array("const uint32_t* const", "emulated_a", [f"&({value})" for value in a]),
            f"emulator::multiply_warpgroup(emulated_d, {match['columns']}, emulated_a,",
            f"{_substitute(match['descriptor'], operands)}, {_substitute(match['predicate'], operands)} != 0,",
            f"emulator::MatrixElement::{_ELEMENTS[match['element']]});",
        ]
    )


def _call(text: str) -> Callable[[re.Match[str], list[list[str]]], str]:
    """A rule for a plain expression; {0}, {1}, ... are the operands."""
    return lambda _match, groups: text.format(*(group[0] for group in groups))


_RULES: list[tuple[str, Callable[[re.Match[str], list[list[str]]], str]]] = [
    (r"mma\.sync\.aligned\.m16n8k(?P<depth>8|16)\.row\.col\.f32\.(?P<element>b?f16)\.(?P=element)\.f32", _multiply),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x(?P<count>[124])(?P<trans>\.trans)?\.shared(::cta)?\.b16", _load_matrices),
    (r"stmatrix\.sync\.aligned\.m8n8\.x(?P<count>[124])(?P<trans>\.trans)?\.shared(::cta)?\.b16", _store_matrices),
    (r"cp\.async\.c[ag]\.shared(::cta)?\.global(\.L2::\d+B)?", _copy_async),
    (r"cp\.async\.commit_group", _call("emulator::commit_copies();")),
    (r"cp\.async\.wait_group", _wait_group),
    (r"wgmma\.fence\.sync\.aligned", _call("emulator::fence_products();")),
    (r"wgmma\.commit_group\.sync\.aligned", _call("emulator::commit_products();")),
    (r"wgmma\.wait_group\.sync\.aligned", _call("emulator::wait_products({0});")),
    (r"fence\.proxy\.async(\.shared::cta)?", _call("emulator::fence_proxy();")),
    (r"cp\.async\.wait_all", _call("emulator::commit_copies(); emulator::wait_copies(0);")),
    (r"tanh\.approx\.f32", _call("{0} = tanhf({1});")),
    (r"ex2\.approx(\.ftz)?\.f32", _call("{0} = exp2f({1});")),
    (r"lg2\.approx(\.ftz)?\.f32", _call("{0} = log2f({1});")),
    (r"rcp\.approx(\.ftz)?\.f32", _call("{0} = 1.0f / ({1});")),
    (r"rsqrt\.approx(\.ftz)?\.f32", _call("{0} = rsqrtf({1});")),
    (r"cvt\.rn\.f16x2\.f32", _call("{0} = emulated_pack(half({2}), half({1}));")),
    (r"cvt\.rn\.bf16x2\.f32", _call("{0} = emulated_pack(nv_bfloat16({2}), nv_bfloat16({1}));")),
]

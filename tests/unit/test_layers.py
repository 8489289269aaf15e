"""Import direction: every module imports only from layers below its own, late and type-only imports included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the bottom up. A module belongs to the longest name that is its own or its package's.
LAYERS = [
    ["errors", "integers", "replacing"],
    ["as_data", "dtypes", "fingerprint", "kernel_cache", "usage"],
    ["stages", "target", "gpu"],
    ["graph"],
    ["block", "channels", "pattern"],
    ["machine", "runtime.library"],
    ["plan"],
    ["program", "report"],
    ["plan.choose_cuda"],
    ["plan.choose"],
    ["plan.book"],
    ["plan.decide"],
    ["frontend", "schedules"],
    ["steps", "runtime", "build.network"],
    ["build.layout"],
    ["build"],
    ["build.assemble", "watch"],
    ["build.backend"],
    ["compiler"],
    ["verification"],
    ["tools"],
    ["cli"],
    ["__main__"],
]

# Third-party package -> the modules that may import it.
THIRD_PARTY = {
    "networkx": {"graph", "block", "frontend.partition"},
    "onnx": {"frontend"},
    "onnxruntime": {"verification.verify", "tools.bench"},
    "tvm": {
        "schedules",
        "build.build",
        "build.emit_arithmetic",
        "build.emit_norms",
        "build.emit_reductions",
        "build.emit_resize",
        "build.emit_shapes",
        "build.emit_windows",
        "build.entry",
        "build.fallback",
        "build.importer",
        "build.imports",
        "build.open_batch",
        "build.operands",
        "build.pipeline",
        "build.schedule_gpu_ops",
        "build.schedule_gpu_rows",
        "build.schedule_ops",
    },
    "tvm_ffi": {
        "runtime.cuda",
        "runtime.dlpack",
        "runtime.kept_memory",
        "runtime.session",
        "schedules.cuda.expressions",
    },
    "rich": {"cli"},
}

PACKAGES = {"blockfuse": ROOT / "blockfuse", "frontend": ROOT / "frontend", "schedules": ROOT / "schedules"}


def modules() -> dict[str, Path]:
    """Every module by its name below ``blockfuse``."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "blockfuse" and parts[0] in PACKAGES:
                continue  # reached through the symlink
            parts = parts if package == "blockfuse" else (package, *parts)
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path, module: str) -> set[str]:
    """Full names of what a module imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            origin = node.module or ""
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names if f"{origin}.{alias.name}"[10:] in MODULES)
    return found


def belongs(module: str, owners: set[str] | list[str]) -> bool:
    return any(module == owner or module.startswith(f"{owner}.") for owner in owners)


def home(module: str) -> str:
    """The longest entry of LAYERS that a module belongs to; modules of one entry may import each other."""
    owners = [owner for owners in LAYERS for owner in owners if belongs(module, [owner])]
    if not owners:
        pytest.fail(f"module {module} has no place in LAYERS")
    return max(owners, key=len)


def layer(module: str) -> int:
    return next(index for index, owners in enumerate(LAYERS) if home(module) in owners)


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_only_from_below(module: str):
    own = layer(module)
    for target in imports(MODULES[module], module):
        name = target.removeprefix("blockfuse").removeprefix(".")
        if not target.startswith("blockfuse") or not name or home(name) == home(module):
            continue
        assert layer(name) < own, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_third_party_packages_stay_in_their_rooms(module: str):
    for target in imports(MODULES[module], module):
        package = target.split(".")[0]
        if package in THIRD_PARTY:
            assert belongs(module, THIRD_PARTY[package]), f"{module} imports {package}"


def test_frontend_and_schedules_do_not_know_each_other():
    for module, path in MODULES.items():
        other = {"frontend": "schedules", "schedules": "frontend"}.get(module.split(".")[0])
        if other:
            assert not any(target.startswith(f"blockfuse.{other}") for target in imports(path, module)), module


def test_lowering_reads_programs_alone():
    """Neither target's lowering, nor the interpreter, may look at what the program was made from."""
    for module, path in MODULES.items():
        if module == "interpret" or module.startswith("schedules"):
            names = {
                alias.name
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            assert not names & {"Block", "Folded", "Unit", "CpuPlan", "CudaPlan"}, module


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_modules_and_functions_are_short(module: str):
    """Modules have 300 lines at most, functions 40 without their docstrings."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, module
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None
            assert lines(node) - (lines(node.body[0]) if documented else 0) <= 40, f"{module}: {node.name}"


def lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1

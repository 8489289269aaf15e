"""Which files a machine without blockfuse and TVM needs to run containers.

Our own modules are found by following imports from one that runs containers. The compiled part of ``tvm_ffi`` decides
which Pythons can use the result: there is one file of it per Python version, and those of other versions are taken from
wheels of the same release.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import blockfuse
from blockfuse.errors import TargetError, UsageError
from blockfuse.runtime.session import load_runtime

Files: TypeAlias = dict[str, Path | bytes]
"""Contents, or where they are, by the path inside the folder."""

ENTRY = "blockfuse.tools.packed"
_LIBRARIES = "blockfuse/runtime/lib"  # where blockfuse.runtime.session looks first
_FFI = "apache-tvm-ffi"
_FOR_DEVELOPERS = {"3rdparty", "cmake", "cython", "include", "share", "src", "stub", "testing"}
_CUDA_RUNTIME = "libtvm_runtime_cuda.so"
_TOOLKIT = "/usr/local/cuda"


def runtime_files(*, cuda: bool, wheels: Sequence[Path] = ()) -> Files:
    """Everything to be put on the path of a Python with numpy.

    Args:
        cuda: Also what CUDA containers need besides the driver.
        wheels: Wheels of ``apache-tvm-ffi`` for further Pythons.

    Raises:
        TargetError: A library is not found.
        UsageError: A wheel is not one of the installed release.
    """
    root = Path(blockfuse.__file__).parent.parent
    files: Files = {str(PurePosixPath(path.relative_to(root))): path for path in runtime_modules().values()}
    files |= _ffi_files()
    for wheel in wheels:
        files |= _extension_in(wheel)
    files |= _module_file("typing_extensions")
    for name in ("apache-tvm", "typing_extensions"):
        files |= _licences(name)
    files |= {f"{_LIBRARIES}/{name}": path for name, path in _libraries(cuda=cuda).items()}
    return files


# ---- our modules -----------------------------------------------------------------------------------------------------
def runtime_modules() -> dict[str, Path]:
    """Files of all our modules that running needs, by name; imports for type checkers alone do not count."""
    found: dict[str, Path] = {}
    waiting = [ENTRY]
    while waiting:
        name = waiting.pop()
        path = _own_file(name)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(ast.parse(path.read_text(encoding="utf-8")))]
    return found


def _own_file(name: str) -> Path | None:
    if name.partition(".")[0] != "blockfuse":
        return None
    path = Path(blockfuse.__file__).parent.joinpath(*name.split(".")[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _imports(node: ast.AST) -> Iterator[str]:
    """Full names of what a module may import when it runs, modules or not."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


# ---- tvm_ffi ---------------------------------------------------------------------------------------------------------
def _ffi_files() -> Files:
    """The package without what serves development, and its metadata, by which it finds its library."""
    package = _module_folder("tvm_ffi")
    files: Files = {}
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        if path.suffix in {".py", ".so"} and parts[0] not in _FOR_DEVELOPERS:
            files["/".join((package.name, *parts))] = path
    records = metadata.distribution(_FFI).files or ()
    for record in records:
        if record.parts[0].endswith(".dist-info") and record.name not in {"INSTALLER", "REQUESTED", "direct_url.json"}:
            files[str(record)] = Path(str(record.locate()))
    return files


def _extension_in(wheel: Path) -> Files:
    """The compiled part of ``tvm_ffi`` in a wheel."""
    release = metadata.version(_FFI)
    found = re.fullmatch(r"apache_tvm_ffi-([^-]+)-\w+-\w+-[\w.]+\.whl", wheel.name)
    if found is None or found[1] != release:
        raise UsageError(f"{wheel} is no wheel of {_FFI} {release}, which is installed here")
    try:
        with zipfile.ZipFile(wheel) as archive:
            cores = [name for name in archive.namelist() if re.fullmatch(r"tvm_ffi/core\.[\w.-]+\.so", name)]
            if not cores:
                raise UsageError(f"{wheel} has no tvm_ffi/core for Linux")
            return {name: archive.read(name) for name in cores}
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read {wheel}: {error}") from None


def _module_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise TargetError(f"{name} is not installed")
    return Path(spec.origin).parent


def _module_file(name: str) -> Files:
    return {f"{name}.py": _module_folder(name) / f"{name}.py"}


def _licences(distribution: str) -> Files:
    """The licence texts of a package, which copies have to come with."""
    try:
        records = metadata.distribution(distribution).files or ()
    except metadata.PackageNotFoundError:
        return {}
    texts = [record for record in records if re.fullmatch(r"(LICEN[CS]E|NOTICE)(\.\w+)?", record.name)]
    return {f"licences/{distribution}/{record.name}": Path(str(record.locate())) for record in texts}


# ---- libraries -------------------------------------------------------------------------------------------------------
def _libraries(*, cuda: bool) -> dict[str, Path]:
    """TVM's runtime libraries, and the CUDA runtime they were linked to."""
    runtime = load_runtime()
    found = {runtime.name: runtime}
    if not cuda:
        return found
    extension = runtime.with_name(_CUDA_RUNTIME)
    if not extension.is_file():
        raise TargetError(f"{extension} is not there, which CUDA containers need")
    found[extension.name] = extension
    wanted = re.search(rb"libcudart\.so\.\d+", extension.read_bytes())
    if wanted is not None:
        found[wanted[0].decode()] = _cuda_runtime(wanted[0].decode())
    return found


def _cuda_runtime(name: str) -> Path:
    """NVIDIA's runtime library, in its wheels or its toolkit."""
    homes = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")] + [_TOOLKIT]
    wheels = sorted((_module_folder("tvm_ffi").parent / "nvidia").glob("*/lib"))
    for folder in (*wheels, *(Path(home) / "lib64" for home in homes if home)):
        if (folder / name).is_file():
            return folder / name
    raise TargetError(f"{name} is not found, which CUDA containers need: set CUDA_HOME, or install nvidia-cuda-runtime")

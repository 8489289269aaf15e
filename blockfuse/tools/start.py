"""Run a packed network; ``python run.py --help`` tells how.

``blockfuse pack`` copies this file into the folder as ``run.py``. It looks at the folder and at this Python before
anything is loaded: a library cut short would end the process without a word. It is read by Pythons of any age.
"""

import json
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FAILED = 1


def complaint() -> str:
    """What is wrong with the folder or this Python, in one line; empty if nothing is."""
    try:
        index = json.loads((FOLDER / "pack.json").read_text(encoding="utf-8"))
        files = {name: int(size) for name, (size, _) in index["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{FOLDER} is no complete packed network: {error}"
    for name, size in files.items():
        path = FOLDER / name
        if not path.is_file():
            return f"{path} is missing: copy the folder again"
        if path.stat().st_size != size:
            return f"{path} is damaged: it has {path.stat().st_size} bytes, not {size}; copy the folder again"
    cores = sorted(Path(name).name for name in files if name.startswith("python/tvm_ffi/core."))
    if not {"core" + suffix for suffix in EXTENSION_SUFFIXES} & set(cores):
        this = ".".join(map(str, sys.version_info[:2]))
        return f"this Python {this} finds no tvm_ffi/core for itself, only {', '.join(cores)}: use the Python it names"
    if find_spec("numpy") is None:
        return "numpy is not installed: pip install numpy"
    return ""


def start() -> int:
    """Hand over to the part of blockfuse in the folder."""
    sys.path[0] = str(FOLDER / "python")
    wrong = complaint()
    if wrong:
        sys.stderr.write(f"run.py: error: {wrong}\n")
        return FAILED
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type] # else tvm_ffi loads it where it is installed
    try:
        import blockfuse.runtime.session  # noqa: F401, PLC0415 - loads them
        from blockfuse.tools.packed import main  # noqa: PLC0415 - not before the checks
    except (ImportError, OSError) as error:
        sys.stderr.write(f"run.py: error: the libraries in the folder cannot be loaded here: {error}\n")
        return FAILED
    return main(FOLDER)


if __name__ == "__main__":
    sys.exit(start())

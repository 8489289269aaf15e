"""What importing costs: nothing that is not needed yet."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"tvm", "tvm_ffi", "onnx", "onnxruntime", "networkx", "numpy", "rich"}


def loaded_by(program):
    """The heavy packages that a program loads in a process of its own."""
    script = f"import sys\n{program}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    return set(done.stdout.splitlines()[-1].split()) & HEAVY


@pytest.mark.parametrize(
    "program",
    [
        "import blockfuse",
        "import blockfuse; dir(blockfuse), blockfuse.__version__",
        "import blockfuse; blockfuse.VerificationError",
        "import blockfuse.frontend, blockfuse.schedules",
        "from blockfuse.cli import main; main(['--help'])",
        "from blockfuse.cli import main; main(['verify', '--help'])",
        "from blockfuse.cli import main; assert main(['compile']) == 2",
    ],
)
def test_loads_nothing_heavy(program):
    assert loaded_by(program) == set()


def test_the_compiler_loads_what_it_needs():
    """The other tests would pass if the names were wrong."""
    assert loaded_by("import blockfuse; blockfuse.compile, blockfuse.explain") >= {"numpy", "onnx", "networkx"}


def test_tvm_is_loaded_for_building_only():
    program = "import blockfuse as bf; from blockfuse.frontend.zoo import resnet18"
    plan = "bf.compile(resnet18(size=32, width=0.25), stop_after='program')"
    assert "tvm" not in loaded_by(f"{program}; {plan}")


@pytest.mark.parametrize(
    "first", ["blockfuse", "blockfuse.verification.verify", "blockfuse.frontend.reading", "blockfuse.pattern"]
)
def test_public_names_are_what_they_are_whatever_was_imported_first(first):
    """A submodule of the same name must not take a function's place."""
    program = f"import {first}, blockfuse as bf\nfor name in bf.__all__: getattr(bf, name)\n"
    uses = "assert callable(bf.verify) and callable(bf.pattern) and callable(bf.explain) and callable(bf.compile)"
    loaded_by(program + uses)

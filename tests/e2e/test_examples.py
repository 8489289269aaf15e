"""Every example runs, and says what it is there to say."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from blockfuse.frontend.zoo import resnet18

ROOT = Path(__file__).parents[2]


def run(example, *arguments):
    """What an example prints."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / example), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_all_examples_are_tested():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert names == {name for name in names if f'run("{name}"' in source}


@pytest.mark.parametrize("own", [False, True])
def test_compile_onnx(own, tmp_path):
    arguments = []
    if own:
        onnx.save(resnet18(size=32, width=0.25), tmp_path / "own.onnx")
        arguments = [tmp_path / "own.onnx"]
    text = run("compile_onnx.py", *arguments)
    assert ("resnet18 for cpu" if own else "mobilenet_v2 for cpu") in text
    assert "output [1, 1000]: " in text
    assert text.endswith("the loaded network gives the same\n")


def test_custom_block():
    text = run("custom_block.py")
    assert "mixer_1: 1 kernel for conv 3x3 -> 32 | relu | conv 1x1 -> 32 | relu | depthwise 5x5 | add" in text
    assert "unoptimised: passed" in text
    assert "mixer in mixers: 0 matches" in text
    assert "Conv 'first.filter' has kernel_shape (3, 3); the pattern wants (5, 5)" in text

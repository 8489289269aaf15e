"""Every kernel that is emulated elsewhere, launched for real, and watched by compute-sanitizer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.cases import CHOSEN

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "tests" / "gpu" / "run_cases.py"


def export(folder: Path, arch: str, *options: str) -> Path:
    command = [sys.executable, "-m", "tests.gpu.export_cases", str(folder), "--archs", arch, *options]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def cases(gpu, tmp_path_factory) -> Path:
    return export(tmp_path_factory.mktemp("cases"), gpu.target)


def test_every_kernel_is_right(cases):
    result = cases / "result.json"
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(cases), "--json", str(result)], capture_output=True, text=True, check=False
    )
    assert result.exists(), done.stdout + done.stderr
    assert json.loads(result.read_text())["wrong"] == [], done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_sanitizer_finds_nothing(tool, gpu, tmp_path):
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        pytest.skip("compute-sanitizer is not installed")
    folder = export(tmp_path / "cases", gpu.target, "--cases", *CHOSEN)
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, str(RUNNER), str(folder)]
    done = subprocess.run([*command, "--repeat", "1"], capture_output=True, text=True, check=False)
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("compute-sanitizer does not support this machine")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

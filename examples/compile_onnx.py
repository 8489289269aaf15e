"""Compile an ONNX model, run it, read the report, save it, and load it again.

    python examples/compile_onnx.py [model.onnx]

Without a path it takes MobileNetV2 with random weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import blockfuse as bf
from blockfuse.frontend.zoo import mobilenet_v2


def main() -> None:
    """Show the whole way."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else mobilenet_v2(size=96)

    executable = bf.compile(model)
    print(executable.report())

    rng = np.random.default_rng(0)
    inputs = {port.name: rng.standard_normal(port.shape, np.float32) for port in executable.inputs}
    outputs = executable.run(inputs)
    for name, value in outputs.items():
        print(f"{name} {list(value.shape)}: {value.min():.4f} to {value.max():.4f}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.bf"
        executable.save(path)
        again = bf.load(path).run(inputs)  # needs TVM's runtime, not its compiler
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    same = all(np.array_equal(again[name], value) for name, value in outputs.items())
    print("the loaded network gives the same" if same else "the loaded network gives something else")


if __name__ == "__main__":
    main()

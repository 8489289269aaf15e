"""Known architectures as ONNX models with seeded random weights, for tests, examples and benchmarks."""

from __future__ import annotations

from blockfuse.frontend.zoo.mobilenet_v2 import mobilenet_v2
from blockfuse.frontend.zoo.resnet18 import resnet18

__all__ = ["mobilenet_v2", "resnet18"]

"""Known architectures as ONNX models with seeded random weights, for tests, examples and benchmarks."""

from __future__ import annotations

from blockfuse.frontend.zoo.convfirstnet import convfirstnet
from blockfuse.frontend.zoo.convnext_tiny import convnext_tiny
from blockfuse.frontend.zoo.efficientnet_b0 import efficientnet_b0
from blockfuse.frontend.zoo.mobilenet_v2 import mobilenet_v2
from blockfuse.frontend.zoo.resnet18 import resnet18
from blockfuse.frontend.zoo.resnet50 import resnet50

__all__ = ["convfirstnet", "convnext_tiny", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50"]

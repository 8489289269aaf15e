"""Compiled networks against ONNX Runtime: tolerances, comparisons, results."""

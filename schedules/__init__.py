"""Lowering of tile programs to TensorIR, one folder per target."""

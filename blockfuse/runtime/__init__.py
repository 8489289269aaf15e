"""Compiled networks: their container, and running them on TVM's runtime library alone."""

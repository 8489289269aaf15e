"""Blocks and plans written as tile programs; passes over programs, and their float64 interpreter."""

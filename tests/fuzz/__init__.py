"""Seeded random cases for every layer; ``python -m tests.fuzz`` runs many of them, the test suite a few."""

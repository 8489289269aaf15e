"""The package list names every package, and the public names are exactly those documented."""

import subprocess
import sys
import tomllib
from pathlib import Path

import blockfuse

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed():
    found = {"blockfuse"}
    for folder, name in (
        ("blockfuse", "blockfuse"),
        ("frontend", "blockfuse.frontend"),
        ("schedules", "blockfuse.schedules"),
    ):
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if not (folder == "blockfuse" and parts and parts[0] in {"frontend", "schedules"}):
                found.add(".".join((name, *parts)))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_links_lead_to_the_top_level_folders():
    for name in ("frontend", "schedules"):
        assert (ROOT / "blockfuse" / name).is_symlink()
        assert (ROOT / "blockfuse" / name).resolve() == ROOT / name


def test_version_is_the_projects():
    assert blockfuse.__version__ == PROJECT["project"]["version"]


def test_public_names_load():
    for name in blockfuse.__all__:
        assert getattr(blockfuse, name) is not None


def test_top_level_names_stay_free():
    """``frontend`` and ``schedules`` are not importable by those names from an installed copy."""
    code = "import importlib.util as u; print([n for n in ('frontend', 'schedules') if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

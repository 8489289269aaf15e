"""Compiled kernels, libraries and plans on disk, by the hash of everything they were made from.

A file holds the SHA-256 of the code and the code, and appears by one rename, so that several compilers may share a
folder and a damaged file counts as missing. What was not used for longest goes first when the folder grows too large.
Files of other names, and all that is no file, are somebody else's: they are neither counted nor removed. A folder that
cannot be written is no error: everything is then compiled every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from blockfuse.replacing import replacing

VARIABLE = "BLOCKFUSE_CACHE_DIR"
"""Environment variable with the folder of the cache; empty for no cache."""

_LIMIT = 512 << 20  # bytes
_DIGEST = hashlib.sha256().digest_size
_NEW = ".new-"
_OWN = re.compile(rf"[0-9a-f]{{{2 * _DIGEST}}}|{re.escape(_NEW)}[a-z0-9_]{{8}}")  # a key, or what is not complete


class KernelCache:
    """A folder of what was compiled or planned.

    Args:
        folder: Where they are; None for a cache that keeps nothing.
        limit: Bytes that all files together may have.
    """

    def __init__(self, folder: Path | None, limit: int = _LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, key: str) -> bytes | None:
        """The code of a key, None if it is not there or damaged."""
        if self.folder is None:
            return None
        path = self.folder / key
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, code = data[:_DIGEST], data[_DIGEST:]
        return code if hashlib.sha256(code).digest() == digest else None

    def put(self, key: str, code: bytes) -> None:
        """Keep the code of a key, if that is possible."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self.folder / key, _NEW) as file:
                file.write(hashlib.sha256(code).digest() + code)
            self._shrink()
        except OSError:
            return

    def sizes(self) -> tuple[int, ...]:
        """Bytes of every file of the cache."""
        return tuple(size for _, size, _ in self._entries())

    def clear(self) -> None:
        """Remove all files of the cache, and nothing else in its folder.

        Raises:
            OSError: One cannot be removed.
        """
        for _, _, path in self._entries():
            path.unlink(missing_ok=True)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """When every file of the cache was used last, its bytes, and where it is."""
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir() if self.folder else ():
                with contextlib.suppress(OSError):
                    facts = path.lstat()
                    if _OWN.fullmatch(path.name) and stat.S_ISREG(facts.st_mode):
                        entries.append((facts.st_mtime, facts.st_size, path))
        return entries

    def _shrink(self) -> None:
        """Remove what was not used for longest, until the rest is small enough."""
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def default_cache() -> KernelCache:
    """The cache in the folder that the environment names, by default the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return KernelCache(Path(chosen).expanduser() if chosen else None)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with contextlib.suppress(RuntimeError):  # there may be no home
        return KernelCache(Path(home).expanduser() / "blockfuse" / "kernels")
    return KernelCache(None)


def key_of(parts: Sequence[str]) -> str:
    """The key of what these texts together determine."""
    sizes = "".join(f"{len(part)}," for part in parts)
    return hashlib.sha256("\0".join((sizes, *parts)).encode()).hexdigest()

"""Plans that were found before: a book of them for every network and device, kept on disk beside compiled kernels.

A plan is in the book by the text of the block it is for, so that whatever else is in the same book, none is taken for
another block. Predictions are not kept: they are made anew for the plan, by the same code that chose it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from blockfuse.as_data import from_data, to_data
from blockfuse.block import Block
from blockfuse.fingerprint import own_sources, text_of, version_of
from blockfuse.kernel_cache import KernelCache, key_of
from blockfuse.plan.choose import Choice, choose, priced
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import Device
from blockfuse.plan.fold import fold
from blockfuse.plan.infeasible import Infeasible

Found = Choice | Infeasible

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (CpuPlan, CudaPlan, Infeasible)}


class Book:
    """Plans for one device.

    Args:
        device: What they are for.
        text: What :meth:`written` gave for the same device and the same sources; anything else counts as nothing.
    """

    def __init__(self, device: Device, text: bytes = b"") -> None:
        self.device = device
        self.is_new = False
        self._entries = _entries(text)
        self._found: dict[tuple[Block, tuple[bool, ...]], Found] = {}

    def find(self, block: Block, planar: tuple[bool, ...]) -> Found:
        """What is chosen for a block without its data: as it is written, or newly found and written down."""
        if (block, planar) not in self._found:
            self._found[block, planar] = self._look_up(block, planar)
        return self._found[block, planar]

    def written(self) -> bytes:
        """The book as text."""
        return json.dumps(self._entries).encode()

    def _look_up(self, block: Block, planar: tuple[bool, ...]) -> Found:
        name = hashlib.sha256(text_of((block, planar), compared=True).encode()).hexdigest()
        try:
            return self._read(block, *self._entries[name])
        except (ArithmeticError, LookupError, TypeError, ValueError):  # not there, or damaged
            found = chosen(block, self.device, planar)
        value = found.plan if isinstance(found, Choice) else found
        self._entries[name] = [type(value).__name__, to_data(value)]
        self.is_new = True
        return found

    def _read(self, block: Block, kind: str, data: Any) -> Found:
        value = from_data(_KINDS[kind], data)
        return value if isinstance(value, Infeasible) else priced(fold(block), value, self.device)


def _entries(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


_OPEN: ContextVar[Book | None] = ContextVar("_OPEN", default=None)


def planned(block: Block, device: Device, planar: tuple[bool, ...]) -> Found:
    """What is chosen for a block without its data, by the open book if it is for the device."""
    book = _OPEN.get()
    return chosen(block, device, planar) if book is None or book.device != device else book.find(block, planar)


@functools.lru_cache(maxsize=4096)
def chosen(block: Block, device: Device, planar: tuple[bool, ...]) -> Found:
    """What is chosen for a block without its data; equal blocks are planned once."""
    return choose(fold(block), device, planar)


@contextmanager
def open_book(cache: KernelCache, device: Device, network: str) -> Iterator[None]:
    """Inside, plans come from the book of a network and a device, and what is new is added to it at the end.

    Args:
        cache: Where books are.
        device: What is planned for.
        network: A text; networks with the same one share a book.
    """
    key = key_of(["plans", text_of(device), network, own_sources(), version_of("blockfuse")])
    book = Book(device, cache.get(key) or b"")
    before = _OPEN.set(book)
    try:
        yield
    finally:
        _OPEN.reset(before)
    if book.is_new:
        cache.put(key, book.written())

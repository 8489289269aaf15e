"""What an emulated launch returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class EmulationError(Exception):
    """The kernel could not be emulated: nothing is known about whether it is right."""


@dataclass(frozen=True)
class Finding:
    """One kind of mistake, and the first place where it was seen.

    Kinds: ``race-read-write``, ``race-write-write``, ``uninitialised-shared``, ``global-out-of-bounds``,
    ``shared-out-of-bounds``, ``write-to-input``, ``copy-not-waited``, ``copy-left-pending``, ``misaligned``,
    ``divergent-collective``, ``barrier-divergence``, ``deadlock`` and, where nothing explains it, ``crash``.
    Of wgmma: ``sums-in-flight`` and ``operand-in-flight`` (registers touched before the wait), ``product-not-fenced``
    (registers touched since the last wgmma.fence), ``product-overtaken`` (weights changed before the wait),
    ``product-left-pending``, ``proxy-fence-missing`` (no fence.proxy.async of the writer, or none that a barrier
    orders before the product), ``divergent-descriptor``, ``unsupported-descriptor``. These are rules of the programming
    model; whether keeping them is enough, only a GPU can show.

    A race is two accesses to one byte by two threads, one of them a write, that no barrier orders: in shared
    memory, and in outputs also between blocks. ``misaligned``, wild pointers, ``deadlock`` and ``crash`` end
    the run; after the others it goes on.
    """

    kind: str
    count: int
    first: str


@dataclass(frozen=True)
class Counters:
    """What the kernel asks of the memory system, summed over all warps of all blocks of the launch.

    All are zero unless counting was asked for.

    * ``wgmma`` counts instructions per warpgroup, ``wgmma_shared_bytes`` the bytes of weights that they read.
    * ``mma``, ``ldmatrix``, ``shared_loads`` and ``shared_stores`` count instructions per warp. Shared loads and
      stores are those of the source as g++ sees it; nvcc may merge or split some.
    * ``*_wavefronts`` are passes through the 32 banks, ``*_ideal`` the passes without any conflict.
    * ``*_sectors`` are 32-byte pieces of global memory touched by one instruction of one warp, those of
      asynchronous copies included. Caches are not modelled.
    * ``block_sectors`` are those that a block touches, however often: its traffic with a perfect cache of its own.
    * ``async_copies``, ``async_copy_bytes`` and ``global_bytes_*`` count per thread; the bytes of copies are those
      written to shared memory, the bytes read from global memory include the sources of copies.
    * ``barriers`` counts ``__syncthreads`` per block.
    """

    wgmma: int = 0
    wgmma_shared_bytes: int = 0
    mma: int = 0
    ldmatrix: int = 0
    ldmatrix_wavefronts: int = 0
    ldmatrix_ideal: int = 0
    shared_loads: int = 0
    shared_load_wavefronts: int = 0
    shared_load_ideal: int = 0
    shared_stores: int = 0
    shared_store_wavefronts: int = 0
    shared_store_ideal: int = 0
    global_load_sectors: int = 0
    global_store_sectors: int = 0
    block_sectors: int = 0
    async_copies: int = 0
    async_copy_bytes: int = 0
    global_bytes_read: int = 0
    global_bytes_written: int = 0
    barriers: int = 0


@dataclass(frozen=True)
class EmulationResult:
    """Findings (none: the run was clean) and counters.

    Where blocks were chosen, ``by_cta`` has what each of them added to the counters.
    """

    findings: tuple[Finding, ...]
    counters: Counters
    by_cta: Mapping[int, Counters] = field(default_factory=dict)

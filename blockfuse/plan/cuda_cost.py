"""A coarse prediction of a CUDA kernel's time, to compare plans of one block; no figure of it is a measurement.

One CTA takes the time of its slowest pipe (tensor cores, ordinary arithmetic, shared memory, L2) plus what it waits:
until its first pixels arrive, and a little for every step of the weight stream. CTAs that share an SM share its pipes
and fill each other's waits. The kernel takes as many rounds of CTAs as the SMs need, and at least the time that memory
takes to move every tensor once.
"""

from __future__ import annotations

from blockfuse.dtypes import item_size
from blockfuse.errors import InternalError
from blockfuse.machine import Engine
from blockfuse.plan.cost import Cost
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_direct import predict_direct
from blockfuse.plan.cuda_work import work_of
from blockfuse.plan.device import Device
from blockfuse.plan.fold import Folded
from blockfuse.plan.footprint import Footprint, footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.partial import partial_bytes
from blockfuse.plan.stack import over_stacks

TENSOR_SHARE = {Engine.MMA: 0.62, Engine.WGMMA: 0.96}  # of Hopper's tensor peak, that an engine reaches at best
START_SECONDS = 0.8e-6  # assumed: until the first pixels and weights are there, and for the last result to leave
_STEP_SECONDS = 0.15e-6  # assumed: a barrier, and the wait for an item


def predict(folded: Folded, plan: CudaPlan, device: Device) -> Cost:
    """What a kernel is predicted to take for the whole batch."""
    if plan.direct:
        return predict_direct(folded, plan, device)
    operations = sum(folded.operations(index) for index in range(len(folded.units))) * folded.block.batch
    moved = folded.block.global_bytes + partial_bytes(folded, plan)
    folded = over_stacks(folded, plan.images)
    prints = footprints(folded, plan.tile_p, plan.tile_q)
    if isinstance(prints, Impossible):
        raise InternalError(f"block {folded.block.name}: {prints}")
    work = work_of(folded, plan, prints)
    pipes = {
        "arithmetic": max(work.tensor / _rate(folded, plan, device), work.vector / device.vector_peak),
        "shared memory": work.local / device.local_bandwidth,
        "cache": work.cache / device.cache_bandwidth,
    }
    bound = max(pipes, key=lambda name: pipes[name])
    ctas = cta_count(folded, plan)
    busy = _rounds(-(-ctas // device.cores), plan.resident, pipes[bound] * device.cores, work.steps)
    streamed = moved / device.memory_bandwidth
    return Cost(
        operations=operations,
        recompute=max(1.0, ctas * work.useful / operations) if operations else 1.0,
        global_bytes=moved,
        local_bytes=_held_bytes(folded, plan, prints),
        seconds=device.launch_seconds + max(busy, streamed),
        bound=bound if busy >= streamed else "memory",
        cache_bytes=round(ctas * work.cache),
    )


def cta_count(folded: Folded, plan: CudaPlan) -> int:
    """CTAs of the grid; stacks of images are one image each."""
    out = folded.shapes[-1]
    return folded.block.batch * -(-out.height // plan.tile_p) * -(-out.width // plan.tile_q) * plan.split


def _rounds(ctas: int, resident: int, pipe: float, steps: int) -> float:
    """Seconds that an SM takes for its CTAs, ``resident`` at once, each of which keeps a pipe busy for ``pipe``."""
    alone = pipe + START_SECONDS + steps * _STEP_SECONDS
    full, rest = divmod(ctas, resident)
    return full * max(alone, resident * pipe) + (max(alone, rest * pipe) if rest else 0.0)


def _rate(folded: Folded, plan: CudaPlan, device: Device) -> float:
    """Operations per second of sums: float32 has no tensor cores here."""
    if folded.block.dtype == "float32":
        return device.vector_peak
    return device.tensor_peak * TENSOR_SHARE[plan.engine]


def _held_bytes(folded: Folded, plan: CudaPlan, prints: list[Footprint]) -> int:
    """Bytes of the values between units in the shared memory of one CTA."""
    held, size = 0, item_size(folded.block.dtype)
    for value in range(folded.input_count, len(folded.shapes) - 1):
        home = plan.homes[value]
        held += prints[value].pixels * (folded.shapes[value].channels if home.whole else home.chunk) * size
    return held

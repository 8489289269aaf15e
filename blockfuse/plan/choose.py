"""One choice for both kinds of device: the plan predicted to be fastest for a block as one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.plan.choose_cpu import cost_cpu, plan_cpu
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cost import Cost
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.device import Device
from blockfuse.plan.fold import Folded
from blockfuse.plan.infeasible import Infeasible


@dataclass(frozen=True)
class Choice:
    """A plan and its predicted cost."""

    plan: CpuPlan | CudaPlan
    cost: Cost


def choose(folded: Folded, device: Device, planar: tuple[bool, ...] = ()) -> Choice | Infeasible:
    """The plan predicted to be fastest.

    Args:
        folded: The block.
        device: Where it runs.
        planar: For each input, whether memory holds it as N, C, H, W; on a GPU none does.
    """
    if device.kind == "cuda":
        joins = sum(unit.is_join for unit in folded.units)
        if joins:
            return Infeasible("concatenations and slices inside a CUDA kernel", joins, 0, unit="of them")
        plan = plan_cuda(folded, device)
        return plan if isinstance(plan, Infeasible) else priced(folded, plan, device)
    found = plan_cpu(folded, device, planar)
    return found if isinstance(found, Infeasible) else Choice(found[0].plan, found[0].cost)


def priced(folded: Folded, plan: CpuPlan | CudaPlan, device: Device) -> Choice:
    """A plan with its predicted cost.

    Raises:
        ValueError: It is none for this block.
    """
    if isinstance(plan, CudaPlan):
        if (len(plan.units), len(plan.homes)) != (len(folded.units), len(folded.shapes)):
            raise ValueError(f"{plan} is for another block")
        return Choice(plan, predict(folded, plan, device))
    return Choice(plan, cost_cpu(folded, plan, device))

"""From a graph to ordered steps: blocks, and operators that run by themselves."""

from blockfuse.frontend.partition.blocks import NoBlock, block_of
from blockfuse.frontend.partition.partition import partition
from blockfuse.frontend.partition.result import Found, Overlap, Partition, Step

__all__ = ["Found", "NoBlock", "Overlap", "Partition", "Step", "block_of", "partition"]

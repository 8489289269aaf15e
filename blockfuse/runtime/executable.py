"""A compiled network in the hands of its user."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockfuse.errors import InputError, TargetError, UsageError
from blockfuse.report import Report
from blockfuse.runtime import artifact
from blockfuse.runtime.library import Port, signature
from blockfuse.runtime.variants import Variant, best_for_this_machine
from blockfuse.usage import whole_number

if TYPE_CHECKING:
    from blockfuse.runtime.session import Session


class Executable:
    """A compiled network: call it, save it, ask what it consists of.

    Args:
        variants: The network for every target it was compiled for.
        threads: Threads to run with; by default what it was planned for. Other numbers are right, only slower.

    """

    def __init__(self, variants: Sequence[Variant], threads: int | None = None) -> None:
        self._variants = tuple(variants)
        self._library = self._variants[0].library  # as all others seen from outside
        self._threads = threads

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Name, shape and type of every input; where any batch can be run, with the one it was planned for."""
        return self._library.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Name, shape and type of every output."""
        return self._library.outputs

    def inputs_for(self, batch: int | None = None) -> tuple[Port, ...]:
        """Name, shape and type of every input for a batch; by default the one it was planned for.

        Raises:
            UsageError: The batch is fixed, and another one, or it is too large.
        """
        limits, batch = self._library.batch, None if batch is None else whole_number("batch", batch)
        if limits is None and batch is not None and any(port.shape[:1] != (batch,) for port in self.inputs):
            shapes = ", ".join(map(str, self.inputs))
            raise UsageError(f"the batch of {self._library.name} is fixed: {shapes}")
        if limits is None or batch is None:
            return self.inputs
        if not 1 <= batch <= limits.most:
            raise UsageError(f"batch must be 1 to {limits.most:,} for {self._library.name}, not {batch}")
        return tuple(port.at(batch) for port in self.inputs)

    def start(self) -> Session:
        """Make the network ready to run, which the first run does otherwise.

        Raises:
            TargetError: It cannot run on this machine.
        """
        return self._session

    @functools.cached_property
    def _session(self) -> Session:
        from blockfuse.runtime.session import Session  # noqa: PLC0415 - loads the runtime

        return Session(best_for_this_machine(self._variants).library, self._threads)

    def run(self, inputs: Mapping[str, Any], stream: Any = None) -> dict[str, Any]:
        """Outputs for inputs, both by name; several threads may call at once.

        Args:
            inputs: Arrays of numpy, PyTorch, CuPy or anything else with ``__dlpack__``. Those on a GPU are read where
                they are, and then the outputs stay there: ``torch.from_dlpack(output)`` takes one without copying.
            stream: On a GPU, what to run on: a handle, or PyTorch's or CuPy's stream; by default the current one of the
                library whose array on the GPU is an input, else the legacy default stream.

        Returns:
            Numpy arrays, or, where an input was on the GPU, arrays there that the stream may still be computing.

        Raises:
            InputError: An input is missing, unknown, of another type or shape, or on another device.
            TargetError: It cannot run on this machine.
        """
        return self._session.run(inputs, stream)

    def __call__(self, x: Any) -> Any:
        """The output for the only input, both as for :meth:`run`; a dictionary if there are several outputs.

        Raises:
            InputError: The network has several inputs, or the array does not fit.
        """
        if len(self.inputs) != 1:
            names = ", ".join(repr(port.name) for port in self.inputs)
            raise InputError(f"the network takes {len(self.inputs)} inputs, {names}: call run() with a dictionary")
        outputs = self.run({self.inputs[0].name: x})
        return outputs if len(outputs) > 1 else outputs[self.outputs[0].name]

    def report(self) -> Report:
        """What the network consists of, where it was compiled for several targets in the variant for this machine.

        That is the first one if none runs here; :meth:`reports` has those of all.
        """
        if len(self._variants) > 1:
            with contextlib.suppress(TargetError):
                return best_for_this_machine(self._variants).report
        return self._variants[0].report

    def reports(self) -> tuple[Report, ...]:
        """What the network consists of, for every target it was compiled for."""
        return tuple(variant.report for variant in self._variants)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network into one file; an existing file is replaced only once the new one is complete.

        Raises:
            ArtifactError: The file cannot be written.
        """
        artifact.save(self._variants, path)

    def __repr__(self) -> str:
        targets = ", ".join(variant.name for variant in self._variants)
        return f"<Executable {self._library.name} for {targets}: {signature(self._library)}>"


def load(path: str | os.PathLike[str], threads: int | None = None) -> Executable:
    """The network that :meth:`Executable.save` wrote; needs TVM's runtime library, not its compiler.

    Args:
        path: The file. It contains native code: load only files from people you trust.
        threads: As for :class:`Executable`.

    Raises:
        ArtifactError: The file cannot be read, is damaged, was written by another version, or needs another machine.
        TargetError: TVM's runtime library is not found.
    """
    executable = Executable(artifact.load(path), threads)
    executable.start()
    return executable

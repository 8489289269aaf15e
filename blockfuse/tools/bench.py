"""Measure a compiled network side by side with ONNX Runtime in one process.

Both sides alternate in turns of at least 10 ms, so that both meet the same clock and the same neighbours. The first
call of a turn refills caches and wakes threads; it is discarded. So each side is as fast as it is alone, within 2 %
(MobileNetV2 on two threads of a Zen 4 server), as long as no other process wants the cores; what others use is
recorded. The minimum says what the code can do, the median what
a user sees, and a ratio is worth as much as the two figures it is made of, so both are kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from blockfuse.errors import UsageError
from blockfuse.gpu import this_gpu
from blockfuse.report import table
from blockfuse.runtime.executable import Executable
from blockfuse.tools.facts import foreign_seconds, machine_facts
from blockfuse.verification.compare import Array
from blockfuse.verification.verify import placed, reference_session, seeded_inputs

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model

BASELINES = ("onnxruntime",)
"""What can be measured against."""

Call: TypeAlias = Callable[[], object]

_FEWEST_ROUNDS = 3
_WARM_UP = 0.2  # seconds per side
_QUIET = 0.15  # cores


@dataclass(frozen=True)
class Side:
    """Times of one side.

    Attributes:
        name: ``blockfuse`` or the baseline.
        calls: Number of calls timed.
        minimum: Shortest call, milliseconds.
        median: Of all calls, milliseconds.
        p90: The time that 90 % of the calls stay within, milliseconds.
    """

    name: str
    calls: int
    minimum: float
    median: float
    p90: float

    def row(self) -> tuple[str, ...]:
        """The side as cells of a table."""
        return (self.name, str(self.calls), f"{self.minimum:.3f}", f"{self.median:.3f}", f"{self.p90:.3f}")


@dataclass(frozen=True)
class Measurement:
    """Several sides measured in turns.

    Attributes:
        sides: Times by name.
        rounds: Turns per side.
        foreign_load: Cores that other processes kept busy meanwhile; None where the system does not tell.
    """

    sides: Mapping[str, Side]
    rounds: int
    foreign_load: float | None


@dataclass(frozen=True)
class BenchResult:
    """A measurement.

    Attributes:
        network: Name of the model.
        target: What it was compiled for.
        fuse: The policy it was compiled with.
        threads: Threads of each side.
        rounds: Turns per side.
        ours: Times of the compiled network.
        baseline: Times of what it was compared with, or None.
        facts: Device, date and versions.
        foreign_load: Cores that other processes kept busy meanwhile; None where the system does not tell.
    """

    network: str
    target: str
    fuse: str
    threads: int
    rounds: int
    ours: Side
    baseline: Side | None
    facts: Mapping[str, Any]
    foreign_load: float | None = None

    @property
    def ratio(self) -> float | None:
        """Our minimum over that of the baseline: below 1 we are faster."""
        return self.ours.minimum / self.baseline.minimum if self.baseline else None

    @property
    def ratio_of_medians(self) -> float | None:
        """The same for the medians."""
        return self.ours.median / self.baseline.median if self.baseline else None

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON holds it; times are milliseconds."""
        return {**asdict(self), "ratio": self.ratio, "ratio_of_medians": self.ratio_of_medians}

    def __str__(self) -> str:
        threads = f"{self.threads} threads, " if self.target.startswith("cpu") else ""
        head = f"{self.network} for {self.target}, fuse={self.fuse}, {threads}on {self.facts['device']}"
        rows: list[tuple[str, ...]] = [("side", "calls", "min ms", "median ms", "p90 ms")]
        rows += [side.row() for side in (self.ours, self.baseline) if side is not None]
        lines = [head, *table(rows)]
        if self.baseline:
            lines.append(
                f"blockfuse / {self.baseline.name}: {self.ratio:.2f} by minima, {self.ratio_of_medians:.2f} by medians"
            )
        return "\n".join([*lines, *self.warnings()])

    def warnings(self) -> list[str]:
        """What speaks against the figures."""
        if self.foreign_load is None or self.foreign_load < _QUIET:
            return []
        return [f"not worth much: other processes kept {self.foreign_load:.1f} cores busy meanwhile"]


def bench(
    executable: Executable,
    model: Model | None = None,
    baseline: str | None = "onnxruntime",
    rounds: int | None = None,
    seconds: float = 3.0,
    *,
    turn: float = 0.01,
    seed: int = 0,
    batch: int | None = None,
) -> BenchResult:
    """Measure a compiled network, alternating with a baseline.

    The baseline is ONNX Runtime with all graph optimisations, as many threads, and bound inputs and outputs. Its
    threads spin during a run, without which it is up to a quarter slower, and not after it: else they would take the
    cores from ours, whose turn is next.

    On a GPU, inputs and results of both sides stay there, and a call ends when the GPU has ended it. The baseline is
    ONNX Runtime's provider for CUDA.

    Args:
        executable: What to measure.
        model: What it was compiled from, for the baseline.
        baseline: ``onnxruntime``, or None to measure alone.
        rounds: Turns per side; by default as many as fit into ``seconds``, and at least three.
        seconds: How long to measure, without the warm-up.
        turn: Seconds of one turn, in which at least one call is timed.
        seed: Of the inputs.
        batch: Images at a time where the network takes any batch; by default what it was planned for.

    Raises:
        UsageError: An argument is wrong, or there is a baseline and no model.
        BlockfuseError: ONNX Runtime is not installed, or cannot use the GPU.
        ModelError: ONNX Runtime cannot run the model.
    """
    _check(model, baseline, rounds, seconds, turn)
    session = executable.start()
    ports = executable.inputs_for(batch)
    inputs = seeded_inputs(ports, seed)
    device = "cpu" if executable.report().target.startswith("cpu") else "cuda"
    own = _call_on_gpu(executable, inputs) if device == "cuda" else lambda: executable.run(inputs)
    sides: dict[str, Call] = {"blockfuse": own}
    if baseline is not None and model is not None:
        sides[baseline] = onnxruntime_call(model, inputs, session.threads, device)
    measured = measure(sides, rounds, seconds, turn)
    return BenchResult(
        network=executable.report().network,
        target=executable.report().target,
        fuse=executable.report().fuse,
        threads=session.threads,
        rounds=measured.rounds,
        ours=measured.sides["blockfuse"],
        baseline=measured.sides.get(baseline or ""),
        facts=machine_facts() | ({"device": str(this_gpu())} if device == "cuda" else {}),
        foreign_load=measured.foreign_load,
    )


def _check(model: object, baseline: str | None, rounds: int | None, seconds: float, turn: float) -> None:
    if baseline is not None and baseline not in BASELINES:
        raise UsageError(f"unknown baseline {baseline!r}; known are {', '.join(BASELINES)}, or None")
    if baseline is not None and model is None:
        raise UsageError(f"the baseline {baseline} needs the model that the network was compiled from")
    if rounds is not None and rounds < 1:
        raise UsageError(f"rounds must be at least 1, not {rounds}")
    if seconds < 0 or turn < 0:
        raise UsageError("seconds and turn must not be negative")


def _call_on_gpu(executable: Executable, inputs: Mapping[str, Array]) -> Call:
    """A run on a GPU of inputs that are there, until it has ended."""
    session = executable.start()
    run = session.bind(inputs)

    def call() -> None:
        run()
        session.wait()

    return call


# ---- measuring -------------------------------------------------------------------------------------------------------
def measure(
    sides: Mapping[str, Call], rounds: int | None = None, seconds: float = 3.0, turn: float = 0.01
) -> Measurement:
    """Time any number of sides in turns; who starts changes from round to round.

    Args:
        sides: What to call, by name.
        rounds: Turns per side; by default as many as fit into ``seconds``, and at least three.
        seconds: How long to measure, without the warm-up.
        turn: Seconds of one turn, in which at least one call is timed.

    Returns:
        The times of every side, and how trustworthy they are.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        _timed(call, min(_WARM_UP, seconds))
    started, others = time.perf_counter(), foreign_seconds()
    deadline = started + seconds
    order = list(sides)
    done = 0
    while done < rounds if rounds is not None else done < _FEWEST_ROUNDS or time.perf_counter() < deadline:
        for name in order:
            times[name] += _timed(sides[name], turn)
        order.append(order.pop(0))
        done += 1
    spent, meanwhile = time.perf_counter() - started, foreign_seconds()
    load = None if others is None or meanwhile is None else round(max(0.0, meanwhile - others) / spent, 2)
    return Measurement({name: _side(name, values) for name, values in times.items()}, done, load)


def _timed(call: Call, turn: float) -> list[float]:
    """Seconds of the calls of one turn after the first."""
    call()
    times: list[float] = []
    now = time.perf_counter()
    end = now + turn
    while not times or now < end:
        started = now
        call()
        now = time.perf_counter()
        times.append(now - started)
    return times


def _side(name: str, times: list[float]) -> Side:
    ordered = sorted(times)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return Side(name, len(times), 1e3 * ordered[0], 1e3 * statistics.median(ordered), 1e3 * p90)


def onnxruntime_call(model: Model, inputs: Mapping[str, Array], threads: int, device: str = "cpu") -> Call:
    """One run of a model in optimised ONNX Runtime, with inputs and outputs in place.

    Args:
        model: The model.
        inputs: By name.
        threads: Threads inside operators.
        device: Where to run it, ``cpu`` or ``cuda``.

    Raises:
        UsageError: The inputs are not those of the model.
        BlockfuseError: ONNX Runtime is not installed, or cannot use the GPU.
        ModelError: It cannot run the model.
    """
    from blockfuse.frontend.load import load  # noqa: PLC0415 - loads onnx

    proto = load(model)
    session = reference_session(proto, threads, optimised=True, device=device)
    unknown = inputs.keys() ^ {value.name for value in session.get_inputs()}
    if unknown:
        raise UsageError(f"input {min(unknown)!r}: the network was compiled from another model")
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, placed(array, device))
    for value in session.get_outputs():
        binding.bind_output(value.name, device)
    return lambda: session.run_with_iobinding(binding)

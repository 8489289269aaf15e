"""Two known networks, compiled, verified and timed, as one table; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blockfuse.compiler import compile as compile_model
from blockfuse.report import Report, table
from blockfuse.tools.bench import BenchResult, bench
from blockfuse.verification.verify import Verification, has_gpu_reference, verify
from blockfuse.watch import Progress


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        report: On the network as it is timed.
        verification: Of its outputs and of every block.
        measurement: Against ONNX Runtime.
    """

    report: Report
    verification: Verification
    measurement: BenchResult

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        report, measured = self.report, self.measurement
        fused = sum(block.is_fused for block in report.blocks)
        theirs = (f"{measured.baseline.minimum:.2f} ms", f"{measured.ratio:.2f}") if measured.baseline else ("-", "-")
        return (
            report.network,
            str(len(report.blocks)),
            str(fused),
            f"{report.unfused_kernels} -> {report.kernel_count}",
            f"{report.saved_bytes / 1e6:.1f} MB",
            f"{self.verification.max_rel:.1e}",
            f"{len(self.verification.blocks)} of {len(report.blocks)}",
            f"{measured.ours.minimum:.2f} ms",
            *theirs,
        )


@dataclass(frozen=True)
class Demo:
    """The table."""

    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON holds it."""
        return {
            "networks": [
                {
                    "report": row.report.to_dict(),
                    "verification": row.verification.to_dict(),
                    "measurement": row.measurement.to_dict(),
                }
                for row in self.rows
            ]
        }

    def __str__(self) -> str:
        head = ("network", "blocks", "fused", "kernels", "kept on chip", "max error", "blocks right")
        times = ("blockfuse", "ONNX Runtime", "ratio")
        measured = self.rows[0].measurement
        under = (
            f"{measured.facts['device']}, {measured.target}, {measured.threads} threads; times are the shortest of all "
            "calls, taken in turns; ratio is blockfuse / ONNX Runtime; errors are relative to the largest output"
        )
        warnings = dict.fromkeys(line for row in self.rows for line in row.measurement.warnings())
        return "\n".join([*table([(*head, *times), *(row.cells() for row in self.rows)]), under, *warnings])


def show(
    progress: Progress | None = None,
    *,
    seconds: float = 2.0,
    size: int = 224,
    threads: int | None = None,
    target: str = "cpu",
) -> Demo:
    """Compile, verify and time ResNet-18 and MobileNetV2 with seeded weights.

    Args:
        progress: Called with what is done next, how many tasks are done, and how many there are.
        seconds: How long to time each network.
        size: Height and width of the images.
        threads: Threads to use; by default one per core.
        target: What to run on. GPUs compute in half precision, compared with an ONNX Runtime that can use them.

    Raises:
        VerificationError: A result is outside its tolerance.
        BlockfuseError: ONNX Runtime is not installed.
    """
    from blockfuse.frontend.zoo import mobilenet_v2, resnet18  # noqa: PLC0415 - loads onnx

    tell = progress or _say_nothing
    on_cpu = target.startswith("cpu")
    options: dict[str, Any] = {"target": target, "threads": threads, "dtype": None if on_cpu else "float16"}
    compared = on_cpu or has_gpu_reference()
    networks = {"ResNet-18": resnet18, "MobileNetV2": mobilenet_v2}
    total = 3 * len(networks)
    rows = []
    for number, (name, make) in enumerate(networks.items()):
        model = make(size=size)
        tell(f"compiling {name}", 3 * number, total)
        executable = compile_model(model, **options)
        tell(f"verifying {name}, every block", 3 * number + 1, total)
        verification = verify(model, **options, per_block=True)
        tell(f"timing {name}", 3 * number + 2, total)
        measured = bench(executable, model, "onnxruntime" if compared else None, seconds=seconds)
        rows.append(Row(executable.report(), verification, measured))
    tell("done", total, total)
    return Demo(tuple(rows))


def _say_nothing(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""

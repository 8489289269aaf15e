"""Networks and blocks on a GPU against PyTorch, from a folder that ``benchmarks/gpu_export.py`` wrote.

    python benchmarks/gpu.py FOLDER [--only NETWORK ...] [--batch N ...] [--part networks|blocks] [--minutes 8]

Needs a Python with PyTorch and numpy; neither ONNX nor TVM's compiler. All sides of a figure take turns in one process:
ours fused and unfused (the same instructions, a kernel per convolution), PyTorch eager with channels last, and
``torch.compile`` recorded as a CUDA graph, all in half precision. Every side is compared with PyTorch in float32 first;
what is wrong is not timed. Results are written after each network and block, so a run that is stopped loses one of
them; what the file has already is skipped, unless it lacks a side (``--again`` measures anew). Whole networks of ours
start from float32 N, C, H, W images, which PyTorch's sides are spared: our two conversions are in our times. Blocks
start from half precision with channels last on all sides, each recorded as one CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cuda_driver import Cuda  # noqa: E402 - the path comes first
from benchmarks.gpu_measure import CONVENTION, EventClock, HostClock, facts, gpu_state, measure  # noqa: E402
from benchmarks.gpu_parts import BlockPart, NetworkPart, Setting  # noqa: E402
from benchmarks.gpu_sides import TORCH_COMPILE, TORCH_EAGER, constants_in, read_json, use_runtime  # noqa: E402

Json = dict[str, Any]

SIDES = ("fused", "unfused", TORCH_EAGER, TORCH_COMPILE)
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line says and the results lack; the exit code is 1 if a side is wrong."""
    options = parse(arguments)
    index = read_json(options.folder / "export.json")
    use_runtime(options.folder)
    setting = setting_of(options, index)
    results = Results(options.output or RESULTS / f"gpu_{options.name}.json", setting, index, options)
    deadline = time.monotonic() + 60 * options.minutes
    wrong = 0
    for key, run in parts(setting, index, options):
        if results.has(key, options.sides) and not options.again:
            continue
        if time.monotonic() > deadline:
            print(f"stopped after {options.minutes} minutes before {' '.join(map(str, key))}; run it again to go on")
            break
        record = run()
        results.add(key, record)
        print(line(key, record), flush=True)
        wrong += bool(record["wrong"])
    return 1 if wrong else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Networks and blocks on a GPU against PyTorch.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these networks (default: all exported)")
    parser.add_argument("--batch", nargs="+", type=int, help="these batch sizes (default: all exported)")
    parser.add_argument("--part", choices=["networks", "blocks"], help="default: both")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), metavar="SIDE", help=f"of {', '.join(SIDES)}")
    parser.add_argument("--mode", default="max-autotune-no-cudagraphs", help="of torch.compile; graphs are ours")
    parser.add_argument(
        "--torch-device", choices=["cuda", "cpu"], help="cpu to rehearse where the GPU is a stand-in (default: as ours)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring each figure (default: 3)")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after that (default: 8)")
    parser.add_argument("--name", default="h200", help="of the result file, gpu_NAME.json")
    parser.add_argument("--output", type=Path, help="another result file")
    parser.add_argument("--again", action="store_true", help="measure also what the result file has")
    return parser.parse_args(arguments)


def setting_of(options: argparse.Namespace, index: Json) -> Setting:
    """Where and how to measure: PyTorch's device and clock, or without it the processor's clock."""
    torch = None
    if any(side.startswith("torch") for side in options.sides):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.folder.resolve() / "inductor"))
        import torch  # noqa: PLC0415 - not a dependency of the project

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
    cuda = None if index["target"].startswith("cpu") else Cuda()
    device = options.torch_device or ("cpu" if cuda is None else "cuda")
    clock = EventClock(torch) if torch is not None and device == "cuda" else HostClock(cuda and cuda.synchronize)
    return Setting(
        folder=options.folder,
        dtype=index["dtype"],
        sides=tuple(options.sides),
        fused=next(policy for policy in index["policies"] if policy != "never"),
        torch=torch,
        cuda=cuda,
        torch_device=device,
        mode=options.mode,
        time=lambda sides: measure(sides, clock, options.seconds),
    )


def parts(
    setting: Setting, index: Json, options: argparse.Namespace
) -> Iterator[tuple[tuple[Any, ...], Callable[[], Json]]]:
    """Everything to measure, networks first, by key."""
    chosen = [
        (one["network"], one["batch"])
        for one in index["networks"]
        if one["network"] in (options.only or [one["network"]]) and one["batch"] in (options.batch or [one["batch"]])
    ]
    if options.part != "blocks":
        for name, batch in chosen:
            part = NetworkPart(setting, name, batch)
            yield ("network", name, batch), lambda part=part, name=name: part.run(constants_in(setting.folder / name))
    for name, batch in chosen if options.part != "networks" else ():
        path = setting.folder / name / f"b{batch}" / "blocks" / "blocks.json"
        for block in read_json(path) if path.exists() else ():
            run = BlockPart(setting, name, batch, block)
            key = ("block", name, batch, block["name"])
            yield key, lambda run=run, name=name: run.run(constants_in(setting.folder / name))


class Results:
    """A file of results that is complete after every part.

    Args:
        path: The file; what it has already is kept.
        setting: Where it is measured.
        index: Of what was exported.
        options: The command line.
    """

    def __init__(self, path: Path, setting: Setting, index: Json, options: argparse.Namespace) -> None:
        self._path = path
        self._setting = setting
        old = read_json(path) if path.exists() else {"records": []}
        self._records = {tuple(record["key"]): record for record in old["records"]}
        self._head = {
            "command": f"python benchmarks/gpu.py {options.folder.name}",
            "convention": CONVENTION,
            "compiled": {"for": index["target"], "with": index["compiled_with"]},
            "sides": {"fused": f"fuse={setting.fused}", "unfused": "fuse=never", TORCH_COMPILE: options.mode},
        }

    def has(self, key: tuple[Any, ...], sides: Sequence[str]) -> bool:
        """Whether there is a record with all these sides, measured or found wrong or failing."""
        record = self._records.get(key)
        return record is not None and set(sides) <= {*record["times"], *record["wrong"], *record["failed"]}

    def add(self, key: tuple[Any, ...], record: Json) -> None:
        """Keep a record and write the file."""
        device, arch = self._setting.device
        where = {"measured": facts(device, arch), "state_after": gpu_state()}
        self._records[key] = {"key": list(key), **where, **record}
        text = json.dumps({**self._head, "records": list(self._records.values())}, indent=1, allow_nan=False)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(self._path)


def line(key: tuple[Any, ...], record: Json) -> str:
    """A record as text."""
    times = "  ".join(f"{name} {side['minimum']:.4f}/{side['median']:.4f}" for name, side in record["times"].items())
    pairs = "  ".join(
        f"{name}: {one['of_minima']:.2f}/{one['of_medians']:.2f}" for name, one in record["ratios"].items()
    )
    wrong = "".join(f"  WRONG: {name}" for name in record["wrong"])
    wrong += "".join(f"  failed: {name}: {why}" for name, why in record["failed"].items())
    return f"{' '.join(map(str, key))}: min/median ms: {times}; ratios: {pairs}{wrong}"


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())

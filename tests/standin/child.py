"""What runs in the process of its own: ``python -m tests.standin.child CONTAINER FOLDER ARCH``."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tests.standin.libraries import StandIn


def main(container: str, folder: Path, arch: str) -> None:
    """Call the network with every ``in_<n>.npz`` of the folder; results go there, too."""
    device = StandIn(arch, **json.loads((folder / "device.json").read_text()))
    import blockfuse  # noqa: PLC0415 - the device comes first

    seconds, calls, error, ran = [], [], "", ""
    try:
        network = blockfuse.load(container)
        ran = network.report().target
        for number in range(len(list(folder.glob("in_*.npz")))):
            with np.load(folder / f"in_{number}.npz") as data:
                inputs = dict(data)
            started = time.perf_counter()
            outputs = network.run(inputs)
            seconds.append(time.perf_counter() - started)
            calls += [number] * (len(device.launches) - len(calls))
            np.savez(folder / f"out_{number}.npz", **outputs)
    except Exception as exception:  # noqa: BLE001 - reported to the test
        error = f"{type(exception).__name__}: {exception}"
        calls += [len(seconds)] * (len(device.launches) - len(calls))
    launches = [
        {
            **launch._asdict(),
            "findings": [(f.kind, f.first) for f in launch.findings],
            "counters": asdict(launch.counters),
            "call": call,
        }
        for launch, call in zip(device.launches, calls, strict=True)
    ]
    result = {
        "seconds": seconds,
        "launches": launches,
        "error": error,
        "ran": ran,
        "graph_launches": device.statistics().graph_launches,
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])

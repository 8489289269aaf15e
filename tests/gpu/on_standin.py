"""Runs a script for GPUs on the stand-in device, to see that it works: ``python -m tests.gpu.on_standin SCRIPT ...``.

The exit code is the script's; 9 if the emulator found something in a kernel that ran.
"""

from __future__ import annotations

import runpy
import sys

from tests.standin.libraries import StandIn

_FOUND = 9


def main(script: str, arguments: list[str], arch: str = "sm_90") -> int:
    """Run it; what the emulator finds is printed after the script's own lines."""
    device = StandIn(arch)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    findings = {
        (launch.kernel, finding.kind, finding.first) for launch in device.launches for finding in launch.findings
    }
    sys.stdout.write("".join(f"{kernel}: {kind}: {text}\n" for kernel, kind, text in sorted(findings)))
    sys.stdout.write(f"{len(device.launches)} launches\n")
    return _FOUND if findings else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

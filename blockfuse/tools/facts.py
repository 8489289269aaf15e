"""What a measurement needs to be understood later: processor, date, versions."""

from __future__ import annotations

import os
import platform
import re
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from blockfuse.target import available_cores, best_cpu

PACKAGES = ("blockfuse", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime")
"""Distributions whose versions decide what was measured."""


def machine_facts() -> dict[str, Any]:
    """Device, date (UTC) and versions, as JSON holds them."""
    return {
        "device": cpu_model(),
        "class": best_cpu().name,
        "cores": available_cores(),
        "load": round(load(), 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {package: version(package) for package in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name, and where the system tells them its family and model, which virtual machines keep."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def load() -> float:
    """Processes that wanted to run during the last minute, on average; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def foreign_seconds() -> float | None:
    """Processor seconds that other processes have used since some moment; None where the system does not tell.

    Its growth over a time span, per second, is the number of cores that others kept busy: near 0 where times are worth
    comparing.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split()[1:9]
        user, nice, system, _idle, _wait, *more = map(int, fields)
        return float((user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")) - time.process_time()
    except (OSError, ValueError):
        return None


def version(package: str) -> str | None:
    """The version of an installed distribution; None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package != "blockfuse":
            return None
    from blockfuse import __version__  # noqa: PLC0415 - a checkout that is not installed

    return __version__

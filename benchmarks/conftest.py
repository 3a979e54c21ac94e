from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rivals import DEVICE, THREADS


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(THREADS)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.machine()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keeps what a reader of the table needs: no raw samples, nothing that names one machine's owner."""
    output_json["machine_info"] = {
        "device": torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else _cpu_name(),
        "threads": THREADS,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    output_json["commit_info"] = {"id": output_json["commit_info"].get("id")}
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
        entry.pop("params", None)

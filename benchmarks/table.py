"""Writes the benchmark tables of README.md from the committed results: `python benchmarks/table.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
OURS = "recon_engine"
# The files of benchmarks/results/<machine>, and what the first column of their tables says.
TITLES = {
    "render": "rendering meshes",
    "rasterize": "rasterising meshes",
    "blending": "blending",
    "points_render": "rendering points",
    "volumes": "rays and volumes",
    "neighbours": "neighbours",
    "point_mesh": "points, rays, boxes and meshes",
    "mesh_ops": "mesh operators and losses",
    "compile": "steps through torch.compile",
    "overhead": "calls on next to nothing",
}

Entry = dict[str, Any]


def tables() -> str:
    """The tables of each machine, one for each topic, in the order of importance."""
    results = (ROOT / "benchmarks/results").iterdir()
    machines = sorted(folder for folder in results if folder.name not in ("growth", "quality"))
    return "\n\n".join(_machine(folder) for folder in machines)


def updated(readme: str) -> str:
    """The text of README.md with the tables between its markers written again."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _machine(folder: Path) -> str:
    topics = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    machines = {json.dumps(results["machine_info"]) for results in topics.values()}
    assert len(machines) == 1, f"{folder} holds results of several machines: {machines}"
    machine = json.loads(machines.pop())
    setting = f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}"
    lines = [f"{machine['device']}, {setting}:"]
    lines += [_table(title, topics.pop(topic)) for topic, title in TITLES.items() if topic in topics]
    assert not topics, f"no title for {sorted(topics)}"
    return "\n\n".join(lines)


def _table(title: str, results: Entry) -> str:
    cases: dict[str, dict[str, Entry]] = {}
    for entry in results["benchmarks"]:
        cases.setdefault(entry["group"], {})[entry["extra_info"]["rival"]] = entry["extra_info"]
    lines = [
        f"| {title} | recon_engine | PyTorch3D | ratio | others | of the limit |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(case, rivals) for case, rivals in cases.items() if OURS in rivals]
    return "\n".join(lines)


def _row(case: str, rivals: dict[str, Entry]) -> str:
    ours, theirs = rivals[OURS], rivals.get("pytorch3d")
    others = [
        f"{name} {_time(entry['seconds'])} ({_round(entry['ratio'])}x{_breaks(entry)})"
        for name, entry in rivals.items()
        if name not in (OURS, "pytorch3d")
    ]
    limit = f"{ours['fraction_of_limit']:.1%}" if "fraction_of_limit" in ours else ""
    row = f"| {case} | {_measures(ours)} | {_measures(theirs) if theirs else ''} | {_ratio(ours, theirs)} "
    return f"{row}| {', '.join(others)} | {limit} |"


def _breaks(entry: Entry) -> str:
    return f", {entry['graph_breaks']} graph breaks" if "graph_breaks" in entry else ""


def _measures(entry: Entry) -> str:
    text = _time(entry["seconds"])
    if "seconds_each" in entry:
        text += f" ({_time(entry['seconds_each'])} per {entry['each']})"
    if "peak_bytes" in entry:
        text += f", {entry['peak_bytes'] / 1e6:.3g} MB"
    return text


def _ratio(ours: Entry, theirs: Entry | None) -> str:
    if theirs is None:
        return ""
    text = f"**{_round(theirs['ratio'])}x**"
    if "peak_bytes" in ours:
        text += f", memory {_round(theirs['peak_bytes'] / max(ours['peak_bytes'], 1))}x"
    return text


def _round(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):g}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    assert re.search(f"{BEGIN}.*{END}", text, re.DOTALL), "README.md has lost the markers of its tables"
    readme.write_text(updated(text))

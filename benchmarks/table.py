"""Writes the benchmark tables from the committed results, some rows into README.md: `python benchmarks/table.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
# What README.md shows: for each topic what most users wait for, and where the gain is least.
CHOSEN = (
    "soft Phong, vertex colours, forward + backward, ico_sphere(4), 256x256, K=50",
    "hard Phong, UV texture, forward, cow, 512x512",
    "soft silhouette through MeshRenderer, forward + backward, 256x256, K=50",
    "one iteration of `recon build` at its defaults",
    "rasterize_meshes forward, ico_sphere(5), 512x512, K=8",
    "softmax_rgb_blend forward + backward alone, 256x256, K=50",
    "rasterize_points, 100k points, 256x256, K=10",
    "alpha_composite forward, C=64, K=10, 128x128",
    "PointsRenderer forward + backward, 100k points, 256x256, K=10",
    "pulsar, 100k spheres, 512x512",
    "VolumeRenderer forward + backward, 128^3 voxels, 128 x 128 x 150",
    "emission-absorption forward + backward, 16k rays x 128 x RGB",
    "sample_pdf, 16k rays x 128 bins x 128 evenly spaced quantiles",
    "chamfer forward + backward, 10k x 10k points",
    "knn_points, 10k x 10k, K=8",
    "sample_farthest_points, 1024 of 16384",
    "Laplacian + edge + normal losses forward + backward, ico_sphere(6), topology shared",
    "point_mesh_face forward + backward, 5000 points x 3000 faces",
    "signed distance, 5000 points x 5120 faces",
    "box3d_overlap, 64 x 64 boxes",
    "marching_cubes, 256^3 ball",
    "chamfer of 5000 samples and three regularisers, forward + backward, ico_sphere(4)",
    "MeshRasterizer, 1 triangle, 64x64",
)

Entry = dict[str, Any]
Cases = dict[str, dict[str, Entry]]


def tables() -> str:
    """The tables of each machine, one for each topic, in the order of importance."""
    return "\n\n".join(
        "\n\n".join([setting, *(_table(title, cases) for title, cases in topics.items())])
        for setting, topics in _machines()
    )


def highlights() -> str:
    """One table for each machine, of the chosen cases."""
    lines = []
    for setting, topics in _machines():
        known = {case: rivals for cases in topics.values() for case, rivals in cases.items()}
        missing = sorted(set(CHOSEN) - set(known))
        assert not missing, f"there is no result of {missing[0]!r}"
        lines += [setting, _table("", {case: known[case] for case in CHOSEN})]
    return "\n\n".join(lines)


WRITTEN = {"README.md": highlights, "docs/performance.md": tables}


def updated(page: str) -> str:
    """The text of a page of `WRITTEN` with what is between its markers written again."""
    before, rest = (ROOT / page).read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{WRITTEN[page]()}\n{END}{after}"


def _machines() -> Iterator[tuple[str, dict[str, Cases]]]:
    """For each machine what it is and, for each title, the entries of each case by rival."""
    folders = (ROOT / "benchmarks/results").iterdir()
    for folder in sorted(folder for folder in folders if folder.name not in ("growth", "quality", "twins")):
        topics = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        machines = {json.dumps(results["machine_info"]) for results in topics.values()}
        assert len(machines) == 1, f"{folder} holds results of several machines: {machines}"
        machine = json.loads(machines.pop())
        setting = f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}"
        cases = {title: _cases(topics.pop(topic)) for topic, title in TITLES.items() if topic in topics}
        assert not topics, f"no title for {sorted(topics)}"
        yield f"{machine['device']}, {setting}:", cases


def _cases(results: Entry) -> Cases:
    cases: Cases = {}
    for entry in results["benchmarks"]:
        cases.setdefault(entry["group"], {})[entry["extra_info"]["rival"]] = entry["extra_info"]
    return cases


def _table(title: str, cases: Cases) -> str:
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
        text += f", {_memory(entry['peak_bytes'])}"
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


def _memory(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


if __name__ == "__main__":
    for page in WRITTEN:
        (ROOT / page).write_text(updated(page), encoding="utf-8")

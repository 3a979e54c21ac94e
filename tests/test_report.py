from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from recon_engine.report import Number, Picture, Report, versions

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
VOID = {"meta", "link", "img", "line"}


class Page(HTMLParser):
    """Checks that tags nest, and collects addresses and tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def full_report() -> str:
    report = Report("Title <x>", "Lead & more")
    report.notice("Stopped early")
    report.numbers([Number("IoU", "0.98", "mean"), Number("Time", "2 s")])
    report.section("Pictures", "Text")
    report.key({"both": "rgb(1, 2, 3)"})
    report.pictures([Picture(PIXEL, "one <dot>", "dot"), Picture(b"GIF89a", "moving", wide=True)])
    report.table(["view", "IoU"], [["view 1", "0.5"], ["view 2", "-1"]], bars=[0.5, 7.0])
    report.losses({"total": [1.0, 0.1, 0.01], "a": [0.5, 0.0, 0.005]})
    report.appendix({"seed": 0}, {"mesh.obj": "the mesh"})
    return report.html()


def test_page_is_well_formed_and_escaped():
    html = full_report()
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert "Title &lt;x&gt;" in html
    assert "Lead &amp; more" in html
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert ("html", {"lang": "en"}) in page.tags


def test_page_needs_no_network():
    page = Page(full_report())
    addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert addresses
    assert all(address.startswith("data:") or address == "mesh.obj" for address in addresses)
    assert "@import" not in full_report()
    assert "url(" not in full_report()
    assert not any(tag == "script" for tag, _ in page.tags)


def test_pictures_carry_their_bytes_and_words():
    images = [attrs for tag, attrs in Page(full_report()).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["one <dot>", "moving"]
    assert base64.b64decode(images[0]["src"].removeprefix("data:image/png;base64,")) == PIXEL
    assert images[1]["src"].startswith("data:image/gif;base64,")


def test_bars_stay_inside_their_cells():
    assert re.findall(r"width:([\d.]+)%", full_report().split("</style>")[1]) == ["50.0", "100.0"]


def test_curves_stay_inside_the_chart():
    report = Report("t", "l")
    report.chart({"total": [10.0 ** -(i % 7) for i in range(5000)]}, "falls")
    path = re.search(r'<path d="M([^"]+)"', report.html())[1]
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert 100 < len(points) <= 240
    assert all(62 <= x <= 948 and 10 <= y <= 306 for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan")], [1.0], [2.0, 2.0]])
def test_chart_of_little_or_nothing(values):
    report = Report("t", "l")
    report.losses({"total": values})
    html = report.html()
    Page(html)
    assert ("No iteration was recorded" in html) == (not any(v > 0 for v in values))


def test_versions_name_torch_and_python(tmp_path):
    import torch

    found = versions()
    assert found["torch"] == torch.__version__
    assert {"recon_engine", "Python", "system", "threads"} < set(found)
    Report("t", "Größe").save(tmp_path / "r.html")
    assert "Größe" in (tmp_path / "r.html").read_text(encoding="utf-8")

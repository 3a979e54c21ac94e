"""A run as one self-contained HTML file: styles inline, pictures as data URIs, nothing fetched, readable offline.

The page follows the reader's light or dark scheme, fits any width, and describes every picture in words.
"""

from __future__ import annotations

import base64
import math
import platform
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

_STYLE = """
:root{color-scheme:light dark;--page:#f7f6f3;--card:#fff;--plate:#f1efea;--ink:#1d2129;--soft:#5c6470;--line:#e1ded7;
--accent:#0a63a8;--s0:#1d2129;--s1:#0072b2;--s2:#b06f00;--s3:#00805c;--s4:#b04a8a;--s5:#7a6a53}
@media (prefers-color-scheme:dark){:root{--page:#14171c;--card:#1c2027;--plate:#262b34;--ink:#e9e7e2;--soft:#a2a9b4;
--line:#323843;--accent:#6cb6f0;--s0:#f3f1ec;--s1:#56b4e9;--s2:#e6a532;--s3:#2fbf94;--s4:#dd8fc0;--s5:#b8a78c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:56px}
h1{font-size:clamp(1.75rem,4vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:.2em 0 .35em}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:56px 0 6px}
p{margin:0 0 14px;max-width:80ch}.lead{font-size:1.1rem;color:var(--soft)}.soft{color:var(--soft)}
.over{color:var(--accent);font-weight:600;letter-spacing:.04em;font-size:.85rem}
.notice{border-left:4px solid var(--s2);background:var(--card);padding:12px 16px;border-radius:0 8px 8px 0}
dl.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:28px 0 0}
dl.numbers div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
dl.numbers dt{color:var(--soft);font-size:.88rem}
dl.numbers dd{margin:2px 0 0;font-size:1.6rem;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums;
line-height:1.25}
dl.numbers dd.note{font-size:.8rem;font-weight:400;letter-spacing:0;color:var(--soft);line-height:1.4}
.grid{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(min(46%,var(--cell)),1fr))}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden}
@media (min-width:560px){figure.wide{grid-column:span 2}}
figure img{display:block;width:100%;height:auto;background:var(--plate)}
figcaption{padding:8px 12px;font-size:.85rem;color:var(--soft);font-variant-numeric:tabular-nums}
.chart{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 16px 10px}
.chart svg{display:block;width:100%;height:auto}
.chart text{fill:var(--soft);font-size:12px}.chart .rule{stroke:var(--line)}
.chart path{fill:none;stroke-width:1.6;stroke-linejoin:round}
.key{display:flex;flex-wrap:wrap;gap:4px 20px;margin:6px 0 12px;padding:0;list-style:none;font-size:.88rem;
color:var(--soft)}
.key i{display:inline-block;width:14px;height:14px;border-radius:4px;margin-right:7px;vertical-align:-2px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 16px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td,tr:last-child th{border-bottom:0}
thead th{color:var(--soft);font-weight:600;font-size:.82rem}tbody th{font-weight:500;white-space:nowrap}
td.number,th.number{text-align:right;white-space:nowrap}
td.bar{width:40%;min-width:140px;vertical-align:middle}
td.bar span{display:block;height:9px;border-radius:5px;background:var(--accent)}
details,.scroll+.grid,.grid+.chart{margin-top:12px}summary{cursor:pointer;color:var(--accent);font-weight:600}
details>*:not(summary){margin-top:12px}
footer{color:var(--soft);font-size:.85rem;padding-top:40px;padding-bottom:56px}
a{color:var(--accent)}:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
@media print{body{background:#fff}figure,.chart,tr{break-inside:avoid}}
"""

_CHART_WIDTH, _CHART_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 340, 62, 12, 10, 34
_CHART_POINTS = 240


class Picture(NamedTuple):
    """A picture of a report.

    Fields:
        data: bytes of a PNG or GIF file.
        alt: what it shows, for readers who cannot see it.
        caption: the line under it; none when empty.
        wide: takes two cells of the grid.
    """

    data: bytes
    alt: str
    caption: str = ""
    wide: bool = False


class Number(NamedTuple):
    """A headline number of a report.

    Fields:
        name: what was measured.
        value: as it is to be shown.
        note: a short explanation; none when empty.
    """

    name: str
    value: str
    note: str = ""


class Report:
    """Collects the parts of a page in order.

    Args:
        title: the heading.
        lead: one or two sentences below it.

    Example:
        >>> report = Report("A fit", "What was done.")
        >>> report.numbers([Number("IoU", "0.98")])
        >>> "<dd>0.98</dd>" in report.html()
        True
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.lead = lead
        self._parts: list[str] = []

    def notice(self, text: str) -> None:
        """A paragraph that must not be overlooked."""
        self._parts.append(f'<p class="notice" role="note">{escape(text)}</p>')

    def section(self, title: str, text: str = "") -> None:
        """Begin a section; what follows belongs to it."""
        paragraph = f'<p class="soft">{escape(text)}</p>' if text else ""
        self._parts.append(f"<h2>{escape(title)}</h2>{paragraph}")

    def numbers(self, numbers: Sequence[Number]) -> None:
        """Headline numbers, side by side."""
        cells = "".join(
            f"<div><dt>{escape(n.name)}</dt><dd>{escape(n.value)}</dd>"
            + (f'<dd class="note">{escape(n.note)}</dd>' if n.note else "")
            + "</div>"
            for n in numbers
        )
        self._parts.append(f'<dl class="numbers">{cells}</dl>')

    def key(self, entries: Mapping[str, str]) -> None:
        """A legend: CSS colour for each text."""
        rows = "".join(f'<li><i style="background:{escape(c)}"></i>{escape(text)}</li>' for text, c in entries.items())
        self._parts.append(f'<ul class="key">{rows}</ul>')

    def pictures(self, pictures: Sequence[Picture], cell: int = 300) -> None:
        """Pictures in a grid whose cells are at least `cell` pixels wide."""
        figures = "".join(_figure(picture) for picture in pictures)
        self._parts.append(f'<div class="grid" style="--cell:{cell}px">{figures}</div>')

    def chart(self, table: Mapping[str, Sequence[float]], alt: str) -> None:
        """Curves over iterations on a logarithmic axis; long ones are averaged in bins."""
        self._parts.append(_chart(table, alt))

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, bars: Sequence[float] = (), summary: str = ""
    ) -> None:
        """A table; the first column names its row.

        Args:
            header: one title for each column.
            rows: the cells.
            bars: a number from 0 to 1 for each row, drawn beside it.
            summary: fold the table away under this text.
        """
        # A title stands over its column: to the right where there is a number in it.
        numbers = [next((row[i] for row in rows if _number_class(i, row[i])), "") for i in range(len(header))]
        titles = enumerate(zip(header, numbers, strict=True))
        head = "".join(f'<th scope="col"{_number_class(i, cell)}>{escape(title)}</th>' for i, (title, cell) in titles)
        head += '<th scope="col" aria-hidden="true"></th>' if bars else ""
        body = []
        for index, (first, *others) in enumerate(rows):
            cells = "".join(f"<td{_number_class(i + 1, cell)}>{escape(cell)}</td>" for i, cell in enumerate(others))
            if bars:
                width = 100 * min(max(bars[index], 0), 1)
                cells += f'<td class="bar" aria-hidden="true"><span style="width:{width:.1f}%"></span></td>'
            body.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
        html = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        self._parts.append(f"<details><summary>{escape(summary)}</summary>{html}</details>" if summary else html)

    def files(self, files: Mapping[str, str]) -> None:
        """What else lies beside the report: file names and what they hold."""
        rows = "".join(
            f'<tr><th scope="row"><a href="{escape(name)}">{escape(name)}</a></th><td>{escape(text)}</td></tr>'
            for name, text in files.items()
        )
        self._parts.append(f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>')

    def losses(self, table: Mapping[str, Sequence[float]]) -> None:
        """The section of loss curves.

        Args:
            table: the weighted sum as `total`, and every loss.
        """
        self.section("Losses", "Each loss before its weight, and the weighted total. Long runs are averaged in bins.")
        total = table["total"]
        ends = f" The total goes from {total[0]:.3g} to {total[-1]:.3g}." if total else ""
        self.chart(table, f"Losses over {len(total)} iterations.{ends}")

    def appendix(self, settings: Mapping[str, object], files: Mapping[str, str]) -> None:
        """The last sections: settings, versions, and the files beside the report."""
        self.section("Settings and versions")
        self.table(["setting", "value"], [[k, str(v)] for k, v in settings.items()], summary="Settings")
        self.table(["part", "version"], list(versions().items()), summary="Versions")
        self.section("Files beside this page")
        self.files(files)

    def html(self) -> str:
        """The whole page."""
        made = time.strftime("%Y-%m-%d %H:%M")
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{escape(self.title)}</title><style>{_STYLE}</style></head><body>'
            f'<header><div class="over">recon_engine</div><h1>{escape(self.title)}</h1>'
            f'<p class="lead">{escape(self.lead)}</p></header>'
            f"<main>{''.join(self._parts)}</main>"
            f"<footer>Made by recon_engine on {made}. This file holds everything it shows.</footer></body></html>\n"
        )

    def save(self, path: Path | str) -> None:
        """Write the page as UTF-8."""
        Path(path).write_text(self.html(), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the machine it was made on."""
    import torch

    from recon_engine import __version__

    return {
        "recon_engine": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


def _number_class(column: int, cell: str) -> str:
    """Right-align numeric columns."""
    return ' class="number"' if column and cell[:1] in "0123456789+-." else ""


def _figure(picture: Picture) -> str:
    kind = "gif" if picture.data[:3] == b"GIF" else "png"
    uri = f"data:image/{kind};base64,{base64.b64encode(picture.data).decode()}"
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    wide = ' class="wide"' if picture.wide else ""
    return f'<figure{wide}><img src="{uri}" alt="{escape(picture.alt)}">{caption}</figure>'


def _chart(table: Mapping[str, Sequence[float]], alt: str) -> str:
    """An SVG of curves, with its key."""
    curves = {name: _binned(values) for name, values in table.items()}
    curves = {name: points for name, points in curves.items() if len(points) > 0}
    if not curves:
        return '<p class="soft">No iteration was recorded.</p>'
    values = [y for points in curves.values() for _, y in points]
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = low - 0.05 * (high - low) - 0.02, high + 0.05 * (high - low) + 0.02
    last = max(max(len(column) for column in table.values()) - 1, 1)

    def x_of(iteration: float) -> float:
        return _LEFT + (_CHART_WIDTH - _LEFT - _RIGHT) * iteration / last

    def y_of(value: float) -> float:
        return _TOP + (_CHART_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(value)) / (high - low)

    marks = []
    for value in _log_ticks(low, high):
        y = y_of(value)
        marks.append(f'<line class="rule" x1="{_LEFT}" x2="{_CHART_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for iteration in _ticks(last):
        anchor = "end" if iteration > 0.97 * last else "middle"
        x, y = x_of(iteration), _CHART_HEIGHT - _BOTTOM + 20
        marks.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{iteration}</text>')
    for i, points in enumerate(curves.values()):
        line = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)
        marks.append(f'<path d="M{line}" style="stroke:var(--s{i % 6})"/>')
    key = "".join(f'<li><i style="background:var(--s{i % 6})"></i>{escape(n)}</li>' for i, n in enumerate(curves))
    return (
        f'<div class="chart"><ul class="key">{key}</ul>'
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" role="img" aria-label="{escape(alt)}">'
        f"{''.join(marks)}</svg></div>"
    )


def _binned(values: Sequence[float]) -> list[tuple[float, float]]:
    """At most `_CHART_POINTS` points (iteration, mean of a bin), positive ones only."""
    step = max(1, math.ceil(len(values) / _CHART_POINTS))
    bins = [values[i : i + step] for i in range(0, len(values), step)]
    means = [(i * step + (len(part) - 1) / 2, sum(part) / len(part)) for i, part in enumerate(bins)]
    return [(x, y) for x, y in means if y > 0 and math.isfinite(y)]


def _ticks(last: int) -> list[int]:
    """About five round numbers from 0 to `last`."""
    step = 10 ** math.floor(math.log10(max(last, 1)))
    while last / step < 4 and step > 1:
        step = step // 2 if step % 10 != 5 else step // 5
    return list(range(0, last + 1, max(1, step)))


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two logarithms, with more of their multiples the fewer there are."""
    halves, tenths = ([i / parts for i in range(parts, 10 * parts)] for parts in (2, 10))
    for factors in ([1], [1, 2, 5], range(1, 10), halves, tenths):
        ticks = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
        shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(shown) > 2:
            break
    return shown

"""A one-file web page: text, tables and pictures inside it, readable from a mail attachment."""

import base64
import html
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 1100px; margin: 2.5rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
.lead { font-size: 1.08rem; } .small { color: #57606a; font-size: .88rem; }
figure { margin: 1.8rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .92rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; font-size: .93rem; }
th { text-align: left; border-bottom: 2px solid #1b1f24; padding: .3rem .6rem; }
td { border-bottom: 1px solid #d8dee4; padding: .25rem .6rem; } td.n, th.n { text-align: right; }
.wide { overflow-x: auto; }
@media (max-width: 640px) { body { margin: 1rem auto; padding: 0 .5rem; } table { font-size: .72rem; }
  th, td, tr td { padding: .2rem .2rem; } th { hyphens: auto; } }
tr.first td { border-top: 2px solid #8c959f; } tr.best td { background: #eaf4ff; font-weight: 600; }
ul { padding-left: 1.2rem; } pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""


class Page:
    """Collects figures, tables and lines, prints the lines as they come, and writes one HTML file at the end."""

    def __init__(self, title: str, lead: str, environment: str):
        self.title, self.lead, self.environment = title, lead, environment
        self._paragraphs: list[str] = []
        self._tables: list[str] = []
        self._figures: list[str] = []
        self._lines: list[str] = []

    def line(self, text: str) -> None:
        """Print a measured sentence and keep it for the page."""
        print(text, flush=True)
        self._lines.append(text)

    def paragraph(self, text: str) -> None:
        """Explain something on the page, above the tables; nothing is printed."""
        self._paragraphs.append(f"<p>{html.escape(text)}</p>")

    def figure(self, axes: Any, file: pathlib.Path, caption: str) -> None:
        """Save the figure of these Axes as PNG, keep a copy for the page, and close it."""
        import matplotlib.pyplot as plt

        figure = axes[0].figure
        figure.savefig(file, dpi=110)
        plt.close(figure)
        data = base64.b64encode(file.read_bytes()).decode()
        self._figures.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], bounds: Iterable[str] = ()) -> None:
        """A table whose first two columns are names; the first groups the rows, and each group's best stands out.

        Args:
            header: names of the columns.
            rows: cells as text; the fourth is the number whose least stands out.
            bounds: names in the second column that are known in hindsight only and do not compete.
        """
        rows, bounds = [list(row) for row in rows], set(bounds)
        best = {}
        for row in rows:
            if row[1] not in bounds:
                best.setdefault(row[0], []).append((float(row[3]), row[1]))
        winners = {group: min(entries)[1] for group, entries in best.items()}
        cells = ['<th class="n">' if i > 1 else "<th>" for i in range(len(header))]
        out = [
            '<div class="wide"><table><tr>'
            + "".join(f"{c}{html.escape(h)}</th>" for c, h in zip(cells, header))
            + "</tr>"
        ]
        previous = None
        for row in rows:
            kind = "first " if row[0] != previous else ""
            kind += "best" if winners.get(row[0]) == row[1] else ""
            shown = [row[0] if row[0] != previous else "", *row[1:]]
            previous = row[0]
            body = "".join(f"<td{' class=n' if i > 1 else ''}>{html.escape(c)}</td>" for i, c in enumerate(shown))
            out.append(f'<tr class="{kind.strip()}">{body}</tr>')
        self._tables.append("".join(out) + "</table></div>")

    def write(self, file: pathlib.Path, source: str = "") -> None:
        """Write the page; `source` is shown at its end."""
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self._lines)
        code = f"<h2>The study</h2><pre>{html.escape(source)}</pre>" if source else ""
        file.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f'<h1>{html.escape(self.title)}</h1><p class="lead">{html.escape(self.lead)}</p>'
            f"{''.join(self._paragraphs)}{''.join(self._tables)}{''.join(self._figures)}<h2>Measured</h2><ul>{lines}</ul>{code}"
            f'<p class="small">{html.escape(self.environment)}. The numbers behind it: results.nc '
            "(xarray.open_dataset). The study itself, ready to edit: study.py.</p></body></html>",
            encoding="utf-8",
        )


__all__ = ["Page"]

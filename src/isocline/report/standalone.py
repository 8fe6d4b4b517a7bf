"""A chart as a file of its own: the page's drawing with the page's light colours inside."""

from __future__ import annotations

import re

from markupsafe import escape

from isocline.report.charts import Chart

__all__ = ["svg_file"]

_STYLE = """
:root { --c0: #1f6fb2; --c1: #bd520a; --c2: #0d7d60; --c3: #a0368a; --c4: #766600; --c5: #b3261e; --c6: #5b4fc4;
        --c7: #63686f; }
text { font: 13px system-ui, sans-serif; fill: #565b63; }
.grid path { stroke: #e4e1d9; } .axis { stroke: #b9b4a8; }
.line { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.dash { stroke-dasharray: 6 5; } .band { fill: var(--c); opacity: .16; }
.bar { stroke: var(--c); stroke-width: 2; opacity: .5; } .mark { fill: var(--c); stroke: #fff; stroke-width: 1.2; }
.note, .end { fill: var(--c); } .rule { stroke: #1c1e22; stroke-dasharray: 2 4; stroke-width: 1.3; opacity: .75; }
.rule-label { font-size: 12px; fill: #1c1e22; }
"""
_VIEW = re.compile(r'viewBox="0 0 (\d+) (\d+)"')
_LINE = 20


def svg_file(chart: Chart) -> bytes:
    """Return the chart with its title and legend as an SVG document that needs nothing else.

    Args:
        chart: its wide drawing is taken where it has one.
    """
    drawing = str(chart.wide or chart.narrow)
    found = _VIEW.search(drawing)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    top = 30
    total = top + height + _LINE * len(chart.legend)
    inner = drawing.replace("<svg ", f'<svg x="0" y="{top}" width="{width}" height="{height}" ', 1)
    legend = "".join(
        str(swatch).replace("<svg ", f'<svg x="54" y="{top + height + _LINE * row}" width="28" height="14" ', 1)
        + f'<text x="90" y="{top + height + _LINE * row + 12}">{escape(name)}</text>'
        for row, (name, swatch) in enumerate(chart.legend)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="20" style="font-weight:600;fill:#1c1e22">{escape(chart.title)}</text>'
        f"{inner}{legend}</svg>\n"
    ).encode()

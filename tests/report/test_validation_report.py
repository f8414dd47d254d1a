"""Reports of a validation: they say where it fails, stand alone, and survive hostile names and extreme numbers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from retentive_export.report import validation_data, validation_html, validation_markdown, validation_table, verdict
from retentive_export.report.charts import Series, bar_chart, heat_map, line_chart
from retentive_export.validate import LayerReport, StateLimits, StepReport, ValidationReport

SVG = "{http://www.w3.org/2000/svg}"


def step(**changes: Any) -> StepReport:
    exact = {"max_abs": 1e-5, "logit_error": 1e-6, "cosine": 1.0, "norm_ratio": 1.0, "kl": 0.0, "agrees": True}
    return StepReport(tokens=1, **{**exact, **changes})


def layer(index: int, excess: tuple[float, ...], importance: float = 1e-6) -> LayerReport:
    over = next((at for at, value in enumerate(excess) if value > 1), None)
    return LayerReport(
        layer=index,
        differing_rows=0,
        victim_share=0.0,
        state_error={"key_rows": 0.0, "importance": importance},
        excess=excess,
        first_step=over,
        cause=None if over is None else "importance",
    )


PASSED = ValidationReport(
    artifact="tiny",
    backend="onnxruntime",
    against="reference",
    lockstep=True,
    prefill=1,
    steps=(step(), step(kl=1e-9), step()),
    first_divergence=None,
    layers=(layer(0, (0.1, 0, 0.001)), layer(1, (0.2, 0.3, 0.1)), layer(2, (0, 0, 0))),
    compared_steps=(0, 1, 2),
    vision_error={},
    logit_limit=1e-3,
    limits=StateLimits(victims=1e-3, default=1e-3, kinds={}),
    state_decides=True,
)
FAILED = replace(
    PASSED,
    steps=(step(), step(agrees=False, logit_error=0.5, cosine=0.2), step()),
    first_divergence=1,
    layers=(layer(0, (0, 0, 0)), layer(1, (0, 40, 3), 0.04), layer(2, (0, 0, 7), 0.007)),
)


class Page(HTMLParser):
    """Tags, and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [name for name, _ in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]


def drawings(page: str) -> list[ET.Element]:
    """Every diagram of a page; malformed ones are refused."""
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_verdict_names_the_first_layer() -> None:
    assert verdict(PASSED) == "passed: every limit is kept"
    assert "the first layer that drifts: layer 1, importance 0.04 (limit 0.001), from step 1 on" in verdict(FAILED)
    assert "logit error is 0.5, limit 0.001" in verdict(FAILED)
    for text in (validation_markdown(FAILED), validation_html(FAILED)):
        assert "layer 1, importance 0.04 (limit 0.001), from step 1 on" in text
    assert validation_table(FAILED).row_count == len(FAILED.checks())


def test_data() -> None:
    data = json.loads(json.dumps(validation_data(FAILED), allow_nan=False))
    assert (data["passed"], data["first_layer"], data["first_divergence"]) == (False, 1, 1)
    assert data["layers"][1]["excess"] == [0, 40, 3]
    assert data["state_error"] == {"key_rows": 0, "importance": 0.04}
    assert validation_data(PASSED)["first_layer"] is None


def test_the_page_needs_nothing_else() -> None:
    for report in (PASSED, FAILED):
        text = validation_html(report)
        page = Page(text)
        assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
        assert page.fetched == []
        assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
        assert 'name="viewport" content="width=device-width' in text
        assert "default-src 'none'" in text
        assert len(drawings(text)) == 4


def test_one_compared_step_needs_no_map() -> None:
    once = tuple(replace(one, excess=one.excess[:1]) for one in PASSED.layers)
    assert len(drawings(validation_html(replace(PASSED, layers=once, compared_steps=(2,))))) == 3
    without = replace(PASSED, layers=(), compared_steps=())
    assert len(drawings(validation_html(without))) == 2
    assert "Layer by layer" not in validation_html(without) + validation_markdown(without)


def test_names_are_escaped() -> None:
    hostile = replace(PASSED, artifact="<script>alert(1)</script>", vision_error={"a|b": 0.0})
    assert "script" not in Page(validation_html(hostile)).tags
    rows = [line for line in validation_markdown(hostile).splitlines() if line.startswith("| vision")]
    assert rows == ["| vision error: a\\|b | 0 | 0.001 | ok |"]


def test_markdown_tables_are_even() -> None:
    for block in re.findall(r"(?:^\|.*\|\n)+", validation_markdown(FAILED), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_line_chart_is_to_scale() -> None:
    """Decades are equally far apart, a value at the limit lies on its line, zero lies on the lower edge."""
    drawing = ET.fromstring(line_chart("t", [Series("a", "#000", [1e-4, 1e-3, 1e-2, 0])], limit=1e-3))
    line = drawing.find(f"{SVG}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    heights = [y for _, y in points]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert heights[3] == heights[0]
    (limit,) = [path.attrib["d"] for path in drawing.iter(f"{SVG}path") if "stroke-dasharray" in path.attrib]
    assert f" {heights[1]:.1f}H" in limit
    assert [x for x, _ in points] == sorted(x for x, _ in points)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-30, 1e30], [1.0], [1e-12, 1.0, 5.0]])
def test_charts_of_extreme_values(values: list[float]) -> None:
    """Every coordinate is a number inside the drawing."""
    names = [str(index) for index in range(len(values))]
    texts = [line_chart("t", [Series("a", "#000", values)], limit=1e-3), bar_chart("t", names, values, marked=0)]
    texts.append(heat_map("t", names, [0, 1], [[value, 0.0] for value in values]))
    for text in texts:
        drawing = ET.fromstring(text)
        width, height = map(float, drawing.attrib["viewBox"].split()[2:])
        for element in drawing.iter():
            for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if name in element.attrib:
                    assert 0 <= float(element.attrib[name]) <= limit


def test_what_is_over_the_limit_is_red() -> None:
    drawing = ET.fromstring(bar_chart("t", ["0", "1"], [0.5, 2.0], marked=1))
    assert [bar.attrib["fill"] == "#c0392b" for bar in drawing.iter(f"{SVG}rect")] == [False, True]
    assert "drifts first" in "".join(drawing.itertext())
    cells = ET.fromstring(heat_map("t", ["0"], [3, 4], [[0.999, 1.001]]))
    assert [cell.attrib["fill"] == "#c0392b" for cell in cells.iter(f"{SVG}rect")] == [False, True]

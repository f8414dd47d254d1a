"""The evaluation's tables and page: numbers are those measured, losses are shown, the page needs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from retentive_export.errors import InputError
from retentive_export.eval.result import Cell, Evaluation, Run
from retentive_export.eval.statistics import Summary
from retentive_export.report import evaluation_data, evaluation_html, evaluation_markdown, evaluation_tables
from retentive_export.report.charts import Curve, budget_chart
from retentive_export.report.evaluation import verdicts

VOID = {"meta"}
SVG = "{http://www.w3.org/2000/svg}"


class Strict(HTMLParser):
    """Every element is closed where it should be; collects tags and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def cell(arm: str, group: str, budget: float, accuracy: float, **changes: object) -> Cell:
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, size=50)
    noise -= noise.mean()
    values = {"accuracy": list(accuracy + noise), "kl": list(1 - accuracy + noise + 0.05), "agreement": [accuracy] * 50}
    plain = {"task": "digits", "when": "blind", "headline": "accuracy", "dialogues": 50, "units": 300, "tokens": 400}
    layers = [Summary(0.1, 0.05, 0.3)] * 2
    fields = {**plain, "values": values, "layer_error": layers, "log_mass": Summary(0.5, 0.4, 0.9), **changes}
    return Cell(arm=arm, group=group, budget=budget, **fields)  # type: ignore[arg-type]


ENVIRONMENT = {"commit": "abc", "command": "x", "device": "cpu", "cores": 2, "versions": {"torch": "2"}}
RUN = Run(environment=ENVIRONMENT, settings={"cache_dtype": "float16", "seed": 0})
EVALUATION = Evaluation(
    runs=[RUN],
    cells=[
        cell("full", "full", 1.0, 0.96),
        cell("oracle", "ceiling", 0.2, 0.95),
        cell("oracle", "ceiling", 0.05, 0.7),
        cell("h2o", "baseline", 0.2, 0.4),
        cell("h2o", "baseline", 0.05, 0.6),
        cell("snapkv", "baseline", 0.2, 0.3),
        cell("snapkv", "baseline", 0.05, 0, refused="too small", values={}),
        cell("retentive+int4", "ours", 0.2, 0.9),
        cell("retentive+int4", "ours", 0.05, 0.5),
        cell("<b>", "ours", 0.2, 0.1),
    ],
)


def test_verdicts_tell_wins_from_losses() -> None:
    won, lost = verdicts(EVALUATION)
    assert (won["ours"], won["baseline"], won["verdict"]) == ("retentive+int4", "h2o", "better")
    assert won["difference"] == pytest.approx((0.5, 0.5, 0.5))
    assert won["of_full"][0] == pytest.approx(0.9 / 0.96, rel=1e-3)
    assert (lost["ours"], lost["baseline"], lost["verdict"]) == ("retentive+int4", "h2o", "worse")


def test_lower_is_better_where_the_headline_is_kl() -> None:
    cells = [cell("h2o", "baseline", 0.2, 0.4, headline="kl"), cell("retentive", "ours", 0.2, 0.9, headline="kl")]
    (one,) = verdicts(Evaluation(runs=[RUN], cells=cells))
    assert one["verdict"] == "better"
    assert one["difference"][2] < 0


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    text = evaluation_html(EVALUATION)
    page = Strict(text)
    assert not {"script", "link", "img", "iframe", "object", "b"} & page.tags
    assert page.fetched == []
    assert not re.search(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "default-src 'none'" in text
    assert text.count("<table>") == text.count('<div class="wide"><table>') == 3  # wide tables scroll by themselves
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert ET.fromstring(drawing).attrib["viewBox"].startswith("0 0 360 ")


def test_every_cell_is_on_the_page_losses_and_refusals_too() -> None:
    for text in (evaluation_html(EVALUATION), evaluation_markdown(EVALUATION)):
        for value in ("0.900 [", "0.400 [", "0.500 [", "0.600 [", "0.950 [", "does not fit"):
            assert value in text
    assert '<tr class="worse">' in evaluation_html(EVALUATION)


def test_the_best_of_a_column_is_bold_and_the_ceiling_is_not() -> None:
    lines = [line for line in evaluation_markdown(EVALUATION).splitlines() if line.startswith("| `")]
    bold = {line.split("|")[1].strip(): line.count("**") // 2 for line in lines}
    assert bold == {"`oracle`": 0, "`retentive+int4`": 1, "`<b>`": 0, "`h2o`": 1, "`snapkv`": 0}


def test_a_run_that_has_only_measured_the_full_cache_yet_has_its_page() -> None:
    """What is saved while a run goes on."""
    page = Strict(evaluation_html(Evaluation(runs=[RUN], cells=[cell("full", "full", 1.0, 0.96)])))
    assert "table" in page.tags


def test_markdown_tables_are_even() -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", evaluation_markdown(EVALUATION), re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_data_is_json_without_the_values_of_single_dialogues() -> None:
    data = json.loads(json.dumps(evaluation_data(EVALUATION), allow_nan=False))
    assert len(data["cells"]) == len(EVALUATION.cells)
    assert data["cells"][3]["accuracy"]["value"] == pytest.approx(0.4, abs=0.01)
    assert "values" not in data["cells"][3]


def test_terminal_tables_have_a_line_per_arm() -> None:
    (table,) = evaluation_tables(EVALUATION)
    assert table.row_count == 5


def test_a_budget_chart_is_to_scale() -> None:
    """Halving the bytes is one distance; accuracy is linear; the bar spans the interval."""
    points = [(0.05, 0.0, 0.0, 0.0), (0.1, 0.5, 0.4, 0.6), (0.2, 1.0, 1.0, 1.0)]
    drawing = ET.fromstring(budget_chart("t", [Curve("a", "#000", points)]))
    (line,) = drawing.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    bars = [p.attrib["d"] for p in drawing.iter(f"{SVG}path") if p.attrib.get("stroke-width") == "1"]
    top, bottom = map(float, re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", bars[1]).groups())  # type: ignore[union-attr]
    assert bottom - top == pytest.approx(0.2 * (y0 - y2), abs=0.11)


def test_evaluations_are_put_together_with_their_runs() -> None:
    other = Run(environment={**ENVIRONMENT, "commit": "def"}, settings=RUN.settings)
    late = Evaluation(runs=[other], cells=[cell("h2o", "baseline", 0.2, 0.45), cell("tova", "baseline", 0.2, 0.2)])
    both = EVALUATION.merged([late])
    assert [one.environment["commit"] for one in both.runs] == ["abc", "def"]
    assert len(both.cells) == len(EVALUATION.cells) + 1
    found = both.column("digits", "blind", 0.2)
    assert (found["h2o"].run, found["snapkv"].run) == (1, 0)
    assert found["h2o"].interval("accuracy").value == pytest.approx(0.45)
    assert "at commit def" in evaluation_html(both)


def test_evaluations_of_other_dialogues_are_no_pairs() -> None:
    more = Evaluation(runs=[RUN], cells=[cell("tova", "baseline", 0.2, 0.2, dialogues=60)])
    with pytest.raises(InputError, match="different dialogues"):
        EVALUATION.merged([more])
    seed = Run(environment=ENVIRONMENT, settings={**RUN.settings, "seed": 1})
    with pytest.raises(InputError, match="different dialogues"):
        EVALUATION.merged([Evaluation(runs=[seed], cells=[cell("tova", "baseline", 0.2, 0.2)])])

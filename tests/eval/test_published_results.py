"""What is committed and documented is what was measured."""

from __future__ import annotations

import pytest

from retentive_export.eval.result import Evaluation, load_evaluation
from retentive_export.report import evaluation_html, evaluation_markdown
from scripts.update_evaluation import DOCS, RESULTS, printed
from tests.report.test_evaluation_report import Strict


@pytest.fixture(scope="module")
def published() -> Evaluation:
    return load_evaluation(RESULTS / "evaluation.json")


def test_page_and_tables_are_those_of_the_results(published: Evaluation) -> None:
    assert (RESULTS / "evaluation.html").read_text(encoding="utf-8") == evaluation_html(published)
    assert (RESULTS / "evaluation.md").read_text(encoding="utf-8") == evaluation_markdown(published)
    text = DOCS.read_text(encoding="utf-8")
    assert printed(text, RESULTS / "evaluation.json") == text


def test_the_published_page_is_well_formed(published: Evaluation) -> None:
    page = Strict((RESULTS / "evaluation.html").read_text(encoding="utf-8"))
    assert page.fetched == []
    assert "script" not in page.tags


def test_results_say_how_to_repeat_them(published: Evaluation) -> None:
    for run in published.runs:
        assert len(run.environment["commit"].rstrip("+")) >= 7
        assert run.environment["command"].startswith("retentive-export eval ")
        assert run.environment["versions"]["torch"]


def test_no_cell_was_given_more_bytes_than_its_budget(published: Evaluation) -> None:
    measured = [cell for cell in published.cells if cell.refused is None and cell.group != "full"]
    assert len(measured) > 100
    for cell in measured:
        assert cell.state_bytes <= cell.budget * cell.full_bytes
        assert cell.values["kl"]

"""`eval` on the command line: bad words are refused before a model is read, and earlier results are rendered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retentive_export.eval.result import save_evaluation
from tests.cli.calls import call
from tests.report.test_evaluation_report import EVALUATION


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--arm", "nosuch"], 3, "neither a policy nor a selection"),
        (["--task", "nosuch"], 3, "task is 'nosuch'"),
        (["--task", "text:deferred"], 3, "no moment 'deferred'"),
        (["--size", "digits.turns"], 3, "TASK.SIZE=N"),
        (["--task", "digits:blind", "--size", "digits.cells=3"], 3, "not a size of it"),
        (["--task", "digits:blind", "--device", "tpu"], 3, "device is 'tpu'"),
        (["--budget", "0"], 2, "--budget"),
        (["--render"], 2, "--from"),
    ],
)
def test_refusals(words: list[str], code: int, told: str, tmp_path: Path) -> None:
    result = call("eval", *words, "-o", tmp_path / "out")
    assert result.exit_code == code
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_earlier_results_are_rendered_and_merged(tmp_path: Path) -> None:
    save_evaluation(EVALUATION, tmp_path / "earlier.json")
    result = call("eval", "--render", "--from", tmp_path / "earlier.json", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["cells"]) == len(EVALUATION.cells)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["evaluation.html", "evaluation.json", "evaluation.md"]
    again = call("eval", "--render", "--from", tmp_path / "earlier.json", "--from", tmp_path / "out/evaluation.json")
    assert again.stdout.count("retentive+int4") == 1


def test_a_file_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    result = call("eval", "--render", "--from", tmp_path / "other.json")
    assert result.exit_code == 7
    assert "is not an evaluation" in result.stderr

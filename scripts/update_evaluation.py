"""Put evaluations together under benchmarks/results/evaluation and print their tables into docs/evaluation.md.

    python scripts/update_evaluation.py one.json another.json
    python scripts/update_evaluation.py                 # the committed results anew, after a change of the report

A test holds the committed page, the Markdown and the documentation to the committed JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from retentive_export.eval.result import load_evaluation, save_evaluation
from retentive_export.report import evaluation_html, evaluation_markdown, evaluation_sections
from retentive_export.report.evaluation import environment_words
from retentive_export.spec.files import atomic_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "evaluation"
DOCS = ROOT / "docs" / "evaluation.md"
MARK = "<!-- printed by scripts/update_evaluation.py -->"


def printed(text: str, results: Path) -> str:
    """The documentation's text with the tables of `results` behind its mark."""
    evaluation = load_evaluation(results)
    runs = "\n".join(f"- {line}" for line in environment_words(evaluation))
    return f"{text.partition(MARK)[0]}{MARK}\n\n{evaluation_sections(evaluation, '###')}\n\n### Runs\n\n{runs}\n"


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", type=Path)
    found = [load_evaluation(path) for path in parser.parse_args().evaluations or [RESULTS / "evaluation.json"]]
    evaluation = found[0].merged(found[1:])
    save_evaluation(evaluation, RESULTS / "evaluation.json")
    evaluation = load_evaluation(RESULTS / "evaluation.json")  # as rounded on the disk
    for path, text in (
        (RESULTS / "evaluation.md", evaluation_markdown(evaluation)),
        (RESULTS / "evaluation.html", evaluation_html(evaluation)),
        (DOCS, printed(DOCS.read_text(encoding="utf-8"), RESULTS / "evaluation.json")),
    ):
        with atomic_file(path) as stream:
            stream.write(text.encode())


if __name__ == "__main__":
    main()

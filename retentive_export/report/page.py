"""HTML pages that need nothing else: styles and diagrams inside, no script, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["html_page", "html_table"]

# The policy makes a browser refuse whatever is not in the file: the page cannot reach a network.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
"""


def html_page(title: str, style: str, parts: Sequence[str]) -> str:
    """A page of its own.

    Args:
        title: as HTML; also the first heading. style: CSS, lines that end in a newline. parts: HTML of the body.
    """
    head = f"{_HEAD}{style}</style>\n<title>{title}</title></head><body>"
    return "\n".join([head, f"<h1>{title}</h1>", *parts, "</body></html>"]) + "\n"


def html_table(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> str:
    """A table that scrolls sideways where it is too wide. rows: cells as text, and the row's class or ""."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = [f"<tr>{head}</tr>"]
    for cells, mark in rows:
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="{escape(mark)}">{body}</tr>' if mark else f"<tr>{body}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"

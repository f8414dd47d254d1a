"""The published page in a real browser, without network: at a phone's width nothing runs over, text can be read."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.update_evaluation import RESULTS

PHONE = (390, 844)
"""CSS pixels, as most phones have them."""

MEASURE = """<script>
const text = [...document.querySelectorAll('p, li, td, th, h1, h2')];
const tables = [...document.querySelectorAll('table')];
parent.postMessage({
  width: document.documentElement.clientWidth,
  content: document.documentElement.scrollWidth,
  smallest: Math.min(...text.map(one => parseFloat(getComputedStyle(one).fontSize))),
  over: tables.filter(one => one.scrollWidth > one.parentElement.clientWidth
    && getComputedStyle(one.parentElement).overflowX != 'auto').length,
  charts: [...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width),
  hidden: text.filter(one => one.getBoundingClientRect().height == 0).length,
}, '*');
</script>"""


@pytest.fixture(scope="module")
def page() -> str:
    return (RESULTS / "evaluation.html").read_text(encoding="utf-8")


def browser(folder: Path, *arguments: str) -> str:
    """Standard output of headless Chromium that reaches no network."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def on_a_phone(page: str, folder: Path) -> dict[str, object]:
    """What a script in the page measures, in a frame of a phone's size."""
    policy = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
    assert policy.search(page)  # the page itself allows no script
    (folder / "page.html").write_text(policy.sub("", page).replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame = f'<iframe src="page.html" width="{PHONE[0]}" height="{PHONE[1]}" style="border: 0"></iframe>'
    listen = "<script>addEventListener('message', e => document.title = JSON.stringify(e.data))</script>"
    (folder / "phone.html").write_text(f"<!doctype html><title></title>{listen}{frame}", encoding="utf-8")
    shown = browser(folder, "--virtual-time-budget=10000", "--dump-dom", f"file://{folder / 'phone.html'}")
    found = re.search(r"<title>(\{.*?\})</title>", shown)
    assert found, shown[:500]
    return dict(json.loads(found[1]))


def test_a_phone_shows_all_of_it(page: str, tmp_path: Path) -> None:
    seen = on_a_phone(page, tmp_path)
    assert 300 < int(str(seen["width"])) <= PHONE[0]
    assert seen["content"] == seen["width"]  # nothing to scroll sideways but tables, within themselves
    assert seen["over"] == 0
    assert seen["hidden"] == 0
    assert float(str(seen["smallest"])) >= 12
    charts = seen["charts"]
    assert isinstance(charts, list)
    assert charts
    assert all(0.8 * PHONE[0] < width <= PHONE[0] for width in charts)


def test_a_page_that_is_too_wide_is_noticed(page: str, tmp_path: Path) -> None:
    wide = page.replace("<body>", '<body><div style="width: 600px">wide</div>')
    seen = on_a_phone(wide, tmp_path)
    assert int(str(seen["content"])) > int(str(seen["width"]))


def test_it_opens_offline_and_paints(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    picture = tmp_path / "page.png"
    size = f"--window-size={PHONE[0] + 110},{PHONE[1]}"
    browser(tmp_path, size, f"--screenshot={picture}", f"file://{tmp_path / 'page.html'}")
    pixels = np.asarray(Image.open(picture).convert("L"), np.float32)
    rows = (np.abs(pixels - np.median(pixels)) > 64).any(axis=1)
    assert rows.mean() > 0.3  # text on most lines, down to the end of the window
    assert rows[-200:].any()

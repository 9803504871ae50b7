"""The report in a real browser, at the widths of a desktop and of a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# The page lies in a frame of the wanted width, as windows have a least width of their own; a frame from
# srcdoc may be looked into. What is wider than the page must lie in a box that scrolls.
FRAME = """<!DOCTYPE html><meta charset="utf-8">
<iframe id="page" style="border: 0; width: WIDTHpx; height: 2000px" srcdoc="PAGE"></iframe>
<script>
const errors = [];
document.getElementById("page").addEventListener("load", event => {
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const kinds = "h1, h2, h3, p, li, figcaption, figure, table, .card, .scales div";
  const boxes = [...page.querySelectorAll(kinds)];
  const cut = boxes.filter(box => {
    const place = box.getBoundingClientRect();
    return (place.right > view.innerWidth + 1 || place.left < -1) && !box.closest(".wide");
  });
  const parts = [...page.body.children].filter(one => one.getBoundingClientRect().height > 0);
  const overlapping = parts.slice(1).filter((one, i) =>
    one.getBoundingClientRect().top < parts[i].getBoundingClientRect().bottom - 1);
  const pictures = [...page.images];
  const table = page.querySelector("table.sortable");
  const column = () => [...table.tBodies[0].rows].map(row => row.lastElementChild.textContent);
  const button = table.tHead.rows[0].lastElementChild.firstElementChild;
  button.click();
  const ascending = column();
  button.click();
  const result = {
    wide: page.documentElement.scrollWidth - view.innerWidth,
    cut: cut.map(one => one.outerHTML.slice(0, 80)),
    scrolling: [...page.querySelectorAll(".wide > table")]
      .filter(one => one.scrollWidth > one.parentElement.clientWidth).length,
    overlapping: overlapping.map(one => one.outerHTML.slice(0, 80)),
    broken: pictures.filter(one => !one.complete || !one.naturalWidth).length,
    pictures: pictures.length,
    ascending, descending: column(),
  };
  document.body.dataset.result = JSON.stringify(result);
});
</script>
"""


def looked_at(report, width, tmp_path):
    page = html.escape(report.read_text())
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", page))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))), console


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_overlaps_or_complains(finished, tmp_path, width):
    result, console = looked_at(finished, width, tmp_path)
    assert console == []
    assert result["wide"] <= 0
    assert result["cut"] == []
    assert result["scrolling"] == 0 or width < 1280
    assert result["overlapping"] == []
    assert result["broken"] == 0
    assert result["pictures"] > 10
    numbers = [float(cell.replace(",", "")) for cell in result["ascending"]]
    assert numbers == sorted(numbers)
    assert result["descending"] == result["ascending"][::-1]

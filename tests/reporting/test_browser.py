"""The report in a real browser, at the widths of a desktop and of a phone."""

import html
import json
import re
import shutil
import subprocess
import urllib.request

import numpy as np
import pandas as pd
import pytest
import torch

import icobench
from icobench.geometry.rotations import random_quaternions
from icobench.geometry.shapes import SHAPES
from icobench.images.image_set import ImageSet
from icobench.images.prepare import prepare
from icobench.reporting.live import LivePage, LiveState
from icobench.reporting.report import write_report
from icobench.reporting.show import read_results, write_show
from icobench.sets.pattern_file import read_patterns, write_patterns
from tests.reporting.made_runs import named_bodies

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# The page lies in a frame of the wanted width, as windows have a least width of their own; a frame from
# srcdoc may be looked into. What is wider than the page must lie in a box that scrolls.
FRAME = """<!DOCTYPE html><meta charset="utf-8">
<iframe id="page" style="border: 0; width: WIDTHpx; height: 2000px" srcdoc="PAGE"></iframe>
<script>
const errors = [];
document.getElementById("page").addEventListener("load", async ({target: frame}) => {
  await new Promise(done => setTimeout(done, 500));  // a live page has its numbers then
  const page = frame.contentDocument, view = frame.contentWindow;
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
  const column = () => [...table?.tBodies[0].rows ?? []].map(row => row.lastElementChild.textContent);
  const button = table?.tHead.rows[0].lastElementChild.firstElementChild;
  button?.click();
  const ascending = column();
  button?.click();
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
    page = html.escape(report if isinstance(report, str) else report.read_text())
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


@pytest.fixture(scope="module")
def of_bodies(inputs, tmp_path_factory):
    """A report that has all that reports have, and the tables of bodies, all seventeen of them."""
    folder = named_bodies(shutil.copytree(inputs, tmp_path_factory.mktemp("run") / "bodies"))
    images = read_patterns(folder / "test_set.h5")
    table = pd.read_parquet(folder / "results.parquet")
    count = len(images)
    write_patterns(folder / "test_set.h5", ImageSet.join([images] * 3), {})
    table = pd.concat([table.assign(image=table["image"] + part * count) for part in range(3)])
    names = table["image"].map(lambda image: list(SHAPES)[image % len(SHAPES)])
    named = names.where(table["method"] != "network+simplex", "truncated-icosahedron=0.595")
    table["disorientation_deg"] = table["disorientation_deg"].where(names == named)
    table.assign(true_body=names, body=named).to_parquet(folder / "results.parquet")
    return write_report(folder)


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_overlaps_or_complains(of_bodies, tmp_path, width):
    result, console = looked_at(of_bodies, width, tmp_path)
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


MOVED = """<script>{
const target = document.getElementById("target"), slider = document.getElementById("slider");
const before = target.src;
slider.value = 2;
slider.dispatchEvent(new Event("input"));
if (target.src === before) console.log("not moved");
if (!document.getElementById("caption").textContent.startsWith("frame 2")) console.log("wrong words");
document.querySelector(".picks tbody tr").click();
if (target.src !== before) console.log("not back");
}</script></body>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_on_a_stack_fits_and_its_slider_moves(tmp_path, width):
    images = icobench.simulate([40.0, 60.0, 90.0], photons=1e5)
    np.save(tmp_path / "stack.npy", images.images.numpy().astype(np.int32))
    turns = dict(zip(("q_w", "q_x", "q_y", "q_z"), images.quaternion.T.numpy(), strict=True))
    rows = pd.DataFrame({"index": range(3), "radius_nm": images.radius_nm.numpy(), **turns, "status": "ok"})
    rows.to_csv(tmp_path / "result.csv", index=False)
    page = tmp_path / "page.html"
    with prepare(tmp_path / "stack.npy") as prepared:
        write_show(page, prepared, read_results(tmp_path / "result.csv"), range(3))
    result, console = looked_at(page.read_text().replace("</body>", MOVED), width, tmp_path)
    assert console == []
    assert result["wide"] <= 0
    assert (result["cut"], result["overlapping"], result["broken"]) == ([], [], 0)
    assert result["pictures"] == 4


@pytest.mark.parametrize("width", [1280, 390])
def test_the_live_page_shows_its_numbers(tmp_path, width):
    state = LiveState("run.h5", "network+lm")
    images = icobench.simulate([40.0, 60.0, 90.0], photons=1e5)
    quaternion = random_quaternions(90, torch.Generator().manual_seed(5)).T.numpy()
    rows = pd.DataFrame({"radius_nm": np.linspace(30, 160, 90), "status": "ok", "latency_s": 0.02})
    state.show(images)
    state.add(rows.assign(**dict(zip(("q_w", "q_x", "q_y", "q_z"), quaternion, strict=True))))
    state.trouble("left out: " + "a_long_name_of_a_file" * 8)
    with LivePage(0, state.numbers) as served, urllib.request.urlopen(served.address) as answer:
        page = answer.read().decode()
    asked = 'fetch("numbers.json")'
    assert asked in page
    page = page.replace(asked, f"Promise.resolve({{json: () => ({json.dumps(state.numbers())})}})")
    result, console = looked_at(page, width, tmp_path)
    assert console == []
    assert result["wide"] <= 0
    assert (result["cut"], result["overlapping"], result["broken"]) == ([], [], 0)
    assert result["pictures"] == 3

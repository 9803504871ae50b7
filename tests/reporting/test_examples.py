"""The gallery: which images, what their pictures show, and the drawn body."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import ConvexHull

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.geometry.shapes import shape
from icobench.reporting.examples import body_svg, chosen_images, examples
from icobench.reporting.run_folder import read_run
from tests.reporting.made_runs import COST, made_results


def area(points):
    """Of a polygon given as SVG points (shoelace formula)."""
    x, y = np.array([[float(c) for c in pair.split(",")] for pair in points.split()]).T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@pytest.mark.parametrize("name", ["icosahedron", "cube", "sphere"])
def test_visible_facets_fill_the_silhouette(name):
    body = shape(name)
    turn = random_orientations(1, torch.Generator().manual_seed(4))[0]
    drawing = ElementTree.fromstring(body_svg(body, 100.0, turn.numpy()))
    corners = 100.0 * body.vertices @ quaternion_to_matrix(turn).numpy().T
    drawn = sum(area(one.get("points")) for one in drawing.iter("polygon"))
    assert drawn == pytest.approx(ConvexHull(corners[:, :2]).volume, rel=5e-3)


def test_a_cube_from_the_front_shows_one_face_and_y_points_up():
    identity = np.array([1.0, 0, 0, 0])
    drawing = ElementTree.fromstring(body_svg(shape("cube"), 90.0, identity))
    assert len(list(drawing.iter("polygon"))) == 1
    # Turned about the beam by a small positive angle, the corner on the right goes up: y gets smaller.
    small = np.array([np.cos(0.05), 0, 0, np.sin(0.05)])
    turned = ElementTree.fromstring(body_svg(icosahedron(), 90.0, small))
    assert turned.get("aria-label") == "icosahedron"
    truth = body_svg(icosahedron(), 90.0, small, (100.0, identity))
    assert len(list(ElementTree.fromstring(truth).iter("polyline"))) > 10
    assert 'viewBox="-112.0 -112.0 224.0 224.0"' in truth


def test_best_median_and_worst_are_chosen_among_the_answers():
    results = made_results()
    own = results[results["method"] == "simplex"].copy()
    own["disorientation_deg"] = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 0.5]
    own.loc[own["image"] == 5, "radius_nm"] = np.nan
    found = [(name, int(row["image"])) for name, row in chosen_images(own, "disorientation_deg")]
    # Ranked 6, 1, 3, 4, 2, 0 without 5: the lower of the two in the middle is the median.
    assert found == [("best", 6), ("median", 3), ("worst", 0)]
    assert [name for name, _ in chosen_images(own[:1], "disorientation_deg")] == ["best"]
    assert chosen_images(own.assign(q_w=np.nan), "disorientation_deg") == []


def test_pictures_show_the_images_upside_up(inputs):
    run = read_run(inputs)
    cards = [card for shown in examples(run).values() for card in shown]
    assert len(cards) == 3 * len(COST)
    content = base64.b64decode(cards[0]["pictures"]["target"].removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(content)))[::-1]
    shown = run.load([cards[0]["image"]])
    counts, mask = shown.images[0].numpy(), shown.mask[0].numpy()
    assert ((picture == 255) == ~mask).all()
    bright = np.unravel_index(np.argmax(counts * mask), counts.shape)
    assert picture[bright] == 254
    assert (picture[mask & (counts == 0)] == 0).all()

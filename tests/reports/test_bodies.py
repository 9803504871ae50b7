"""The page on which body it is, from rows made up."""

import importlib.util
from pathlib import Path

REPORTS = Path(__file__).parents[2] / "reports"


def test_confusion_matrix(monkeypatch):
    monkeypatch.syspath_prepend(str(REPORTS))
    spec = importlib.util.spec_from_file_location("bodies", REPORTS / "bodies.py")
    bodies = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bodies)

    def row(truth, shape, status, error):
        return {
            "truth": truth, "shape": shape, "status": status, "radius_error_nm": error,
            "disorientation_deg": error, "value_error": None, "core_seconds": 1.5,
        }  # fmt: skip

    found = {
        "images": 4,
        "origin": {
            "command": "python reports/bodies.py --images 4", "commit": "0123456789",
            "machine": {"processor": "abacus", "cores": 2},
        },
        "rows": [
            *[row("icosahedron", "icosahedron", "ok", 0.1)] * 4,
            *[row("cube", "cube", "ok", 0.2)] * 2,
            row("cube", "sphere", "ambiguous", None), row("cube", "sphere", "ok", None),
        ],
    }  # fmt: skip
    page = bodies.page(found)
    assert "Small scale: 4 images a body, 8 in all" in page
    assert "| right body | >= 97% | 75.0% |" in page
    assert "| right body, of the rows that say ok |  | 85.7% of 7 |" in page
    assert "| icosahedra called otherwise | <= 1% | 0.0% |" in page
    assert "| core-seconds an image (2 s on two cores) | <= 4 | 1.50 |" in page
    line = next(line for line in page.splitlines() if line.startswith("| 2 cube"))
    assert line.count("| 2 |") == 2  # two cubes, two spheres
    assert "| 50% | 1 | 0 |" in line
    images, values = bodies.images_of("hexagonal-plate", 2)
    assert images.images.sum((-2, -1)).mean() > 9e4
    assert all(0.1 <= value <= 0.5 for value in values)

"""One pattern under each of the eleven augmentations, as in figure 2 of Stielow et al. 2020.

    python reports/figure2.py [--radius 80] [--quaternion W,X,Y,Z] [--seed 854] [--out reports/figure2.png]
        [--blur-radius-is sigma|wolfram]

The pattern is simulated without noise; masked pixels are grey. A `.json` beside the figure says where it
comes from.
"""

import argparse
import math
from pathlib import Path

import torch

from icobench.images.augment import BLUR_RADIUS_IS, FILTERS, Augmented, augment
from icobench.images.pixels import log_image, usable_pixels
from icobench.provenance import provenance
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json


def gallery(augmented: Augmented, path: Path) -> None:
    """Draw the (11, H, W) images with their names, four a row."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = colormaps["inferno"].with_extremes(bad="0.6")
    figure = Figure(figsize=(8, 6.2), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 4)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, name, image, mask in zip(axes.flat, FILTERS, augmented.images, augmented.mask, strict=False):
        shown = image.where(mask, math.nan)
        drawn = axis.imshow(shown, origin="lower", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name.replace("_", " "))
    figure.colorbar(drawn, ax=axes, shrink=0.6, label="log image")
    with atomic_path(path.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radius", type=float, default=80.0, help="circumradius in nm")
    parser.add_argument("--quaternion", default="0.95,0.1,0.2,0.05", help="orientation, scalar first")
    parser.add_argument("--seed", type=int, default=854, help="854: every effect is easy to see")
    parser.add_argument("--blur-radius-is", choices=BLUR_RADIUS_IS, default="sigma")
    parser.add_argument("--out", type=Path, default=Path("reports/figure2.png"))
    arguments = parser.parse_args()

    experiment = Experiment()
    # Before the figure is written, which would mark the tree as changed.
    origin = provenance(arguments.seed, torch.device("cpu"), experiment)
    quaternion = torch.tensor([[float(part) for part in arguments.quaternion.split(",")]])
    quaternion /= quaternion.norm()
    image = log_image(Simulator(experiment).intensity(torch.tensor([arguments.radius]), quaternion))
    meaning = arguments.blur_radius_is
    shown = augment(image, "all", arguments.seed, mask=usable_pixels(experiment), blur_radius_is=meaning)
    gallery(shown, arguments.out)
    origin["command"] = (
        f"python reports/figure2.py --radius {arguments.radius:g} --quaternion {arguments.quaternion} "
        f"--seed {arguments.seed}" + (f" --blur-radius-is {meaning}" if meaning != "sigma" else "")
    )
    write_json(arguments.out.with_suffix(".json").resolve(), origin)


if __name__ == "__main__":
    main()

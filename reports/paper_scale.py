"""The published experiment, whole: simulators, data, networks, fits, dictionaries, sweep, costs. In stages.

    python reports/paper_scale.py [--stage NAME,...] [--scale paper|small] [--out FOLDER] [--fresh]

At the paper's scale it is a GPU's work; `--scale small` runs everything on two CPU cores in minutes. A
stage stops after `--max-minutes` (7.5) and exits with 3; the same command goes on where it was: finished
pieces are in FOLDER/STAGE.json, every one with command, commit and machine. Data and checkpoints lie in
`--work` and are made anew on another machine; a training starts over there, also a finished one whose
network was not judged or exported yet. A piece that fails is stored as failed (exit 1), the others go on,
and the next call tries it again. `--fresh` forgets what the chosen stages have stored and trained, and makes
every piece anew: in the first call only, as the next ones go on. Afterwards paper_scale.md is written, claim
by claim; once there are results of the paper's scale, a small one's page is README.md beside its results.

Needs torch, numpy, scipy, pandas, h5py, pyarrow, safetensors, matplotlib, rich and typer beside icobench's
source tree, which need not be installed.
"""

import sys
from pathlib import Path

# From a tree that is not installed, and from any folder.
for folder in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from paper_scale.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

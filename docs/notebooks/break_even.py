# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # When a network is worth training
#
# A network costs simulations and hours before the first image, and next to nothing for each image after. From
# how many images on does it pay? That depends on what it is compared with, and on what a simulation costs.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import pandas as pd

import icobench
from icobench.reporting.break_even import break_even, trained_and_competitors
from icobench.reporting.figures import plot_break_even
from icobench.reporting.ledger import accounts_of
from icobench.reporting.run_folder import read_runs

# %% [markdown]
# A comparison of your own is the beginning. Its times are those of this machine, now; eight images are too
# few for more than the order of magnitude.

# %%
folder = tempfile.mkdtemp()
icobench.compare(["network+lm", "dictionary+lm"], images=8, folder=folder, workers=1).table()

# %% [markdown]
# The ledger: what each method spent before the first image, and on each one.

# %%
run = next(iter(read_runs(Path(folder)).values()))
accounts = accounts_of(run.results, run.run)
pd.DataFrame(
    {
        "simulations before": [costs.fixed_simulations for costs in accounts],
        "core-seconds before": [costs.fixed_seconds for costs in accounts],
        "simulations an image": [costs.evaluations.mean() for costs in accounts],
        "core-seconds an image": [costs.seconds.mean() for costs in accounts],
    },
    index=[costs.method for costs in accounts],
).round(3)

# %% [markdown]
# Images from which the network is cheaper, if a simulation takes this long:

# %%
trained, competitors = trained_and_competitors(accounts)
for seconds in (1e-5, 1e-3, 1.0, 2.5):
    print(f"{seconds:g} s a simulation: {break_even(trained[0], competitors[0], cost=seconds).text} images")

# %% [markdown]
# ## The stored comparison
#
# The figure from the stored run of 200 of the paper's images (`reports/laptop`), for the networks and both
# opponents. A line ends where there is no break-even.

# %%
stored = read_runs(Path("reports/laptop"))
paper = next(run for run in stored.values() if run.test_set == "paper")
marks = {"exact, CPU": 1.6e-3, "sliced, CPU": 1.0, "the paper": 2.5}
chosen = [
    costs
    for costs in accounts_of(paper.results, paper.run)
    if costs.method in ("network+lm", "paper-network+lm", "simplex", "dictionary+lm")
]
plot_break_even(paper.results, chosen, marks)

# %% [markdown]
# With dear simulations only their numbers matter. With cheap ones the training and the time beside the
# simulations decide; against a dictionary a network may never pay. [What the runs say](../reports/README.md)
# has the numbers with their intervals.

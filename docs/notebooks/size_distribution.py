# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a detector file to a size distribution
#
# A file with images of many clusters goes in, the distribution of their radii comes out. Here the file is
# made by the simulator, so that the truth is known; put the name of your own in its place.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import icobench

file = Path("runs") / "run42.h5"
file.parent.mkdir(exist_ok=True)
random = np.random.default_rng(7)
true_radii = np.clip(random.lognormal(np.log(60), 0.25, 48), 32, 150)
turns = random.normal(size=(48, 4))  # normalised, these are uniform orientations
images = icobench.simulate(true_radii, turns, photons=3e5, hole_degrees=3, seed=1, path=file)

# %% [markdown]
# `reconstruct` reads the file, and its notes and origins say what was found in it and what was assumed. Read
# them before the numbers.

# %%
answer = icobench.reconstruct(file)
print(*answer.notes, *answer.origins, sep="\n")

# %% [markdown]
# A row for each image. Keep those whose status is `ok` or `ok-race`; what the others mean is on the page
# [Status and error bars](../status.md).

# %%
table = answer.to_frame()
kept = table[table["status"].isin(["ok", "ok-race"])]
print(table["status"].value_counts().to_string())
kept[["radius_nm", "radius_std_nm", "orientation_std_deg", "status"]].head()

# %% [markdown]
# The error bars are far below the width of the distribution, so that a histogram needs no unfolding.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
bins = np.linspace(25, 125, 21)
axes.hist(kept["radius_nm"], bins, alpha=0.7, label="reconstructed")
axes.hist(true_radii, bins, histtype="step", color="black", label="true")
axes.set(xlabel="radius (nm)", ylabel="images")
axes.legend()
plt.show()

# %%
logarithms = np.log(kept["radius_nm"])
print(f"median {np.exp(logarithms.mean()):.1f} nm, width of the logarithm {logarithms.std():.3f}")
print(f"median error bar {kept['radius_std_nm'].median():.3f} nm")

# %% [markdown]
# Where images were left out, say how many, and of which brightness: the distribution of what was kept need
# not be that of the beam.

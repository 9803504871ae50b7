# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Error bars and posterior of one image
#
# Two images of the same small cluster, bright and dim. The error bar of a fit is the curvature at its best
# point. The posterior is everything that the photons allow: where they differ, believe the posterior.

# %%
import matplotlib.pyplot as plt
import torch

import icobench
from icobench.reporting.corner import corner_figure

turn = (0.92, 0.2, 0.3, 0.15)
bright = icobench.simulate(34.0, turn, photons=3e4, hole_degrees=3, seed=1)
dim = icobench.simulate(34.0, turn, photons=600, hole_degrees=3, seed=2)

figure, panels = plt.subplots(1, 2, figsize=(7, 3.4))
for axes, images, title in zip(panels, (bright, dim), ("30,000 photons", "600 photons"), strict=True):
    axes.imshow(torch.log10(images.images[0] + 0.5), origin="upper")
    axes.set_title(title)
    axes.set_axis_off()
plt.show()

# %%
answers = {
    name: icobench.reconstruct(images, method="dictionary+lm", posterior=1000, seed=5)
    for name, images in (("bright", bright), ("dim", dim))
}
for name, answer in answers.items():
    row = answer.to_frame().iloc[0]
    print(f"{name}: {row['radius_nm']:.2f} +- {row['radius_std_nm']:.2f} nm, "
          f"{row['orientation_std_deg']:.1f} degrees, {row['status']}")  # fmt: skip

# %% [markdown]
# The samples are weighted. `posterior_effective` says how many they are worth, `posterior_k` above 0.7 that a
# part may be missing.

# %%
for name, answer in answers.items():
    print(answer.to_frame().filter(like="posterior").assign(image=name).to_string(index=False))


# %%
def drawn(answer):
    samples = answer.samples
    turns = torch.stack([samples[f"q_{axis}"] for axis in "wxyz"], 1)
    return corner_figure(samples["radius_nm"], turns, samples["weight"])


drawn(answers["bright"])

# %%
drawn(answers["dim"])

# %% [markdown]
# The mean and the width of the samples beside the error bar of the fit:

# %%
for name, answer in answers.items():
    radius, weight = answer.samples["radius_nm"], answer.samples["weight"]
    mean = (weight * radius).sum()
    width = (weight * (radius - mean) ** 2).sum().sqrt()
    print(
        f"{name}: samples {mean:.2f} +- {width:.2f} nm, fit +- {answer.radius_std_nm[0]:.2f} nm; true 34.00"
    )

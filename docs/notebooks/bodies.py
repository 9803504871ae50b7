# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Other bodies and materials
#
# The simulator takes any convex body and any refractive index. First some bodies of the same radius, seen
# along the same direction.

# %%
import matplotlib.pyplot as plt
import torch

import icobench
from icobench.simulator.material import refractive_index

turn = (0.9, 0.2, 0.3, 0.1)
shapes = ("icosahedron", "cube", "octahedron", "truncated-octahedron", "dodecahedron", "sphere")
figure, panels = plt.subplots(2, 3, figsize=(8, 5.6))
for axes, shape in zip(panels.flat, shapes, strict=True):
    pattern = icobench.simulate(70.0, turn, shape=shape).images[0]
    axes.imshow(torch.log10(pattern / pattern.max()), vmin=-6, vmax=0)
    axes.set_title(shape)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# A fit of icosahedra says so if the image is not of one: the status is `poor-fit`.

# %%
for shape in ("icosahedron", "cube", "sphere"):
    images = icobench.simulate([60.0, 80.0], turn, photons=1e5, shape=shape)
    print(shape, icobench.reconstruct(images, method="dictionary+lm").status)

# %% [markdown]
# A body of your own is a set of half-spaces: outward normals, distances from the centre, and its rotation
# group.

# %%
octahedron = icobench.shape("octahedron")
print(octahedron.normals.shape, octahedron.offsets[:2], len(octahedron.group))

# %% [markdown]
# ## Materials
#
# Straight rays know absorption. Silver refracts as well, and needs propagated waves
# ([Physics](../physics.md)).

# %%
silver = refractive_index("Ag")
print(f"silver at 13.5 nm: {silver:.4f}")
straight = icobench.Experiment(refractive_index=silver)
waves = icobench.Experiment(refractive_index=silver, physics="propagated")
real = icobench.simulate(70.0, turn, photons=1e6, hole_degrees=3, experiment=waves)
for name, believed in (("straight", straight), ("propagated", waves)):
    answer = icobench.reconstruct(real, method="dictionary+lm", experiment=believed, override=True)
    off = icobench.disorientation(answer.quaternion, real.quaternion)[0]
    radius_off = abs(float(answer.radius_nm[0]) - 70)
    print(f"{name}: {answer.status[0]}, off by {off:.3f} degrees and {radius_off:.3f} nm")

# %% [markdown]
# The two patterns differ most at large angles:

# %%
figure, panels = plt.subplots(1, 2, figsize=(7, 3.4))
for axes, (name, believed) in zip(panels, (("straight rays", straight), ("waves", waves)), strict=True):
    pattern = icobench.simulate(70.0, turn, experiment=believed).images[0]
    axes.imshow(torch.log10(pattern / pattern.max()), vmin=-6, vmax=0)
    axes.set_title(name)
    axes.set_axis_off()
plt.show()

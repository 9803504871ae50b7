# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A method of your own in the comparison
#
# A method is a function from a problem to an answer ([Extending](../extending.md)). This one draws random
# bodies, takes the one that explains the image best, and refines it by Levenberg-Marquardt. It is compared
# with the shipped methods on the same images.

# %%
# %matplotlib inline
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

import icobench
from icobench.fitting.least_squares import levenberg_marquardt, with_error_bars
from icobench.fitting.simplex import SimplexOptions, random_starts
from icobench.fitting.warm_start import judged


@dataclass(frozen=True)
class Options:
    guesses: int = 30


def run(problem, options, progress):
    objective = problem.objective()  # compares simulations with the images, and counts them
    count = len(problem.images)
    starts = SimplexOptions(starts=options.guesses)
    radii, turns = random_starts(count, starts, problem.seed, problem.images.numbers)
    image = torch.arange(count).repeat_interleave(options.guesses)
    values = objective.value(image, radii.flatten(), turns.flatten(0, 1)).reshape(count, -1)
    best = values.argmin(1)
    rows = torch.arange(count)
    fit = levenberg_marquardt(objective, radii[rows, best], turns[rows, best], progress=progress)
    return with_error_bars(objective, judged(objective, fit))


guess = icobench.Method("guess+lm", "the best of random bodies, then Levenberg-Marquardt", run, Options())

# %% [markdown]
# Every simulation goes through the objective, so that nothing is simulated without being counted.

# %%
result = icobench.compare([guess, "dictionary+lm", "network+lm"], images=12, seed=3)
columns = ["method", "success", "disorientation_deg", "evaluations", "status"]
result.results[columns].groupby("method", sort=False).head(2)

# %%
result.table()

# %% [markdown]
# The course of each fit: error against simulated images.

# %%
result.plot()

# %% [markdown]
# So few guesses may leave an image in a wrong minimum. The status knows: such a fit is not `ok`.

# %%
mine = result.results[result.results["method"] == "guess+lm"]
print(mine.groupby(["status", "success"]).size().to_string())

# %% [markdown]
# `with_options` varies the method: how many guesses are worth it? Twelve images are too few to tell methods
# apart that differ by a few per cent; for that `compare` tests pairs on hundreds of images.

# %%
solved = {30: mine["success"].mean()}
for guesses in (10, 100):
    answer = icobench.compare([guess.with_options(guesses=guesses)], images=12, seed=3).results
    solved[guesses] = answer["success"].mean()
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(sorted(solved), [solved[guesses] for guesses in sorted(solved)], "o-")
axes.set(xlabel="random guesses", ylabel="share solved", xscale="log", ylim=(0, 1.05))
plt.show()

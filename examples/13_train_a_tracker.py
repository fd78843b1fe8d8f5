# %% [markdown]
# # Train a tracker in ten minutes
#
# Features for the correlation filter of lesson 11, learned end to end: the loss of the filter's answer
# goes back through the fit into the CNN. This page trains for a minute on two photographs; with
# `MINUTES=10 python examples/13_train_a_tracker.py` it does what the title says, and
# `python -m tracker train correlation DATA` what ships with the project (there HOG and Lab take
# part in the fit, `hand=True`; here the CNN is alone).

# %%
import os
import time
from pathlib import Path

import numpy as np
from course import show
from sklearn.datasets import load_sample_images

import tracker.demo
from minideep import inspect, no_grad
from tracker.correlation import CorrelationTracker
from tracker.correlation_training import PAIRS, FeatureTrainer, pair_loss, rendered_pair
from tracker.metrics import iou
from tracker.video import FrameSource

MINUTES = float(os.environ.get("MINUTES", 0.75))

# %% [markdown]
# ## Pairs out of two photographs
#
# A piece of a photograph is the target. The template shows it in the middle; the search crop shows it
# moved, turned, stretched, lit otherwise, now and then pasted before something else or half covered:
# and we know exactly where it is. To judge, pairs from frames of a video that is not trained on.

# %%
pictures = [image[::2, ::2, ::-1].copy() for image in load_sample_images().images]  # BGR
clip = Path(tracker.demo.CLIPS) / "cup"
with FrameSource(clip.with_suffix(".webm")) as source:
    noted = tracker.demo.read_notes(clip.with_suffix(".boxes.txt"), source.count)
    frames = [frame.copy() for frame in source]


def batch(rng, pictures, n=PAIRS):
    return [np.stack(part) for part in zip(*(rendered_pair(rng, pictures) for _ in range(n)))]


templates, searches, poses = batch(np.random.default_rng(1), pictures)
with inspect.style() as plt:
    figure, axes = plt.subplots(2, 6, figsize=(9, 3.3), layout="constrained")
    for row, crops, name in zip(axes, (templates, searches), ("template", "search")):
        for ax, crop, pose in zip(row, crops, poses):
            ax.imshow(crop[..., ::-1])
            ax.set_axis_off()
            at = (80, 80) if name == "template" else 80 + 40 * pose[:2]
            ax.plot(*at, "+", color="white", markersize=10)
        row[0].set_title(name, loc="left")
show(figure, "Six pairs: the cross is where the filter, fitted above, has to answer below.")

# %% [markdown]
# ## The loop
#
# The library's own `FeatureTrainer`: Adam, gradient clipped to norm 1. `hits`: how often the highest
# answer is within 0.3 target sizes of the truth.

# %%
judged = batch(np.random.default_rng(2), frames[::20], 64)


def judge(trainer):
    with no_grad():
        return pair_loss(trainer.network, trainer.gain, *judged, hand=False)[1]


trainer = FeatureTrainer(seed=0, steps=100_000, hand=False)  # far away: the learning rate stays up
before, curve = judge(trainer), []
rng = np.random.default_rng(0)
trainer.step_on(batch(rng, pictures))  # compiles, the first time on a machine
start = time.process_time()
while time.process_time() - start < 60 * MINUTES:
    curve.append(trainer.step_on(batch(rng, pictures)))
after = judge(trainer)
print(f"{trainer.step} steps of {PAIRS} pairs; on frames never trained on: "
      f"loss {before['loss']:.3f} -> {after['loss']:.3f}, hits {before['hits']:.2f} -> "
      f"{after['hits']:.2f}")

# %%
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    losses = np.array([c["loss"] for c in curve])
    ax.plot(np.convolve(losses, np.ones(9) / 9, "valid"), label="training pairs, mean of 9 steps")
    ax.axhline(before["loss"], color="#e0852d", linestyle=":", label="judged, before")
    ax.axhline(after["loss"], color="#3fa66a", linestyle="--", label="judged, after")
    ax.set(xlabel="step", ylabel="loss (1: answering nothing)")
    ax.grid(True)
    ax.legend()
show(figure, "The loss falls on the training pairs and on frames of a video that was never trained on.")

# %% [markdown]
# ## Does it follow?
#
# The tracker of lesson 11's filter on these features alone, on the first 80 frames of the cup.


# %%
def follow(network, count=80):
    t = CorrelationTracker(network, hand=False)
    t.init(frames[0], noted[0])
    boxes = np.array([t.update(frame).box for frame in frames[1:count]])
    known = np.isfinite(noted[1:count, 0])
    return iou(boxes[known], noted[1:count][known])


overlap = follow(trainer.network)
print(f"mean overlap with the boxes noted by hand: {overlap.mean():.2f}")
with inspect.style() as plt:
    figure = inspect.plot_filters(trainer.network.conv1, 16)
show(figure, "16 filters of the first layer after this short training.")

# %% [markdown]
# ## Exercises
#
# 1. `hill(n, row, column, sigma)`: the wanted answer, a Gaussian (n, n) with its peak at [row, column],
#    on circular distances.
# 2. `hit(answer, row, column, radius)`: is the highest number of an answer (n, n) within the radius of
#    the truth, circularly?
#
# Solutions: `examples/solutions/13.py`.

# %% [markdown]
# # Track a video, and watch the gates
#
# The source text's own pipeline on a real clip: CNN features, dense layers for the box and for "is it
# there", an LSTM over the frames. We follow the cup of the demo, look inside the LSTM while it does,
# then hide the cup for twenty frames and watch again.

# %%
from pathlib import Path

import numpy as np
from course import show

import tracker
import tracker.demo
from minideep import inspect
from minideep.inspect.observe import observe
from tracker.metrics import iou
from tracker.video import FrameSource

clip = Path(tracker.demo.CLIPS) / "cup"
with FrameSource(clip.with_suffix(".webm")) as source:
    noted = tracker.demo.read_notes(clip.with_suffix(".boxes.txt"), source.count)
    frames = [frame.copy() for frame in source]
print(len(frames), "frames of", frames[0].shape, "; boxes noted by hand on",
      int(np.isfinite(noted[:, 0]).sum()))

# %% [markdown]
# ## Following, and noting what enters the LSTM
#
# `observe` tells us of every layer that runs. Of the first LSTM cell we keep the input x (128 numbers:
# what the CNN and the dense layer made of this frame) and the state (h, c) that it gave.


# %%
class Watch:
    def __init__(self, cell):
        self.cell, self.x, self.h, self.c = cell, [], [], []

    def layer_called(self, layer, name, x, y):
        if layer is self.cell:
            h, c = y[1]
            for kept, value in ((self.x, x), (self.h, h), (self.c, c)):
                kept.append(value.numpy()[0].copy())


def follow(frames):
    t = tracker.load("recurrent")
    watch = Watch(t.network.lstm1)
    with observe(watch):
        t.init(frames[0], noted[0])
        states = [t.update(frame) for frame in frames[1:]]
    return t, watch, states


t, watch, states = follow(frames)
known = np.isfinite(noted[1:, 0])
overlap = iou(np.array([s.box for s in states])[known], noted[1:][known])
print(f"mean overlap (IoU) with the noted boxes {overlap.mean():.2f}, "
      f"mean confidence {np.mean([s.confidence for s in states]):.2f}")

# %% [markdown]
# ## The gates, recomputed
#
# i, f, o = σ(x W + h₋ R + b), c̃ = tanh(…), and from them c = f ⊙ c₋ + i ⊙ c̃, h = o ⊙ tanh(c). One
# detail: every 32 frames this tracker starts its memory afresh, from what it was after the first
# frame, since it was trained on short clips. If our gates are the true ones, they must give the
# states that the network had.


# %%
def gates_of(t, watch):
    cell, reset = watch.cell, t.RESET
    x, h, c = (np.array(v) for v in (watch.x, watch.h, watch.c))
    before_h, before_c = (np.concatenate([np.zeros_like(v[:1]), v[:-1]]) for v in (h, c))
    for step in range(reset, len(x), reset):
        before_h[step], before_c[step] = h[0], c[0]
    W, R, b = (w.numpy() for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
    i, f, candidate, o = np.split(x @ W + before_h @ R + b, 4, axis=1)
    i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
    new_c = f * before_c + i * np.tanh(candidate)
    error = float(np.abs(o * np.tanh(new_c) - h).max())
    return {"input": i[None], "forget": f[None], "output": o[None], "cell": new_c[None]}, error


gates, error = gates_of(t, watch)
print(f"states from the gates against the network's: {error:.1e}")
show(inspect.plot_gates(gates), "200 frames of the cup: 64 units from top to bottom. The stripes every "
                                "32 frames are the fresh starts of the memory.")

# %% [markdown]
# How long does a unit remember? With forget gate f, its content falls to 1/e in −1/log f frames.

# %%
remembers = -1 / np.log(gates["forget"][0].mean(axis=0))
print(f"frames that units remember: from {remembers.min():.1f} to {remembers.max():.1f}, "
      f"half of them more than {np.median(remembers):.1f}")

# %% [markdown]
# ## Hide the cup
#
# From frame 60 to 79 a piece of the background is put over the place where the cup is: between the
# frames that have a note, on the straight line from one note to the next.

# %%
HIDDEN = range(60, 80)
covered = [frame.copy() for frame in frames]
notes = np.flatnonzero(np.isfinite(noted[:, 0]))
for k in HIDDEN:
    x, y, w, h = (int(np.interp(k, notes, noted[notes, i])) for i in range(4))
    height, width = frames[k].shape[:2]
    x, y, w, h = max(x - w // 4, 0), max(y - h // 4, 0), w * 3 // 2, h * 3 // 2
    left = 0 if x > width // 2 else width - w
    patch = frames[k][y:y + h, left:left + w]
    covered[k][y:y + patch.shape[0], x:x + patch.shape[1]] = patch[:, :max(width - x, 0)]
t2, watch2, states2 = follow(covered)
confidence = np.array([s.confidence for s in states]), np.array([s.confidence for s in states2])
during = slice(HIDDEN.start - 1, HIDDEN.stop - 1)  # states[k - 1] is of frame k
seen, hidden = float(confidence[0][during].mean()), float(confidence[1][during].mean())
said_lost = int(sum(s.lost for s in states2[during]))
print(f"mean confidence in these frames: {seen:.2f} when seen, {hidden:.2f} when hidden; "
      f"it said lost in {said_lost} of {len(HIDDEN)}")

# %%
gates2, _ = gates_of(t2, watch2)
with inspect.style() as plt:
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.5, 4.4), sharex=True,
                                          layout="constrained")
    above.plot(range(1, len(frames)), confidence[0], label="as it is")
    above.plot(range(1, len(frames)), confidence[1], label="hidden in frames 60 to 79")
    above.set(ylabel="confidence")
    above.legend()
    for values, label in ((gates, "as it is"), (gates2, "hidden")):
        below.plot(range(1, len(frames)), values["input"][0].mean(axis=1), label=label)
    below.set(xlabel="frame", ylabel="input gates, mean")
    for ax in (above, below):
        ax.axvspan(HIDDEN.start, HIDDEN.stop, color="#808080", alpha=0.2)
        ax.grid(True)
show(figure, "While the cup is hidden the confidence falls, and what the LSTM lets in changes with it.")

# %% [markdown]
# ## Exercises
#
# 1. `overlap(a, b)`: intersection over union of two boxes x, y, w, h. What is it for boxes that only
#    touch?
# 2. `first_lost(confidence, low, high)`: the tracker says "lost" below `low`, until it is above `high`
#    again (hysteresis: no flicker). Give the list of True and False for a list of confidences.
#
# Solutions: `examples/solutions/12.py`.

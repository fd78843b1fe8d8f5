# %% [markdown]
# # The correlation filter, derived, and its gradient
#
# How to find a thing again that was seen once: fit, in closed form and in a hundredth of a second, the
# filter that answers with a peak where the thing is; slide it over the next frame. All shifts of the
# picture are training samples, and the Fourier transform makes that cheap. Then the step that makes
# features learnable: the derivative *through* the fit.

# %%
import time
from pathlib import Path

import cv2
import numpy as np
from course import show

import minideep
import tracker.demo
from minideep import inspect
from tracker.differentiable_filter import filter_response
from tracker.video import FrameSource

# %% [markdown]
# ## From ridge regression to one division per frequency
#
# x is the picture of the target (C channels), y the wanted answer: a Gaussian peak at shift 0. We want
# the filter f with the least
#
#     E(f) = ‖Σ_c x_c ⋆ f_c − y‖² + λ‖f‖²
#
# Circular convolution is a product in the Fourier domain, so each frequency stands alone (capitals):
#
#     E(F) = Σ_ω |Σ_c X_c F_c − Y|² + λ Σ_c |F_c|²
#     ∂E/∂F̄_c = X̄_c (Σ_d X_d F_d − Y) + λ F_c = 0
#     F_c = X̄_c Y / (Σ_d |X_d|² + λ)
#
# (Put F_c = X̄_c A into the second line: A (Σ|X|² + λ) = Y.) A regression with as many samples as
# pixels costs one FFT. Let us check it against the regression written out, on 1 × 12 "pixels".

# %%
rng = np.random.default_rng(0)
n, channels, penalty = 12, 3, 0.1
x, y = rng.standard_normal((n, channels)), np.exp(-np.minimum(np.arange(n), n - np.arange(n))**2 / 2)

X = np.fft.fft(x, axis=0)
F = X.conj() * np.fft.fft(y)[:, None] / ((np.abs(X)**2).sum(axis=1, keepdims=True) + penalty)
by_fourier = np.fft.ifft(F, axis=0).real

# Written out: row s of the matrix convolves: Σ_c Σ_u x_c[s − u] f_c[u] = y[s].
matrix = np.concatenate([[[x[(s - u) % n, c] for u in range(n)] for s in range(n)]
                         for c in range(channels)], axis=1)                     # (n, C·n)
by_regression = np.linalg.solve(matrix.T @ matrix + penalty * np.eye(n * channels), matrix.T @ y)
difference = float(np.abs(by_fourier.T.ravel() - by_regression).max())
print(f"largest difference between the two filters: {difference:.1e}")

# %% [markdown]
# ## On a real frame
#
# The cup of the demo: fit on frame 0, look at frame 10. Channels: grey values and their two slopes. A
# window fades the edges out, since circular shifts join left and right.

# %%
with FrameSource(Path(tracker.demo.CLIPS) / "cup.webm") as source:
    boxes = tracker.demo.read_notes(Path(tracker.demo.CLIPS) / "cup.boxes.txt", source.count)
    frames = [frame.copy() for frame, _ in zip(source, range(11))]
SIDE = 64
cx, cy = boxes[0, :2] + boxes[0, 2:] / 2
scale = 2.5 * np.sqrt(boxes[0, 2] * boxes[0, 3]) / SIDE  # pixels of the frame per cell


def look(frame):
    """(64, 64, 3) channels of the surroundings of the place where the cup was in frame 0."""
    corner = np.float32([[scale, 0, cx - scale * SIDE / 2], [0, scale, cy - scale * SIDE / 2]])
    crop = cv2.warpAffine(frame, corner, (SIDE, SIDE), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)
    grey = crop.mean(axis=2) / 255 - 0.5
    down, across = np.gradient(grey)
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    return np.stack([grey, 4 * down, 4 * across], axis=-1) * window[..., None], crop


def gaussian(size, deviation):
    d = np.fft.fftfreq(size, 1 / size)
    return np.exp(-(d[:, None]**2 + d**2) / (2 * deviation**2))


template, before = look(frames[0])
search, after = look(frames[10])
label = gaussian(SIDE, 2.0)
tensors = [minideep.tensor(a) for a in (template[None], search[None], label, [1e-2 *
           float((template**2).sum())])]
start = time.perf_counter()
response = filter_response(*tensors).numpy()[0]
milliseconds = 1e3 * (time.perf_counter() - start)
peak = np.array(np.unravel_index(response.argmax(), response.shape))
shift = np.where(peak > SIDE // 2, peak - SIDE, peak)[::-1] * scale
noted = boxes[10, :2] + boxes[10, 2:] / 2 - (cx, cy)
error = float(np.hypot(*(shift - noted)))
print(f"peak: the cup moved by {shift.round(1)} pixels; noted by hand {noted.round(1)}; "
      f"{milliseconds:.1f} ms")

# %%
with inspect.style() as plt:
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    for ax, picture, title in zip(axes, (before, after, np.fft.fftshift(response)),
                                  ("frame 0, fitted here", "frame 10, searched here",
                                   "the response, no shift in the middle")):
        ax.imshow(picture[..., ::-1] if picture.ndim == 3 else picture, cmap="viridis")
        ax.set_title(title)
        ax.set_axis_off()
    axes[2].plot(*((peak + SIDE // 2) % SIDE)[::-1], "+", color="white", markersize=12)
show(figure, "The filter fitted on frame 0 answers in frame 10 with one peak, within 8 pixels of the "
             "place noted by hand.")

# %% [markdown]
# ## Two exact properties
#
# Fitted and run on the same picture, with λ → 0, the answer is the label. And if the search picture is
# rolled, the answer rolls with it.

# %%
small = minideep.tensor([1e-9])
noise = minideep.tensor(rng.standard_normal((1, 16, 16, 4)))
target = gaussian(16, 1.5)
itself = filter_response(noise, noise, minideep.tensor(target), small).numpy()[0]
rolled = filter_response(noise, minideep.tensor(np.roll(noise.numpy(), (3, -2), (1, 2))),
                         minideep.tensor(target), small).numpy()[0]
properties = (float(np.abs(itself - target).max()),
              float(np.abs(rolled - np.roll(target, (3, -2), (0, 1))).max()))
print("deviations:", properties)

# %% [markdown]
# ## The gradient through the fit
#
# To *learn* the channels x, z = φ(picture), the loss of the response must be differentiated through
# the division: with A = Y/D, D = Σ|X|² + λ, M = Σ Z_c X̄_c, r = F⁻¹(A·M) and G = F(∂L/∂r)
#
#     ∂L/∂z_c = Re F⁻¹(G·Ā·X_c)
#     ∂L/∂x_c = Re F⁻¹(Ḡ·A·Z_c − 2 X_c · Re(G · conj(A·M) / D))
#
# The engine gets the same from its own FFT ops, chained; finite differences agree with both.

# %%
tx, tz = (minideep.tensor(rng.standard_normal((1, 8, 8, 2)), requires_grad=True) for _ in range(2))
ty, tl = minideep.tensor(gaussian(8, 1.0)), minideep.tensor([0.5])
g = rng.standard_normal((1, 8, 8))
filter_response(tx, tz, ty, tl).backward(g)

Xf, Zf, G = np.fft.fft2(tx.numpy(), axes=(1, 2)), np.fft.fft2(tz.numpy(), axes=(1, 2)), \
    np.fft.fft2(g)[..., None]
D = (np.abs(Xf)**2).sum(-1, keepdims=True) + 0.5
A, M = np.fft.fft2(ty.numpy())[None, ..., None] / D, (Zf * Xf.conj()).sum(-1, keepdims=True)
dz = np.fft.ifft2(G * A.conj() * Xf, axes=(1, 2)).real
dx = np.fft.ifft2(G.conj() * A * Zf - 2 * Xf * (G * (A * M).conj() / D).real, axes=(1, 2)).real
agreement = max(float(np.abs(dz - tz.grad.numpy()).max()), float(np.abs(dx - tx.grad.numpy()).max()))
print(f"formula against the op: {agreement:.1e}")
minideep.gradcheck(lambda x, z: filter_response(x, z, ty, tl), tx, tz)

# %% [markdown]
# ## Learning a channel
#
# A toy: the target is a weak pattern in channel 0, and channel 1 is strong noise, different in the
# template and in the search picture. Two weights multiply the channels; gradient descent through the
# filter finds out which channel to listen to.

# %%
weights = minideep.tensor(np.ones(2), requires_grad=True)
wanted, history = minideep.tensor(gaussian(16, 1.5)), []
optimizer = minideep.optimizers.Adam(0.05)
for step in range(100):
    pattern = rng.standard_normal((8, 16, 16))
    pair = [minideep.tensor(np.stack([pattern, 3 * rng.standard_normal((8, 16, 16))], axis=-1))
            for _ in range(2)]
    r = filter_response(pair[0] * weights, pair[1] * weights, wanted, minideep.tensor(np.full(8, 5.0)))
    loss = ((r - wanted) ** 2).sum() / 8
    loss.backward()
    optimizer.step([weights])
    history.append(np.abs(weights.numpy()).copy())
ratio = float(history[-1][0] / max(history[-1][1], 1e-9))
print("weights of the two channels at the end:", history[-1].round(3))
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    ax.plot(history, label=["channel 0: the target's pattern", "channel 1: noise"])
    ax.set(xlabel="training step", ylabel="|weight|")
    ax.grid(True)
    ax.legend()
show(figure, "Through the filter's fit the gradient finds that channel 1 is noise.")

# %% [markdown]
# ## Exercises
#
# 1. `best_shift(x, z)`: the shift of z against x by plain cross-correlation, F⁻¹(Z·X̄), for pictures
#    (H, W). Why does dividing by D make a sharper peak?
# 2. `energy_of_filter(x, y, penalties)`: ‖f‖² for several λ. It falls as λ grows: show it with
#    F = X̄Y/(|X|² + λ) and Parseval's theorem, without an inverse transform.
#
# Solutions: `examples/solutions/11.py`.

"""Figures of what the inspector found. matplotlib, on a transparent ground with grey text, so that
they can be read on light and on dark pages."""

import contextlib

import numpy as np

from minideep.tensor import Tensor

__all__ = """plot_activations plot_filters plot_gates plot_gradient_flow plot_histograms
plot_loss_landscape style""".split()

GREY = "#808080"  # contrast 4 on white and 5 on black
STYLE = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
         "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY,
         "ytick.color": GREY, "axes.titlecolor": GREY, "legend.labelcolor": GREY,
         "legend.framealpha": 0.0, "axes.titlesize": 9, "grid.color": GREY, "grid.alpha": 0.3,
         "lines.linewidth": 1.8, "axes.prop_cycle": "cycler('color', ['#3b8fd6', '#e0852d', "
         "'#3fa66a', '#cc4f5f', '#9270c8', '#8a7a5c'])"}


@contextlib.contextmanager
def style():
    """pyplot in the style of these figures: `with style() as plt:`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("the figures need matplotlib: pip install matplotlib") from error
    with plt.rc_context(STYLE):
        yield plt


def _array(x):
    return x.numpy() if isinstance(x, Tensor) else np.asarray(x)


def _check_sample(sample, arrays):
    for a in arrays:
        if not -len(a) <= sample < len(a):
            raise ValueError(f"sample {sample} was asked for, but the batch has {len(a)}")


def plot_activations(outputs, sample=0, channels=8):
    """Feature maps of one sample, a row for each layer with a picture as its output.

    outputs: the dictionary of `record`. The first call of each layer is shown, and its first
    `channels` channels, each on its own scale of grey. Returns a matplotlib figure.
    """
    maps = {name: _array(calls[0]) for name, calls in outputs.items()
            if getattr(calls[0], "ndim", 0) == 4}
    _check_sample(sample, maps.values())
    maps = {name: m[sample] for name, m in maps.items()}
    if not maps:
        raise ValueError("no layer recorded a picture (N, H, W, C); got outputs of "
                         + (", ".join(outputs) or "no layer"))
    with style() as plt:
        figure, axes = plt.subplots(len(maps), channels, squeeze=False, layout="constrained",
                                    figsize=(1.25 * channels, 1.4 * len(maps)))
        for row, (name, image) in zip(axes, maps.items()):
            for c, ax in enumerate(row):
                ax.set_axis_off()
                if c < image.shape[-1]:
                    ax.imshow(image[..., c], cmap="gray")
            height, width, count = image.shape
            row[0].set_title(f"{name.split('/')[-1]}: {height}x{width}, {count} channels",
                             loc="left")
    return figure


def plot_filters(layer, count=32):
    """The first `count` filters of a convolution on 1 or 3 channels: weights as pixels, grey is 0."""
    if not layer.built:
        raise ValueError(f"{layer.name} has no weights yet; call it once first")
    w = _array(layer.kernel)  # (KH, KW, C, O)
    if w.ndim != 4 or w.shape[2] not in (1, 3):
        raise ValueError(f"filters can be drawn of a convolution on 1 or 3 channels; {layer.name} "
                         f"has a kernel of shape {w.shape}")
    count = max(1, min(count, w.shape[-1]))
    columns = min(count, 8)
    with style() as plt:
        figure, axes = plt.subplots(-(-count // columns), columns, squeeze=False,
                                    layout="constrained",
                                    figsize=(columns, 1.05 * -(-count // columns) + 0.4))
        limit = np.abs(w).max() or 1.0
        for i, ax in enumerate(axes.flat):
            ax.set_axis_off()
            if i < count:
                ax.imshow(np.clip(0.5 + w[..., i] / (2 * limit), 0, 1).squeeze(), cmap="gray",
                          vmin=0, vmax=1, interpolation="nearest")
        figure.suptitle(f"{layer.name}: {count} of {w.shape[-1]} filters, "
                        f"{w.shape[0]}x{w.shape[1]}", fontsize=9)
    return figure


def plot_gradient_flow(flows):
    """Gradient norms over the time steps, on a logarithmic axis. flows: {name: (T,)} of
    `gradient_flow`, for instance with the gradient gate off and on."""
    with style() as plt:
        figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        for name, norms in flows.items():
            ax.semilogy(np.arange(len(norms)), np.maximum(_array(norms), 1e-30), label=name)
        ax.set_xlabel("time step of the state")
        ax.set_ylabel("norm of the loss's gradient")
        ax.grid(True)
        ax.legend()
    return figure


def plot_gates(values, sample=0):
    """Gate values over time, one picture for each gate, a row for each unit. values: of `gates`."""
    values = {name: _array(v) for name, v in values.items()}
    _check_sample(sample, values.values())
    with style() as plt:
        figure, axes = plt.subplots(len(values), 1, squeeze=False, sharex=True,
                                    layout="constrained", figsize=(7, 1.5 * len(values) + 0.5))
        for ax, (name, v) in zip(axes[:, 0], values.items()):
            squashed = name in ("candidate", "cell")
            limit = max(np.abs(v[sample]).max(), 1e-6)
            image = ax.imshow(v[sample].T, aspect="auto", interpolation="nearest",
                              cmap="RdBu_r" if squashed else "viridis",
                              vmin=-limit if squashed else 0, vmax=limit if squashed else 1)
            ax.set_ylabel("unit")
            ax.set_title(name)
            figure.colorbar(image, ax=ax)
        axes[-1, 0].set_xlabel("time step")
    return figure


def plot_histograms(model, bins=40):
    """Weights of the model, and their gradients where there are any: two columns of histograms, a
    row for each weight, counts on a logarithmic axis."""
    named = model.named_weights()
    if not named:
        raise ValueError(f"{model.name} has no weights yet; call it once first")
    with style() as plt:
        figure, axes = plt.subplots(len(named), 2, squeeze=False, layout="constrained",
                                    figsize=(7, 1.2 * len(named) + 0.5))
        for row, (name, weight) in zip(axes, named.items()):
            for ax, t, what in zip(row, (weight, weight.grad), ("weights", "gradient")):
                if t is None:
                    ax.set_axis_off()
                    continue
                ax.hist(_array(t).ravel(), bins=bins, log=True,
                        color="#3b8fd6" if what == "weights" else "#e0852d")
                ax.set_title(f"{name}: {what}", loc="left")
                ax.set_ylabel("count")
        for ax in axes[-1]:
            ax.set_xlabel("value")
    return figure


def plot_loss_landscape(at, losses):
    """Contours of the result of `loss_landscape`, the model itself in the middle."""
    with style() as plt:
        figure, ax = plt.subplots(figsize=(4.8, 4), layout="constrained")
        filled = ax.contourf(at, at, losses.T, levels=20, cmap="viridis")
        ax.plot(0, 0, "o", color="white", markeredgecolor="black")
        ax.set_xlabel("along the first direction (weights' norms)")
        ax.set_ylabel("along the second")
        figure.colorbar(filled, ax=ax, label="loss")
    return figure

"""Models: layers with a training loop. Sequential is a chain of them; a subclass of Model says in
call() how its layers, kept as attributes, are connected.

    model = Sequential([Dense(32, activation="relu"), Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    history = model.fit(x, y, batch_size=32, epochs=10, validation_split=0.1)

`fit` is the loop of `train_step` (forward, loss, backward, optimizer) over shuffled batches; what it
adds is averages, validation and callbacks. One may as well write that loop oneself.
"""

import numpy as np

from minideep import callbacks as callbacks_module, losses, metrics as metrics_module, optimizers
from minideep import serialization
from minideep.config import Configurable, deserialize, serialize
from minideep.data import ArrayDataset, DataLoader
from minideep.layers.base import Layer
from minideep.layers.core import Input
from minideep.mode import no_grad
from minideep.tensor import Tensor

__all__ = ["Model", "Sequential", "load_model"]

_OPTIMIZER = "optimizer/"  # in files, before the names of the optimizer's arrays


class Model(Layer):
    """A layer that can be trained: compile, then fit, evaluate, predict; and saved and loaded."""

    optimizer = loss = None
    output_mask = None  # (N, T) of the last call: time steps that loss and metrics leave out where it
    #                     is False. A Sequential sets it from its layers, a subclass may in call().

    def compile(self, optimizer="rmsprop", loss=None, metrics=None):
        """Choose how to train: names ("adam", "mse", "accuracy"), objects or functions."""
        if loss is None:
            raise ValueError("compile() needs a loss: a name such as 'mse' or 'binary_crossentropy', "
                             "a function, or an object of minideep.losses")
        self.optimizer, self.loss = optimizers.get(optimizer), losses.get(loss)
        metrics = [metrics] if isinstance(metrics, str) else metrics
        self.metrics = [metrics_module.get(m) for m in metrics or []]
        self._compiled_with = {"optimizer": self.optimizer, "loss": self.loss,
                               "metrics": list(metrics or [])}

    # ------------------------------------------------------------------------------------ training

    def train_step(self, x, y, sample_weight=None):
        """One step down the loss of one batch. Returns (loss, predictions). May be overridden."""
        parameters = self.trainable_weights
        for p in parameters:
            p.grad = None  # of backward() calls before this one
        y_pred = self(x, training=True)
        loss = self.loss(y, y_pred, sample_weight, self.output_mask)
        parameters = parameters or self.trainable_weights  # built just now
        if parameters:
            loss.backward()
            self.optimizer.step(parameters)
        return loss.detach(), y_pred.detach()

    def fit(self, x, y=None, batch_size=32, epochs=1, verbose="auto", callbacks=None,
            validation_split=0.0, validation_data=None, shuffle=True, class_weight=None,
            sample_weight=None, initial_epoch=0, validation_batch_size=None):
        """Train for `epochs` passes over the data; returns the History.

        x, y: arrays with one sample along axis 0 each, or, for x alone, a DataLoader or any
        collection of batches (x, y) or (x, y, sample_weight). validation_split: this last share of
        the arrays, taken before any shuffling, is for validation; validation_data: (x, y) or
        (x, y, sample_weight) for it. class_weight: {class number: weight}. verbose: 0 silent,
        1 a progress bar, 2 a line for each epoch. Where the output of a Sequential has a mask of time
        steps (see layers.Masking), loss and metrics leave out those that are masked.
        """
        self._need_compile("fit")
        if not (validation_data is None or _is_batches(validation_data, None) or isinstance(
                validation_data, (tuple, list)) and 2 <= len(validation_data) <= 3):
            raise ValueError("validation_data must be (x, y) or (x, y, sample_weight), or batches; got "
                             f"{type(validation_data).__name__} of {len(validation_data)}")
        if _is_batches(x, y):
            if validation_split or sample_weight is not None or class_weight is not None:
                raise ValueError("validation_split, sample_weight and class_weight want arrays; with "
                                 "batches give validation_data, and (x, y, sample_weight) batches")
            loader = x
        else:
            arrays = _arrays(x, y, sample_weight)
            if validation_split and validation_data is None:
                arrays, validation_data = _split(arrays, validation_split)
            if class_weight is not None:
                arrays = _weigh_classes(*arrays, class_weight=class_weight)
            loader = DataLoader(ArrayDataset(*arrays), batch_size, shuffle, prefetch=0)
            if not len(loader):
                raise ValueError("fit() was given no samples")
        if isinstance(callbacks, callbacks_module.Callback):
            callbacks = [callbacks]
        history = callbacks_module.History()  # after the others: they may add to what it keeps
        bar = callbacks_module.ProgressBar(1 if verbose == "auto" else verbose)
        watchers = [*(callbacks or []), history] + [bar] * bool(verbose)
        steps = len(loader) if hasattr(loader, "__len__") else None
        for c in watchers:
            c.model, c.params = self, {"epochs": epochs, "steps": steps}

        def tell(event, *args):
            for c in watchers:
                getattr(c, event)(*args)

        self.stop_training, self.initial_epoch, logs = False, initial_epoch, {}
        if not self.built and isinstance(loader, DataLoader):  # so that callbacks can load weights
            self._build_from(loader.dataset[0][0])
        try:
            tell("on_train_begin")
            for epoch in range(self.initial_epoch, epochs):
                if isinstance(loader, DataLoader):
                    loader.epoch = epoch
                tell("on_epoch_begin", epoch)
                logs = self._train_epoch(loader, tell)
                if validation_data is not None:
                    batches = validation_data if _is_batches(validation_data, None) else DataLoader(
                        ArrayDataset(*_arrays(*validation_data)), validation_batch_size or batch_size,
                        prefetch=0)
                    logs.update({f"val_{k}": v for k, v in self._test(batches).items()})
                tell("on_epoch_end", epoch, logs)
                if self.stop_training:
                    break
            if self.optimizer.use_ema:
                self.optimizer.finalize()
            tell("on_train_end", logs)
        finally:
            bar.close()
        self.history = history
        return history

    def _train_epoch(self, loader, tell):
        mean_loss, logs = self._reset_metrics(), None
        for number, batch in enumerate(loader):
            tell("on_train_batch_begin", number)
            logs = self._step(batch, mean_loss, self.train_step)
            tell("on_train_batch_end", number, logs)
            if self.stop_training:
                break
        if logs is None:
            raise ValueError("fit() was given no batches; an iterator is empty after its first epoch, "
                             "a list of batches or a DataLoader is not")
        return logs

    def _step(self, batch, mean_loss, step):
        """One batch through `step`, which gives (loss, predictions); the averages including it."""
        if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 3:
            raise ValueError("a batch must be (x, y) or (x, y, sample_weight); got "
                             f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(
                                 batch, (tuple, list)) else ""))
        x, y, weight = (*batch, None)[:3]
        loss, y_pred = step(x, y, weight)
        mean_loss.update(float(loss), len(y_pred))
        for metric in self.metrics:
            metric.update(y, y_pred, self.output_mask)
        return {"loss": mean_loss.result(), **{m.name: m.result() for m in self.metrics}}

    def _reset_metrics(self):
        for metric in self.metrics:
            metric.reset()
        return metrics_module.Mean()

    def train_on_batch(self, x, y, sample_weight=None, return_dict=False):
        """One step; the loss and metrics of this batch, as `evaluate` returns them."""
        self._need_compile("train_on_batch")
        logs = self._step((x, y, sample_weight), self._reset_metrics(), self.train_step)
        return _as_result(logs, return_dict)

    def evaluate(self, x, y=None, batch_size=32, verbose="auto", sample_weight=None,
                 return_dict=False):
        """The loss over all samples, or [loss, metric, ...], or a dictionary."""
        self._need_compile("evaluate")
        if not _is_batches(x, y):
            x = DataLoader(ArrayDataset(*_arrays(x, y, sample_weight)), batch_size, prefetch=0)
        logs = self._test(x)
        if verbose:
            print(" - ".join(f"{name}: {value:.4g}" for name, value in logs.items()), flush=True)
        return _as_result(logs, return_dict)

    @no_grad()
    def _test(self, batches):
        def step(x, y, sample_weight):
            y_pred = self(x, training=False)
            return self.loss(y, y_pred, sample_weight, self.output_mask), y_pred

        mean_loss, logs = self._reset_metrics(), None
        for batch in batches:
            logs = self._step(batch, mean_loss, step)
        if logs is None:
            raise ValueError("there are no samples to evaluate")
        return logs

    @no_grad()
    def predict(self, x, batch_size=32, verbose="auto"):
        """The outputs for all samples of x (an array, or a DataLoader of bare x), a NumPy array."""
        batches = x if isinstance(x, DataLoader) else DataLoader(ArrayDataset(x), batch_size, prefetch=0)
        outputs = [self(batch, training=False).numpy() for batch in batches]
        if not outputs:
            raise ValueError("predict() was given no samples")
        return np.concatenate(outputs)

    def _need_compile(self, what):
        if self.loss is None:
            raise RuntimeError(f"{what}() needs to know the loss: call "
                               "model.compile(optimizer=..., loss=...) first")

    def _build_from(self, sample):
        """Build the weights for one sample like this."""
        if isinstance(sample, np.ndarray) or np.isscalar(sample):
            self._build_for((None, *np.shape(sample)))

    def _build_for(self, shape):
        self.compute_output_shape(shape)  # a call with zeros

    # ------------------------------------------------------------------------------------- summary

    def _trace(self):
        """[(layer, input shape, output shape)] of the layers called directly, in order of calls."""
        rows, children = [], [child for _, child in self._children()]

        def watched(layer, call):
            def run(x, *args, **kwargs):
                y = call(x, *args, **kwargs)
                rows.append((layer, _free(x), _free(y)))
                return y
            return run

        for child in children:
            child.__dict__["call"] = watched(child, child.call)
        try:
            self._build_for((None, *self.build_shape[1:]))
        finally:
            for child in children:
                child.__dict__.pop("call", None)
        return rows

    def summary(self, print_fn=print):
        """Print a table of layers: output shape, parameters, operations for one sample (FLOPs)."""
        if not self.built:
            raise ValueError(f"{self.name} has no weights yet; give its first layer an input_shape, "
                             "call it on a batch, or fit it")
        rows = [(f"{layer.name} ({type(layer).__name__})", str(out), layer.count_params(),
                 layer.flops(inside)) for layer, inside, out in self._trace()]
        frozen = sum(w.size for w in self.non_trainable_weights)
        widths = [max([len(row[i]) for row in rows] + [len(title)]) + 2
                  for i, title in enumerate(("Layer", "Output shape"))]

        def line(a, b, c, d):
            return f"{a:<{widths[0]}}{b:<{widths[1]}}{c:>14}{d:>18}"

        table = [f"Model: {self.name}", line("Layer", "Output shape", "Parameters", "FLOPs")]
        table += ["-" * len(table[1])]
        table += [line(a, b, f"{c:,}", f"{d:,}") for a, b, c, d in rows]
        table += [table[2], line("Total", "", f"{self.count_params():,}",
                                 f"{sum(row[3] for row in rows):,}")]
        if frozen:
            table.append(f"of these {frozen:,} parameters are not trainable")
        print_fn("\n".join(table))

    # --------------------------------------------------------------------------------------- files

    def save_weights(self, path):
        """Write the weights to a safetensors file, by name, all or nothing."""
        self._need_weights()
        serialization.save_arrays(path, self.named_weights())

    def load_weights(self, path):
        """Take the weights of a file of save_weights or save. ValueError, and nothing changed, where
        names or shapes differ."""
        self._need_weights()
        arrays, _ = serialization.load_arrays(path)
        weights = {k: a for k, a in arrays.items() if not k.startswith(_OPTIMIZER)}
        serialization.assign(self.named_weights(), weights, repr(path))

    def training_state(self):
        """{name: array} of the weights and, where compiled, of the optimizer's state."""
        self._need_weights()
        state = self.optimizer.state_dict() if self.optimizer else {}
        return {**self.named_weights(), **{_OPTIMIZER + k: a for k, a in state.items()}}

    def load_training_state(self, path):
        """Take the weights and the optimizer's state of a file; returns the file's metadata."""
        self.load_weights(path)
        arrays, metadata = serialization.load_arrays(path)
        state = {k[len(_OPTIMIZER):]: a for k, a in arrays.items() if k.startswith(_OPTIMIZER)}
        if self.optimizer and state:
            self.optimizer.load_state_dict(state)
        return metadata

    def save(self, path):
        """Write weights, architecture (JSON) and, where compiled, loss, optimizer and its state, to
        one safetensors file, all or nothing. `load_model` makes the model again."""
        compiled = self.loss and serialize(self._compiled_with)
        frozen = [prefix for prefix, layer in self._walk("", set()) if not layer.trainable]
        serialization.save_arrays(path, self.training_state(), architecture=serialize(self),
                                  input_shape=self.build_shape, compiled=compiled, frozen=frozen)

    def get_config(self):
        return Configurable.get_config(self)  # without a name: a subclass may not take one

    def _need_weights(self):
        if not self.built:
            raise ValueError(f"{self.name} has no weights yet; call it on a batch first, or give its "
                             "first layer an input_shape")


class Sequential(Model):
    """Layers one after the other. Where the first has an input_shape (or is an Input) weights are
    made as layers are added, otherwise at the first call."""

    def __init__(self, layers=None, **options):
        super().__init__(**options)
        self.layers, self._shape = [], self.batch_input_shape
        self._arguments["layers"] = self.layers  # also those that add() brings
        for layer in layers or []:
            self.add(layer)

    def add(self, layer):
        if isinstance(layer, Input):
            if self.layers:
                raise ValueError("an Input comes first in a Sequential")
            self._shape = layer.batch_input_shape
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"a Sequential is made of layers; got {layer!r}")
        if not self.layers and self._shape is None:
            self._shape = layer.batch_input_shape or layer.build_shape
        elif self.built and self._shape is None:
            raise RuntimeError(f"{self.name} was built by a call; add() layers before it")
        self.layers.append(layer)
        if self._device:
            layer.to(self._device)
        if self._shape is not None:
            self.built, self.build_shape = True, self.build_shape or self._shape
            layer.build(self._shape)
            self._shape = layer.compute_output_shape(self._shape)

    def build(self, input_shape):
        """Make the weights of all layers for inputs (N, ...); N may be None."""
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def _build_for(self, shape):
        self.build(shape)

    def call(self, x, training=False, mask=None):
        for layer in self.layers:
            y = layer(x, mask=mask)
            mask, x = layer.compute_mask(x, mask), y
        self.output_mask = mask
        return x

    def compute_mask(self, x, mask=None):
        return self.output_mask

    def compute_output_shape(self, input_shape):
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def _trace(self):
        rows, shape = [], (None, *self.build_shape[1:])
        for layer in self.layers:
            rows.append((layer, shape, layer.compute_output_shape(shape)))
            shape = rows[-1][2]
        return rows

    def get_config(self):
        if len(set(map(id, self.layers))) < len(self.layers):
            raise ValueError(f"{self.name} has a layer twice; its architecture cannot be written down. "
                             "Its weights can: save_weights()")
        return {"name": self.name, "dtype": self.dtype, "layers": [serialize(v) for v in self.layers]}


def load_model(path):
    """The model of a file of `save`, with its weights, compiled as it was. A program's own classes
    must be defined before."""
    _, metadata = serialization.load_arrays(path)
    if "architecture" not in metadata:
        raise ValueError(f"{str(path)!r} holds no architecture, only arrays; make the model and use "
                         "model.load_weights(path)")
    model = deserialize(metadata["architecture"])
    if metadata["compiled"]:
        model.compile(**deserialize(metadata["compiled"]))
    model._build_for(tuple(metadata["input_shape"]))
    for prefix, layer in list(model._walk("", set())):
        if prefix in metadata.get("frozen", ()):
            layer.trainable = False
    model.load_training_state(path)
    return model


# --------------------------------------------------------------------------------------- arguments

def _is_batches(x, y):
    """Whether x is a collection of batches, not an array of samples."""
    return y is None and hasattr(x, "__iter__") and not (
        isinstance(x, (np.ndarray, Tensor, str, tuple)) or isinstance(x, list) and not (
            x and isinstance(x[0], tuple)))


def _arrays(x, y, sample_weight=None):
    if y is None:
        raise ValueError("x was given without y; give both, or a DataLoader of (x, y) as x")
    arrays = ArrayDataset(x, y).arrays
    return arrays if sample_weight is None else ArrayDataset(*arrays, sample_weight).arrays


def _split(arrays, share):
    """The arrays without their last samples, and those: validation data, as Keras splits."""
    n = len(arrays[0])
    cut = int(n * (1 - share)) if 0 < share < 1 else 0
    if not 0 < cut < n:
        raise ValueError(f"validation_split={share} of {n} samples leaves none to train or to "
                         "validate on; it must lie between 0 and 1")
    return [a[:cut] for a in arrays], tuple(a[cut:] for a in arrays)


def _weigh_classes(x, y, sample_weight=1.0, *, class_weight):
    """The arrays with sample weights times the weight of each sample's class, 1 if not named."""
    if not isinstance(class_weight, dict):
        raise TypeError(f"class_weight is a dictionary {{class number: weight}}, not {class_weight!r}")
    labels = y.argmax(-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(len(y))
    weights = np.array([class_weight.get(int(c), 1.0) for c in labels], dtype=np.float32)
    return [x, y, weights * sample_weight]


def _as_result(logs, return_dict):
    values = list(logs.values())
    return logs if return_dict else values[0] if len(values) == 1 else values


def _free(x):
    """The shape with its batch left open."""
    return (None, *x.shape[1:]) if isinstance(x, Tensor) else [_free(v) for v in x]

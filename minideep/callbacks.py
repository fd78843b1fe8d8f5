"""What happens around training: `fit` calls these before and after epochs and batches.

Names and arguments of keras.callbacks. `logs` is the dictionary of averages ({"loss": ...,
"val_loss": ...}); epochs count from 0. A callback ends training with `self.model.stop_training = True`.
"""

import csv
import inspect
import math
import os
import sys
import warnings

from minideep import random, serialization

__all__ = """BackupAndRestore CSVLogger Callback EarlyStopping History LearningRateScheduler
ModelCheckpoint ProgressBar ReduceLROnPlateau TerminateOnNaN""".split()


class Callback:
    """Does nothing; override what you need. `self.model` is the model in training, `self.params` a
    dictionary with "epochs" and "steps" (batches in an epoch, None if unknown)."""

    model, params = None, {}

    def on_train_begin(self, logs=None): pass
    def on_train_end(self, logs=None): pass
    def on_epoch_begin(self, epoch, logs=None): pass
    def on_epoch_end(self, epoch, logs=None): pass
    def on_train_batch_begin(self, batch, logs=None): pass
    def on_train_batch_end(self, batch, logs=None): pass


class History(Callback):
    """`history`: {name: [value of each epoch]}, `epoch`: their numbers. `fit` returns one."""

    def on_train_begin(self, logs=None):
        self.epoch, self.history = [], {}

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class ProgressBar(Callback):
    """verbose=1: a bar for each epoch on a terminal, a line elsewhere; verbose=2: a line."""

    def __init__(self, verbose=1):
        self.verbose, self.bar = verbose, None

    def on_epoch_begin(self, epoch, logs=None):
        self.title = f"Epoch {epoch + 1}/{self.params['epochs']}"
        if self.verbose == 1 and sys.stdout.isatty():
            from rich import progress
            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"), progress.BarColumn(),
                progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[logs]}"))
            self.task = self.bar.add_task(self.title, total=self.params["steps"], logs="")
            self.bar.start()

    def on_train_batch_end(self, batch, logs=None):
        if self.bar:
            self.bar.update(self.task, completed=batch + 1, logs=_as_text(logs))

    def on_epoch_end(self, epoch, logs=None):
        if self.bar:
            self.bar.update(self.task, logs=_as_text(logs))
        else:
            print(f"{self.title}: {_as_text(logs)}", flush=True)
        self.close()

    def close(self):
        """Give the terminal back; `fit` calls it also when training fails."""
        if self.bar:
            self.bar.stop()
            self.bar = None


def _as_text(logs):
    return " - ".join(f"{name}: {value:.4g}" for name, value in logs.items())


class _Monitor(Callback):
    """Base of those that watch one number. mode: "min", "max", or "auto", by the name."""

    def __init__(self, monitor, mode="auto", min_delta=0.0):
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode={mode!r}; it can be 'auto', 'min' or 'max'")
        if mode == "auto":
            mode = "max" if any(word in monitor for word in ("acc", "auc")) else "min"
        self.monitor, self.sign = monitor, -1 if mode == "max" else 1
        self.min_delta, self.best = abs(min_delta), None

    def current(self, logs):
        if self.monitor not in logs:
            warnings.warn(f"{type(self).__name__} watches {self.monitor!r}, which is not among "
                          f"{sorted(logs)}; it does nothing", stacklevel=2)
        return logs.get(self.monitor)

    def improves(self, value, on):
        """Whether `value` is better than `on` by min_delta at least. NaN is better than nothing."""
        if math.isnan(value):
            return False
        return on is None or self.sign * value < self.sign * on - self.min_delta


class EarlyStopping(_Monitor):
    """Stop when `monitor` has not improved (on the best, and on `baseline`) for `patience` epochs."""

    def __init__(self, monitor="val_loss", min_delta=0, patience=0, verbose=0, mode="auto",
                 baseline=None, restore_best_weights=False, start_from_epoch=0):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch

    def on_train_begin(self, logs=None):
        self.wait, self.best, self.best_epoch, self.best_weights = 0, None, 0, None
        self.stopped_epoch = 0

    def on_epoch_end(self, epoch, logs=None):
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        better = self.improves(value, self.best)
        if better or self.restore_best_weights and self.best_weights is None:
            self.best_epoch = epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
        if better:
            self.best = value
            if self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs=None):
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping; the best was epoch "
                  f"{self.best_epoch + 1}")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when `monitor` has not improved for `patience` epochs,
    and then not again for `cooldown` epochs; never below min_lr."""

    def __init__(self, monitor="val_loss", factor=0.1, patience=10, verbose=0, mode="auto",
                 min_delta=1e-4, cooldown=0, min_lr=0.0):
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}; it must lie between 0 and 1")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr

    def on_train_begin(self, logs=None):
        self.best, self.wait, self.resting = None, 0, 0

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        logs["learning_rate"] = optimizer.learning_rate
        value = self.current(logs)
        if value is None:
            return
        if self.resting:
            self.resting -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best, self.wait = value, 0
        elif not self.resting:
            self.wait += 1
            if self.wait >= self.patience and optimizer.learning_rate > self.min_lr:
                optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
                self.resting, self.wait = self.cooldown, 0
                if self.verbose:
                    print(f"Epoch {epoch + 1}: learning rate down to {optimizer.learning_rate:g}")


class ModelCheckpoint(_Monitor):
    """Save the model, or its weights alone, after each epoch, or only when `monitor` is at its best.

    filepath may hold numbers: "{epoch:02d}-{val_loss:.3f}.safetensors", epochs counted from 1.
    """

    def __init__(self, filepath, monitor="val_loss", verbose=0, save_best_only=False,
                 save_weights_only=False, mode="auto"):
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only

    def on_epoch_end(self, epoch, logs=None):
        if self.save_best_only:
            value = self.current(logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        path = self.filepath.format(**{**logs, "epoch": epoch + 1})
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            print(f"Epoch {epoch + 1}: saved {path}")


class BackupAndRestore(Callback):
    """Write all that training depends on to one file after each epoch; where `fit` finds the file, it
    goes on from there, and ends with the very numbers of a run that was never interrupted.

    That is: weights, the optimizer's state, the random generator, the epoch. What other callbacks
    remember (an EarlyStopping's patience) starts anew. The file goes at the end of training unless
    delete_checkpoint=False.
    """

    def __init__(self, backup_dir, delete_checkpoint=True):
        self.path = os.path.join(os.fspath(backup_dir), "backup.safetensors")
        self.delete_checkpoint = delete_checkpoint

    def on_train_begin(self, logs=None):
        if os.path.exists(self.path):
            metadata = self.model.load_training_state(self.path)
            random.set_state(metadata["random"])
            self.model.initial_epoch = metadata["epoch"]

    def on_epoch_end(self, epoch, logs=None):
        serialization.save_arrays(self.path, self.model.training_state(), epoch=epoch + 1,
                                  random=random.get_state())

    def on_train_end(self, logs=None):
        if self.delete_checkpoint and os.path.exists(self.path):
            os.unlink(self.path)


class CSVLogger(Callback):
    """One line for each epoch: its number and the logs. append: keep what the file holds."""

    def __init__(self, filename, separator=",", append=False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append

    def on_train_begin(self, logs=None):
        self.columns = None
        if self.append and os.path.exists(self.filename) and os.path.getsize(self.filename):
            with open(self.filename, newline="") as file:
                self.columns = next(csv.reader(file, delimiter=self.separator))
        else:
            open(self.filename, "w").close()

    def on_epoch_end(self, epoch, logs=None):
        with open(self.filename, "a", newline="") as file:
            first = self.columns is None
            self.columns = self.columns or ["epoch", *logs]
            writer = csv.DictWriter(file, self.columns, restval="NA", extrasaction="ignore",
                                    delimiter=self.separator)
            if first:
                writer.writeheader()
            writer.writerow({"epoch": epoch, **logs})


class LearningRateScheduler(Callback):
    """Set the learning rate at the start of each epoch to schedule(epoch, learning_rate), or
    schedule(epoch)."""

    def __init__(self, schedule, verbose=0):
        self.schedule, self.verbose = schedule, verbose
        self.takes_rate = len(inspect.signature(schedule).parameters) > 1

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        optimizer.learning_rate = (self.schedule(epoch, optimizer.learning_rate) if self.takes_rate
                                   else self.schedule(epoch))
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}")

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self.model.optimizer.learning_rate


class TerminateOnNaN(Callback):
    """Stop at the first batch whose loss is NaN or infinite, and say which it was."""

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            print(f"batch {batch}: the loss is {logs['loss']}; training stops. `with "
                  "minideep.detect_anomaly():` around fit names the op that made it", flush=True)
            self.model.stop_training = True

"""Callbacks: what each does to a training run, and runs that go on after a crash."""

import csv
import os

import numpy as np
import pytest

import minideep
from minideep import callbacks, layers, models, optimizers
from minideep.data import ArrayDataset, DataLoader
from minideep.models import Sequential


def _data(n=48):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3)).astype("float32")
    return x, x[:, :1] - 2 * x[:, 1:2]


def _model(optimizer="adam"):
    minideep.seed(1)
    model = Sequential([layers.Dense(8, activation="tanh", input_shape=(3,)), layers.Dropout(0.2),
                        layers.Dense(1)])
    model.compile(optimizer if not callable(optimizer) else optimizer(), "mse")
    return model


class Feed(callbacks.Callback):
    """Puts given numbers in the place of a monitored value."""

    def __init__(self, name, values):
        self.name, self.values, self.epochs, self.rates = name, values, 0, []

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]
        self.epochs = epoch + 1

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append(self.model.optimizer.learning_rate)


def _run(values, *watchers, name="val_loss", **options):
    x, y = _data()
    feed, model = Feed(name, values), _model(lambda: optimizers.SGD(1.0e-3))
    model.fit(x, y, epochs=len(values), verbose=0, callbacks=[feed, *watchers], **options)
    return feed, model


def test_events_come_in_order():
    events = []

    class Spy(callbacks.Callback):
        def on_train_begin(self, logs=None): events.append("train")
        def on_train_end(self, logs=None): events.append(("end", sorted(logs)))
        def on_epoch_begin(self, epoch, logs=None): events.append(("epoch", epoch))
        def on_epoch_end(self, epoch, logs=None): events.append(("done", epoch, sorted(logs)))
        def on_train_batch_begin(self, batch, logs=None): events.append(("batch", batch))
        def on_train_batch_end(self, batch, logs=None): events.append(("stepped", batch, sorted(logs)))

    x, y = _data(20)
    spy = Spy()
    _model().fit(x, y, batch_size=10, epochs=2, initial_epoch=1, verbose=0, callbacks=[spy],
                 validation_data=(x, y))
    both = ["loss", "val_loss"]
    assert events == ["train", ("epoch", 1), ("batch", 0), ("stepped", 0, ["loss"]), ("batch", 1),
                      ("stepped", 1, ["loss"]), ("done", 1, both), ("end", both)]
    assert spy.params == {"epochs": 2, "steps": 2}


def test_history_agrees_with_keras_on_names_of_numbers():
    x, y = _data()
    history = _model().fit(x, y, epochs=3, validation_split=0.25, verbose=0)
    assert {name: len(v) for name, v in history.history.items()} == {"loss": 3, "val_loss": 3}


# --------------------------------------------------------------------------------- early stopping

@pytest.mark.parametrize("values, options, epochs, best", [
    ([5, 4, 3, 4, 4, 4, 4], {"patience": 2}, 5, 2),
    ([5, 4, 3, 4, 2, 3, 3, 3], {"patience": 2}, 7, 4),
    ([5, 4.9, 4.8, 4.7, 4.6], {"patience": 2, "min_delta": 0.5}, 3, 0),
    ([1, 2, 3, 3, 3, 2], {"patience": 1, "mode": "max"}, 4, 2),
    ([5, np.nan, np.nan, np.nan], {"patience": 2}, 3, 0),
    ([5, 4, 3, 2, 1], {"patience": 2, "baseline": 0.5}, 5, 4),
    ([1, 2, 2, 2, 2, 2], {"patience": 1, "start_from_epoch": 3}, 5, 3),
    ([5, 4, 3], {"patience": 9}, 3, 2),
])
def test_early_stopping(values, options, epochs, best):
    class Keep(callbacks.Callback):
        weights = {}

        def on_epoch_end(self, epoch, logs=None):
            self.weights[epoch] = self.model.get_weights()

    keep = Keep()
    stop = callbacks.EarlyStopping(restore_best_weights=True, **options)
    feed, model = _run(values, keep, stop)
    assert feed.epochs == epochs and stop.best_epoch == best
    for a, b in zip(model.get_weights(), keep.weights[best]):
        np.testing.assert_array_equal(a, b)


def test_stopping_names_the_best_epoch_without_keeping_its_weights(capsys):
    _run([5, 3, 4, 4, 4], callbacks.EarlyStopping(patience=2, verbose=1))
    assert "Epoch 4: early stopping; the best was epoch 2" in capsys.readouterr().out


def test_the_history_has_what_callbacks_add_and_one_needs_no_list():
    x, y = _data()
    history = _model().fit(x, y, epochs=2, verbose=0,
                           callbacks=callbacks.LearningRateScheduler(lambda epoch: 0.5 ** epoch))
    assert history.history["learning_rate"] == [1.0, 0.5]


def test_stopping_and_plateaus_as_in_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    for trial in range(30):
        values = [float(v) for v in np.round(rng.random(12), 1)]
        options = {"patience": int(rng.integers(0, 4)), "min_delta": 0.15 * int(rng.integers(0, 2)),
                   "mode": ["min", "max"][trial % 2]}

        class Model:
            stop_training, metrics = False, []
            optimizer = type("O", (), {"learning_rate": 1.0})()

        ends = []
        for module in (callbacks, keras.callbacks):
            plateau = module.ReduceLROnPlateau(
                factor=0.5, patience=options["patience"] or 1, mode=options["mode"],
                min_delta=options["min_delta"], cooldown=trial % 3)
            stop, model, rates = module.EarlyStopping(**options), Model(), []
            model.optimizer.learning_rate = 1.0
            for c in (stop, plateau):
                if module is callbacks:
                    c.model = model
                else:
                    c.set_model(model)
                c.on_train_begin({})
            for epoch, value in enumerate(values):
                if not model.stop_training:
                    stop.on_epoch_end(epoch, {"val_loss": value})
                    last = epoch
                plateau.on_epoch_end(epoch, {"val_loss": value})
                rates.append(float(model.optimizer.learning_rate))
            ends.append((last, stop.stopped_epoch, rates))
        assert ends[0] == ends[1], (values, options)


def test_a_monitor_that_is_not_there_is_said():
    x, y = _data()
    with pytest.warns(UserWarning, match="watches 'val_loss'.*loss"):
        _model().fit(x, y, verbose=0, callbacks=[callbacks.EarlyStopping()])
    with pytest.raises(ValueError, match="mode"):
        callbacks.EarlyStopping(mode="lowest")


# --------------------------------------------------------------------------------- learning rates

def test_learning_rate_scheduler():
    schedule = callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    x, y = _data()
    history = _model().fit(x, y, epochs=3, verbose=0, callbacks=[schedule]).history
    assert history["loss"] and schedule.model.optimizer.learning_rate == pytest.approx(0.1 / 3)
    model = _model(lambda: optimizers.SGD(1.0))
    model.fit(x, y, epochs=3, verbose=0,
              callbacks=[callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)])
    assert model.optimizer.learning_rate == pytest.approx(0.125)


def test_reduce_on_plateau():
    feed, _ = _run([5, 4, 4, 4, 4, 4, 4, 4], callbacks.ReduceLROnPlateau(
        factor=0.1, patience=2, cooldown=1, min_lr=5e-5))
    np.testing.assert_allclose(feed.rates, [1e-3] * 4 + [1e-4] * 2 + [5e-5] * 2, rtol=1e-9)
    with pytest.raises(ValueError, match="factor"):
        callbacks.ReduceLROnPlateau(factor=2)


# -------------------------------------------------------------------------------------------- files

def test_checkpoints_at_every_epoch_or_the_best(tmp_path):
    every = callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.1f}.safetensors",
                                      save_weights_only=True)
    best = callbacks.ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    feed, model = _run([3.0, 1.0, np.nan, 2.0], every, best)
    assert sorted(os.listdir(tmp_path)) == ["01-3.0.safetensors", "02-1.0.safetensors",
                                            "03-nan.safetensors", "04-2.0.safetensors",
                                            "best.safetensors"]
    loaded = models.load_model(tmp_path / "best.safetensors")
    model.load_weights(tmp_path / "02-1.0.safetensors")
    for a, b in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_csv_log(tmp_path):
    path = tmp_path / "log.csv"
    x, y = _data()
    history = _model().fit(x, y, epochs=2, validation_split=0.5, verbose=0,
                           callbacks=[callbacks.CSVLogger(path)]).history
    rows = list(csv.DictReader(open(path, newline="")))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"]
    _model().fit(x, y, epochs=3, initial_epoch=2, verbose=0,
                 callbacks=[callbacks.CSVLogger(path, append=True)])
    rows = list(csv.DictReader(open(path, newline="")))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and rows[2]["val_loss"] == "NA"


class Crash(callbacks.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch


@pytest.mark.parametrize("loader", [False, True])
@pytest.mark.parametrize("optimizer", [
    "adam", lambda: optimizers.SGD(0.05, momentum=0.9),
    lambda: optimizers.AdamW(optimizers.schedules.CosineDecay(0.01, 12), use_ema=True)])
def test_a_resumed_run_ends_bit_for_bit_as_one_never_interrupted(tmp_path, optimizer, loader):
    x, y = _data()

    def fit(model, *watchers):
        data = ((DataLoader(ArrayDataset(x, y), 16, shuffle=True, seed=7),) if loader else (x, y))
        return model.fit(*data, batch_size=16, epochs=5, verbose=0, callbacks=list(watchers),
                         validation_data=(x, y))

    whole = _model(optimizer)
    history = fit(whole).history
    backup = callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(_model(optimizer), backup, Crash(epoch=2))
    assert os.listdir(tmp_path) == ["backup.safetensors"]
    resumed = _model(optimizer)
    minideep.seed(99)  # the state of a new process
    rest = fit(resumed, callbacks.BackupAndRestore(tmp_path))
    assert rest.epoch == [2, 3, 4] and rest.history["loss"] == history["loss"][2:]
    assert rest.history["val_loss"] == history["val_loss"][2:]
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------ NaN and the display

def test_training_ends_at_a_loss_that_is_not_a_number(capsys):
    x, y = _data()
    y = y.copy()
    y[20] = np.nan
    history = _model().fit(x, y, batch_size=8, epochs=5, shuffle=False, verbose=0,
                           callbacks=[callbacks.TerminateOnNaN()])
    assert history.epoch == [0]
    out = capsys.readouterr().out
    assert "batch 2: the loss is nan" in out and "detect_anomaly" in out


def test_what_is_shown(capsys, monkeypatch):
    x, y = _data()
    _model().fit(x, y, epochs=2, verbose=0)
    assert capsys.readouterr().out == ""
    for verbose in ("auto", 1, 2):  # no terminal here: a line for each epoch
        _model().fit(x, y, epochs=2, verbose=verbose, validation_split=0.5)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and lines[1].startswith("Epoch 2/2: loss: ") and "val_loss" in lines[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    bar = callbacks.ProgressBar()
    with pytest.raises(KeyboardInterrupt):
        _model().fit(x, y, verbose=1, callbacks=[Crash(0)])
    _model().fit(x, y, verbose=1)  # the terminal was given back
    assert "Epoch 1/1" in capsys.readouterr().out and bar.bar is None

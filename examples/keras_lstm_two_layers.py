"""The two-layer LSTM of the text: the second reads what the first says at every step.

Data: scikit-learn's digits, read row by row from the top; after seven rows of eight pixels, how much
ink will the last row have? A Keras program: with `keras` for `minideep` in the two import lines,
Keras runs it too.
"""

from sklearn.datasets import load_digits

from minideep.layers import LSTM, Dense
from minideep.models import Sequential


def make_model(timesteps=7, features=8):
    model = Sequential()
    model.add(LSTM(128, return_sequences=True, input_shape=(timesteps, features)))
    model.add(LSTM(128))
    model.add(Dense(1))
    model.compile(optimizer='adam', loss='mean_squared_error')
    return model


def load_data():
    """Rows 0 to 6 of each image, (1797, 7, 8), and the mean of row 7, (1797, 1); in [0, 1]."""
    images = load_digits().images.astype('float32') / 16
    return images[:, :7], images[:, 7].mean(axis=1, keepdims=True)


if __name__ == '__main__':
    x, y = load_data()
    model = make_model()
    model.summary()
    model.fit(x[:1437], y[:1437], epochs=5, batch_size=32, validation_data=(x[1437:], y[1437:]))
    error = model.evaluate(x[1437:], y[1437:])
    guess = ((y[1437:] - y[:1437].mean()) ** 2).mean()
    print(f'mean squared error {error:.4f}; of always guessing the mean: {guess:.4f}')

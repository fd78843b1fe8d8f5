"""The convolutional network of the text: is a handwritten digit odd? Data: scikit-learn's digits.

A Keras program: with `keras` for `minideep` in the two import lines, Keras runs it too.
python examples/keras_cnn.py [SIZE]: images of SIZE x SIZE pixels, 32 if not given; the text has 224.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

from minideep.layers import Conv2D, Dense, Flatten, MaxPooling2D
from minideep.models import Sequential


def make_model(size=224):
    model = Sequential()
    model.add(Conv2D(32, (3, 3), activation='relu', input_shape=(size, size, 3)))
    model.add(MaxPooling2D((2, 2)))
    model.add(Conv2D(64, (3, 3), activation='relu'))
    model.add(MaxPooling2D((2, 2)))
    model.add(Conv2D(128, (3, 3), activation='relu'))
    model.add(MaxPooling2D((2, 2)))
    model.add(Flatten())
    model.add(Dense(1024, activation='relu'))
    model.add(Dense(1, activation='sigmoid'))
    model.compile(optimizer='adam', loss='binary_crossentropy', metrics=['accuracy'])
    return model


def load_data(size):
    """Images (1797, size, size, 3) in [-0.5, 0.5], made of 8 x 8 pixels; labels (1797, 1), 1 for odd."""
    images, digits = load_digits(return_X_y=True)
    pixel = np.arange(size) * 8 // size
    images = images.reshape(-1, 8, 8)[:, pixel][:, :, pixel] / 16 - 0.5
    x = np.repeat(images[..., None], 3, axis=-1).astype('float32')
    return x, (digits % 2).astype('float32').reshape(-1, 1)


if __name__ == '__main__':
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    x, y = load_data(size)
    model = make_model(size)
    model.summary()
    model.fit(x[:1437], y[:1437], epochs=4, batch_size=32, validation_data=(x[1437:], y[1437:]))
    loss, accuracy = model.evaluate(x[1437:], y[1437:])
    print(f'accuracy on the last 360 digits: {accuracy:.3f}')

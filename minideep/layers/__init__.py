"""Layers with Keras's names, arguments, defaults and initialisers."""

from minideep.layers.base import *  # noqa: F401,F403

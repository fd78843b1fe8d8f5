"""Objects that can be written down: layers, initialisers and all else that is its class and its
constructor's arguments. Remembering the arguments is enough to make a twin, or a line of JSON."""

import functools
import inspect

from minideep import activations

__all__ = ["Configurable", "deserialize", "serialize"]


@functools.lru_cache(maxsize=None)
def _signature(cls):
    return inspect.signature(cls.__init__)


class Configurable:
    """Remembers the arguments that it was made with. Subclasses are found by name when a file is
    read, so a program's own classes must be imported before."""

    classes = {}

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Configurable.classes[cls.__name__] = cls

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self.__dict__["_arguments"] = {}
        try:
            bound = _signature(cls).bind(self, *args, **kwargs)
        except TypeError:
            return self  # __init__ is about to say it better
        for name, value in list(bound.arguments.items())[1:]:
            kind = _signature(cls).parameters[name].kind
            extra = kind is inspect.Parameter.VAR_KEYWORD
            self._arguments.update(value if extra else {name: value})
        return self

    def get_config(self):
        """The constructor's arguments, as JSON can hold them."""
        return {name: serialize(value) for name, value in self._arguments.items()}

    @classmethod
    def from_config(cls, config):
        """A new object from what get_config() gave. The weights of a layer are not part of it."""
        return cls(**{name: deserialize(value) for name, value in config.items()})

    def clone(self, **changes):
        """A new object of the same arguments, but for `changes`; a layer with new weights."""
        again = {name: _twin(value) for name, value in self._arguments.items()}
        return type(self)(**{**again, **changes})


def _twin(value):
    if isinstance(value, Configurable):
        return value.clone()
    return [_twin(v) for v in value] if isinstance(value, list) else value


def serialize(value):
    """`value` in numbers, strings, lists and dictionaries; TypeError where that cannot be."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Configurable):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    if isinstance(value, (list, tuple)):
        return [serialize(v) for v in value]
    if isinstance(value, dict):
        return {name: serialize(v) for name, v in value.items()}
    for name, function in activations.functions.items():
        if function is value:
            return name
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{value!r} cannot be written to a file: give an activation or initializer by "
                    "its name, or an object of a class derived from minideep.config.Configurable")


def deserialize(value):
    """The inverse of serialize (tuples come back as lists)."""
    if isinstance(value, list):
        return [deserialize(v) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"class_name", "config"}:
        return {name: deserialize(v) for name, v in value.items()}
    try:
        cls = Configurable.classes[value["class_name"]]
    except KeyError:
        raise ValueError(f"no class named {value['class_name']!r} is known; import the module that "
                         "defines it before loading") from None
    return cls.from_config(value["config"])

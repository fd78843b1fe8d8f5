"""Imports a test file, for the cases that it has."""

import importlib.util
import pathlib


def load(path):
    """The module in the file at `path` below tests/."""
    path = pathlib.Path(__file__).parent / path
    spec = importlib.util.spec_from_file_location(f"cases_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

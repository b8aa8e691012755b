"""Without matplotlib the docstrings' examples are not run."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("matplotlib") else ["*.py"]

"""Comparisons with torch: a folder of its own, run where the extra "reference" is installed."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]

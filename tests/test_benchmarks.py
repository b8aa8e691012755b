import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PRINTED = {
    "short": "median of",
    "epochs": "| hand-written loop |",
    "quality": "| 1000 × 8 |",
    "memory": "| 20000 × 64 |",
    "growth": "| slope |",
    "stack": "| 2 |",
}


def run(script, *args):
    command = [sys.executable, str(BENCHMARKS / script), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("part", PRINTED)
def test_speed_prints_its_tables(part):
    printed = run("speed.py", "--small", "--part", part)
    assert PRINTED[part] in printed
    assert "failed" not in printed  # as measurements in processes of their own may


@pytest.mark.slow
def test_search_prints_its_table():
    options = ["--latents", "2", "--epochs", "1", "--jobs", "1"]
    printed = run("search.py", "--sets", "breast_cancer", *options)
    assert "| StackedGridSearchCV(n_jobs=1) |" in printed
    assert "| GridSearchCV(n_jobs=1) |" in printed

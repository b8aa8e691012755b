import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "examples").glob("plot_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_and_draws(example, tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, str(example), "--figure", str(figure)]
    environment = {**os.environ, "MPLBACKEND": "agg"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert run.stdout
    assert figure.stat().st_size > 10_000

"""What README prints is what runs."""

import re
import textwrap
from pathlib import Path

import pytest

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^( *)```python\n(.*?)^ *```", README.read_text(), re.S | re.M)


@pytest.mark.parametrize("block", [textwrap.dedent(code) for _, code in BLOCKS])
def test_python_blocks_run(block, monkeypatch):
    # No block prints a number, so a short training shows as much as a long one.
    for estimator in (GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier):
        monkeypatch.setattr(estimator, "_n_steps", 100)
        monkeypatch.setattr(estimator, "_n_rows_seen", 1)
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    assert {"vae", "model"} & set(scope)

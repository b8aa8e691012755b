"""What README prints is what runs."""

import re
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^( *)```python\n(.*?)^ *```", README.read_text(), re.S | re.M)


@pytest.mark.parametrize("block", [textwrap.dedent(code) for _, code in BLOCKS])
def test_python_blocks_run(block):
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    assert {"vae", "model"} & set(scope)

"""Write the models that tests/test_persistence.py reads: run once for each released version.

From the repository's root: ``PYTHONPATH=tests python tests/data/make_stored.py``. The files
are zip archives of JSON and arrays; reading them with ``skops.io`` runs no code of theirs.
"""

import warnings
from pathlib import Path

import numpy as np
import skops.io
from test_persistence import MAKERS, answers, make_rows

import skgvae

if __name__ == "__main__":
    warnings.simplefilter("ignore", skgvae.PosteriorCollapseWarning)
    here, version = Path(__file__).parent, skgvae.__version__
    X, y = make_rows()
    known = {}
    for name, make in MAKERS.items():
        model = make().fit(X, y)
        skops.io.dump(model, here / f"{name}-{version}.skops", compresslevel=9, compression=8)
        known |= {f"{name}-{method}": answer for method, answer in answers(model, X).items()}
    np.savez_compressed(here / f"answers-{version}.npz", **known)

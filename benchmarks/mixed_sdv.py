"""The part of mixed.py that needs SDV: fit one of its synthesizers and write samples.

    python benchmarks/mixed_sdv.py FOLDER MODEL N_ROWS SEED

FOLDER has the training rows (train.csv) and the names of the columns of numbers (numbers.json).
The samples go to samples.csv. The seconds of processor time of the fit are printed. Synthesizers
have their defaults, but for unknown cells: for a column of numbers, one more column tells which
they are, so that they depend on other columns (``missing_value_generation="from_column"``). An
unknown category is a level of its own.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rdt.transformers import FloatFormatter
from sdv.metadata import Metadata
from sdv.single_table import GaussianCopulaSynthesizer, TVAESynthesizer

MODELS = {
    "TVAE": lambda metadata: TVAESynthesizer(metadata, enable_gpu=False),
    "GaussianCopula": GaussianCopulaSynthesizer,
}


def transformer():
    return FloatFormatter(
        missing_value_generation="from_column",
        learn_rounding_scheme=True,
        enforce_min_max_values=True,
    )


def fit(name, train, numbers):
    """Return a synthesizer that is fitted to rows, and the seconds of processor time."""
    types = {c: {"sdtype": "numerical" if c in numbers else "categorical"} for c in train}
    metadata = Metadata.load_from_dict({"tables": {"table": {"columns": types}}})
    start = time.process_time()
    model = MODELS[name](metadata)
    model.auto_assign_transformers(train)
    incomplete = [c for c in numbers if train[c].isna().any()]
    model.update_transformers({c: transformer() for c in incomplete})
    model.fit(train)
    return model, time.process_time() - start


def main(folder, name, n_rows, seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what SDV draws from)
    numbers = json.loads((folder / "numbers.json").read_text())
    columns = pd.read_csv(folder / "train.csv", nrows=0).columns
    train = pd.read_csv(
        folder / "train.csv",
        dtype={c: str for c in columns if c not in numbers},
        keep_default_na=False,
        na_values={c: [""] for c in numbers},  # an unknown name is the level ""
    )
    model, seconds = fit(name, train, numbers)
    model.sample(n_rows).to_csv(folder / "samples.csv", index=False)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

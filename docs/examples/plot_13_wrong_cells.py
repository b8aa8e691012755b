"""
Wrong cells in a table with holes
=================================

A table of 178 wines lacks a tenth of its cells, and some cells are wrong: a decimal point has
slipped, or two columns were swapped. Which rows do not belong, and which of their cells?
"""

# %%
# Twelve errors
# -------------
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

from skgvae import GaussianVAEOutlierDetector
from skgvae.display import OutlierDisplay

rng = np.random.default_rng(0)
table = load_wine(as_frame=True).data
table = table.mask(rng.uniform(size=table.shape) < 0.1)
rows = rng.choice(len(table), size=12, replace=False)
errors = []
for row in rows[:9]:
    column = rng.choice(np.flatnonzero(table.iloc[row].notna()))
    table.iloc[row, column] *= rng.choice([0.1, 10])
    errors.append((row, table.columns[column]))
for row in rows[9:]:
    table.loc[row, ["malic_acid", "alcohol"]] = table.loc[
        row, ["alcohol", "malic_acid"]
    ].to_numpy()
    errors += [(row, "malic_acid"), (row, "alcohol")]
errors = {(row, name) for row, name in errors if pd.notna(table.loc[row, name])}

# %%
# The detector is fitted to the table as it is, errors and holes included. If nobody knows how
# many rows are wrong, a generous guess is better than none: what is in the training rows is
# learned, and then it is no surprise. So the tenth of the rows that looks worst to a linear model
# has no part in the training.
detector = GaussianVAEOutlierDetector(contamination=0.1, random_state=0).fit(table)

# %%
# Surprising cells, the most surprising first
frame = detector.explain(table).frame
is_error = [cell in errors for cell in zip(frame["row"], frame["column"], strict=True)]
print(frame.assign(error=is_error).head(15).round(2).to_string())

# %%
# The rows of the lowest scores. Below each value stands what was expected of it, given the other
# cells of its row, and an interval that holds nine of ten.
OutlierDisplay.from_estimator(detector, table, n_rows=6)

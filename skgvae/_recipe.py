"""What does "auto" mean? Every number that decides a training, as a function of sizes.

Rules depend on the number of rows (groups of them, of positive weight) and of columns, and have
no jumps: neighbours differ by less than a factor of two, and time grows with the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = [
    "CLASSIFICATION",
    "DENSITY",
    "INCOMPLETE",
    "REGRESSION",
    "Habits",
    "Recipe",
    "recipe_for",
]

N_BATCHES = 16  # an epoch, up to the largest batch
MIN_BATCH, MAX_BATCH = 16, 512
MANY_ROWS = N_BATCHES * MAX_BATCH  # from here on an epoch is longer, and there are fewer
MIN_FOLDS = 5
FOLDS_OF_ONE = 10  # a single model holds out a tenth
MIN_TRAINING_ROWS = 4  # so few cannot be shared out
MAX_JUDGED = 4096  # rows that judge a model
MAX_LATENTS = 32
LEARNING_RATE = 0.014
ROWS_PER_LATENT = 4


@dataclass(frozen=True)
class Habits:
    """What differs between kinds of estimators."""

    n_epochs: int
    """Passes over the rows in a cycle, up to ``MANY_ROWS``."""
    n_draws: int
    """Draws of z for each row in training."""
    n_valid_points: int
    """Rows times draws by which each model is judged."""
    n_cycles: int = 1
    """Cycles of the learning rate at most: one more where the last epochs were the best."""
    cycle_growth: int = 1
    """How many times as long as the one before it a further cycle is."""
    patience: float | None = None
    """Share of all epochs without a better one after which training ends; and as many as the
    best took."""
    orthogonal_from: float = math.inf
    """Rows times draws of a step from which hidden layers have orthogonal steps."""
    min_latents: int = 1
    needs_judge: bool = True
    """Whether training without held-out rows does harm."""


DENSITY = Habits(n_epochs=70, n_cycles=2, n_draws=4, n_valid_points=1024, orthogonal_from=128)
# Rows with unknown cells leave more open: more draws find what these may be, and on some tables
# training goes on gaining for long.
INCOMPLETE = replace(DENSITY, n_cycles=3, cycle_growth=2, n_draws=8)
REGRESSION = Habits(
    n_epochs=150,
    n_draws=8,
    n_valid_points=4096,
    patience=0.125,
    orthogonal_from=128,
    min_latents=8,
)
CLASSIFICATION = Habits(
    n_epochs=80,
    n_draws=4,
    n_valid_points=4096,
    patience=0.125,
    min_latents=8,
    needs_judge=False,  # its start, in which all classes are equal, is of no use
)


@dataclass(frozen=True)
class Recipe:
    """How an estimator trains."""

    n_components: int
    """Width of the latent space."""
    n_members: int
    """Models that are trained together."""
    n_folds: int
    """Parts of the rows, of which model i does not see part i; 1 holds out nothing."""
    max_judged: int
    """Rows of a part that judge its model, at most."""
    batch_size: int
    max_epochs: int
    n_cycles: int
    cycle_growth: int
    patience: int | None
    lr: float
    n_draws: int
    n_valid_draws: int
    orthogonal: bool


def recipe_for(
    n_rows: int, n_columns: int, params: Mapping[str, object], habits: Habits = DENSITY
) -> Recipe:
    """Return the recipe for a table.

    Parameters
    ----------
    n_rows : int
        Rows of positive weight; of groups, their number.
    n_columns : int
        Columns of what is decoded.
    params : mapping
        Parameters of the estimator, of which some may be "auto" or None.
    habits : Habits
        Of the kind of estimator.
    """
    n_members, fraction = int(params["n_estimators"]), params["validation_fraction"]
    if fraction is None or n_rows < MIN_TRAINING_ROWS or params["max_epochs"] == 0:
        n_folds = 1
    else:
        n_folds = max(n_members, MIN_FOLDS) if n_members > 1 else FOLDS_OF_ONE
        n_folds = n_folds if fraction == "auto" else max(2, round(1 / fraction))
        # At least two rows judge: of all models together, or of the only one.
        n_folds = min(n_folds, n_rows if n_members > 1 else n_rows // 2)
    n_held_out = min(n_rows // n_folds, MAX_JUDGED) if n_folds > 1 else 0
    n_training = n_rows - n_held_out

    if params["batch_size"] != "auto":
        batch_size = int(params["batch_size"])
    else:
        batch_size = min(max(-(-n_training // N_BATCHES), MIN_BATCH), MAX_BATCH)
    n_cycles = habits.n_cycles if n_folds > 1 and params["max_epochs"] == "auto" else 1
    if params["max_epochs"] != "auto":
        max_epochs = int(params["max_epochs"])
    else:
        n_first = math.ceil(habits.n_epochs * min(1, MANY_ROWS / n_training) ** 0.5)
        max_epochs = n_first * sum(habits.cycle_growth**i for i in range(n_cycles))
    if n_rows < MIN_TRAINING_ROWS and fraction is not None and habits.needs_judge:
        max_epochs = 0
    patience = None
    if habits.patience and n_folds > 1:
        patience = max(10, math.ceil(habits.patience * max_epochs))
    # Few rows need many draws to tell epochs apart; for many they would cost the most.
    n_valid_draws = min(max(habits.n_valid_points // max(1, n_held_out), habits.n_draws), 64)
    n_components = params["n_components"]
    if n_components is None:
        most = max(1, n_rows // ROWS_PER_LATENT) if habits.min_latents == 1 else MAX_LATENTS
        n_components = max(min(n_columns, MAX_LATENTS, most), habits.min_latents)
    return Recipe(
        n_components=int(n_components),
        n_members=1 if max_epochs == 0 else n_members,  # several would be no better
        n_folds=n_folds,
        max_judged=MAX_JUDGED,
        batch_size=batch_size,
        max_epochs=max_epochs,
        n_cycles=n_cycles,
        cycle_growth=habits.cycle_growth,
        patience=patience,
        lr=LEARNING_RATE if params["lr"] == "auto" else float(params["lr"]),
        n_draws=habits.n_draws,
        n_valid_draws=n_valid_draws,
        orthogonal=batch_size * habits.n_draws >= habits.orthogonal_from,
    )

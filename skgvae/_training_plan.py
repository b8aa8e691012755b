"""Which rows train and which judge, for how long, and in what batches: what "auto" means."""

import numpy as np
import torch
from sklearn.model_selection import KFold

MIN_EPOCHS, MANY_EPOCHS = 10, 100
VALIDATION_FRACTION = 0.1
MIN_VALIDATION_ROWS = 3
N_FOLDS = 5


class TrainingPlanMixin:
    """The plan of a training; needs the parameters of the estimators."""

    _learning_rate = 5e-3
    _n_steps = 1000
    _n_rows_seen = 2_000_000
    _n_valid_points = 4096  # draws of all validation rows together
    _patience = 0.5  # as a share of all epochs; None waits to the end
    _n_cycles = 1  # of the learning rate, at most
    # Rows times draws of a step from which hidden layers have Muon: of fewer its steps cost as
    # much as the gradient, and gain nothing.
    _orthogonal_from = 128

    def _split(self, rows, seed):
        """Return training rows and, for early stopping, validation rows: of one model, or more.

        Of several the first trains on all rows, and the others, in cross-validation, find the
        epoch at which it is best; its own validation rows are not looked at.
        """
        if not self.early_stopping or self.max_epochs == 0:
            return [(rows, None)]
        order, n_valid = self._choose_held_out(rows, np.random.RandomState(seed))
        if self._cross_validates(len(rows), n_valid):
            parts = [
                tuple(rows.subset(torch.from_numpy(order[part])) for part in fold)
                for fold in KFold(N_FOLDS).split(order)
            ]
            return [(rows, parts[0][1]), *parts]
        if n_valid < MIN_VALIDATION_ROWS:
            return [(rows, None)]
        n_train = len(rows) - n_valid
        if n_train < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction!r} leaves {n_train} of "
                f"{len(rows)} rows for training; 2 are needed."
            )
        order = torch.from_numpy(order)
        return [(rows.subset(order[n_valid:]), rows.subset(order[:n_valid]))]

    def _cross_validates(self, n_rows, n_valid):
        """Return whether the epoch is chosen by cross-validation, not by so many held-out rows."""
        return False

    def _balance(self, train):
        """Return the rows that an epoch passes over."""
        return train

    def _choose_held_out(self, rows, rng):
        """Return the rows in random order, and how many of the first are held out."""
        fraction = self.validation_fraction
        fraction = VALIDATION_FRACTION if fraction == "auto" else fraction
        return rng.permutation(len(rows)), int(np.ceil(fraction * len(rows)))

    def _resolve_training(self, n_rows, n_valid, n_folds=0):
        """Choose what is "auto" from the number of rows."""
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = int(np.clip(n_rows // 16, 16, 512))
        n_batches = -(-n_rows // batch_size)
        max_epochs, patience = self.max_epochs, self.patience
        if max_epochs == "auto":
            enough = min(MANY_EPOCHS, self._n_rows_seen // n_rows)
            max_epochs = max(MIN_EPOCHS, -(-self._n_steps // n_batches), enough)
        if patience == "auto":
            patience = self._patience and max(10, int(self._patience * max_epochs))
        self._training = {
            "batch_size": int(batch_size),
            "max_epochs": int(max_epochs),
            "patience": int(patience) if patience and n_valid else None,
            "n_cycles": self._count_cycles(max_epochs, n_valid, n_folds),
            "lr": self._learning_rate if self.lr == "auto" else float(self.lr),
            "criterion__kl_weight": float(self.kl_weight),
            "criterion__n_draws": int(self.n_train_draws),
            "n_valid_draws": self._choose_n_valid_draws(n_valid) if n_valid else 1,
        }

    def _count_cycles(self, max_epochs, n_valid, n_folds):
        # No more than one where there are few epochs, since the last nearly always is the best,
        # nor where folds judge: they do not tell what a high rate does to the model that is kept.
        named = {"max_epochs", "patience"} & set(self.net_params or {})
        is_open = self.max_epochs == self.patience == "auto" and not named
        judged = n_valid > 0 and n_folds == 0
        return self._n_cycles if is_open and judged and max_epochs >= 2 * MIN_EPOCHS else 1

    def _choose_n_valid_draws(self, n_valid):
        # Few rows need many draws to tell epochs apart, for many rows they would cost the most.
        draws = self.n_train_draws
        return int(np.clip(self._n_valid_points // n_valid, draws, max(64, draws)))

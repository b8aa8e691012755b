"""Which rows train and which judge, for how long, and in what batches: what "auto" means."""

import warnings

import numpy as np
import torch
from sklearn.model_selection import KFold

MIN_EPOCHS, MANY_EPOCHS = 10, 100
VALIDATION_FRACTION = 0.1
MIN_VALIDATION_ROWS = 3
FEW_ROWS = 10  # of fewer none are held out, unless validation_fraction says so
N_FOLDS = 5


class TrainingPlanMixin:
    """The plan of a training; needs the parameters of the estimators."""

    _learning_rate = 5e-3
    _needs_judge = True  # whether training without held-out rows does harm
    _starts_as_model = False  # whether the start is of use by itself
    _min_training_rows = 2  # beside held-out rows
    _n_steps = 1000
    _n_rows_seen = 2_000_000
    _n_valid_points = 4096  # draws of all validation rows together
    _patience = 0.5  # as a share of all epochs; None waits to the end
    _n_cycles = 1  # of the learning rate, at most
    # Rows times draws of a step from which hidden layers have Muon: of fewer its steps cost as
    # much as the gradient, and gain nothing.
    _orthogonal_from = 128

    def _split(self, rows, groups, seed):
        """Return training rows and, for early stopping, validation rows: of one model, or more.

        Of several the first trains on all rows, and the others, in cross-validation, find the
        epoch at which it is best; its own validation rows are not looked at. Rows of one group
        stay together.
        """
        if not self.early_stopping or self.max_epochs == 0:
            return [(rows, None)]
        groups = np.arange(len(rows)) if groups is None else groups
        _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
        order, n_held_out = self._choose_held_out(rows, first, np.random.RandomState(seed))

        def subset(chosen):
            place = np.full(len(first), -1)
            place[chosen] = np.arange(len(chosen))
            place = place[groups]
            order = np.argsort(place, kind="stable")
            return rows.subset(torch.from_numpy(order[np.sum(place < 0) :]))

        if self._cross_validates(len(rows), n_held_out) and len(order) >= 2:
            folds = KFold(min(N_FOLDS, len(order))).split(order)
            parts = [tuple(subset(order[part]) for part in fold) for fold in folds]
            return [(rows, parts[0][1]), *parts]
        train, valid = subset(order[n_held_out:]), subset(order[:n_held_out])
        if len(valid) < MIN_VALIDATION_ROWS or len(order) == 1:
            return [(rows, None)]
        if len(train) == 0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction!r} leaves 0 of {len(rows)} rows "
                "for training; 2 are needed."
            )
        if len(train) < self._min_training_rows:
            return [(rows, None)]
        return [(train, valid)]

    def _cross_validates(self, n_rows, n_held_out):
        """Return whether the epoch is chosen by cross-validation, not by so many held-out rows."""
        return False

    def _balance(self, train):
        """Return the rows that an epoch passes over."""
        return train

    def _choose_held_out(self, rows, first, rng):
        """Return the groups in random order, and how many of the first are held out.

        ``first`` has the first row of each group.
        """
        fraction, n = self.validation_fraction, len(first)
        fraction = VALIDATION_FRACTION if fraction == "auto" else fraction
        n_held_out = int(np.ceil(fraction * n))
        if n == len(rows) >= FEW_ROWS and not self._starts_as_model:
            n_held_out = max(n_held_out, MIN_VALIDATION_ROWS)
        return rng.permutation(n), n_held_out

    def _keep_start(self, n):
        """Train no epoch, with a warning: no rows can tell whether training does good."""
        self._training["max_epochs"] = 0
        warnings.warn(
            f"{n} rows or groups are too few to judge training by some of them: the model stays "
            "at its start. Give more, or a larger validation_fraction; early_stopping=False "
            "trains without a judge.",
            UserWarning,
            stacklevel=4,
        )

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

"""What is kept of training, and when does it end? The callbacks of every net."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from skorch.callbacks import Callback

__all__ = ["BestEpoch", "ProgressBar"]


class BestEpoch(Callback):
    """Keep the weights of the best epoch, stop when there is no hope of a better one.

    The best epoch has the lowest validation loss; the weights before the first step take
    part. Without validation rows it is the last epoch with finite loss and weights. Training
    ends after ``patience`` epochs without a better one, or at the first loss that is not
    finite; then, and at every other end, the best weights are put back.

    Of several modules that are trained together each has its own best epoch; those for which
    training has ended are dropped from the stack until it has ended for all. ``best_epochs_``,
    ``best_losses_`` and ``last_epochs_``, the epochs in which it ended, have one entry each.

    Parameters
    ----------
    patience : int, optional
        Epochs to wait for a better one; None waits to the end.
    """

    def __init__(self, patience: int | None = None):
        self.patience = patience

    @property
    def best_epoch_(self):
        """Best epoch of the first module."""
        return int(self.best_epochs_[0])

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        n_modules = len(net.stack_)
        if n_modules % (net.n_starts * (1 + net.n_folds)):
            raise ValueError(
                f"n_starts={net.n_starts} and n_folds={net.n_folds} do not divide {n_modules} "
                "modules."
            )
        self.best_losses_ = np.full(n_modules, math.inf)
        self.best_epochs_ = np.full(n_modules, len(net.history))
        self.last_epochs_ = np.full(n_modules, len(net.history))
        self.in_training_ = np.full(n_modules, True)
        stack = net.stack_
        self._best_weights = stack.weights.clone()
        self._best_buffers = {name: b.clone() for name, b in stack.buffers.items()}

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        if dataset_valid is not None and np.isinf(self.best_losses_).all():
            loss = net.evaluate_members(dataset_valid)["loss"]
            self.best_losses_ = np.where(np.isfinite(loss), loss, math.inf)

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        epoch, terms = len(net.history), net.member_terms_
        self.last_epochs_[self.in_training_] = epoch
        finite = self._are_finite(net, terms) | ~self.in_training_
        groups = finite.reshape(-1, 1 + net.n_folds)  # one best epoch: all go on, or none
        finite = np.repeat(groups.all(1), 1 + net.n_folds)
        lost = self.in_training_ & ~finite
        unrivalled = lost & ~self._have_rivals(net, self.in_training_ & finite)
        if unrivalled.any():
            n_lost, n_modules = unrivalled.sum(), len(lost)
            of_several = f" for {n_lost} of {n_modules} modules" if n_modules > 1 else ""
            kept = ", ".join(str(e) for e in np.unique(self.best_epochs_[unrivalled]))
            warnings.warn(
                f"The loss or a weight was not finite in epoch {epoch}{of_several}: training "
                f"ended and the weights of epoch {kept} are kept. Use a smaller lr "
                f"(now {net.lr:g}), or a larger min_noise; check the data for outliers.",
                RuntimeWarning,
                stacklevel=2,
            )
        self.in_training_ &= finite
        better = self.in_training_.copy()
        if "valid" in terms:
            better &= terms["valid"]["loss"] < self.best_losses_
            self.best_losses_[better] = terms["valid"]["loss"][better]
        self._keep(net, better, epoch)
        if not lost.all():
            net.record_for_members({"valid_loss_best": better}, np.any)
        if self.patience is not None:
            self.in_training_ &= epoch - self.best_epochs_ < self.patience
        net.stop_training_ = not self.in_training_.any()
        if not net.stop_training_:
            net.drop_members(self.in_training_)

    def restart(self, net, n_last):
        """End training of most modules, and put the others back to their best weights.

        Parameters
        ----------
        net : GaussianVAENet
            The net, between two epochs.
        n_last : float
            Modules whose best epoch is one of so many last ones go on, of each of the net's
            ``n_starts`` the one with the best loss alone.

        Returns
        -------
        bool
            Whether there are any.
        """
        self.in_training_ &= len(net.history) - self.best_epochs_ < n_last
        self.in_training_ &= self._win(net)
        if not self.in_training_.any():
            return False
        net.drop_members(self.in_training_)
        rows = torch.from_numpy(net.in_stack_).to(net.device)
        buffers = {name: b[rows] for name, b in self._best_buffers.items()}
        net.stack_.put_(self._best_weights[rows], buffers)
        return True

    def on_train_end(self, net, X=None, y=None, **kwargs):
        net.restore_members(self._best_weights, self._best_buffers)
        del self._best_weights, self._best_buffers

    def _have_rivals(self, net, sound):
        # Whether another start of the same model is sound: then nothing is lost with this one.
        groups = sound.reshape(-1, net.n_starts * (1 + net.n_folds))
        return np.repeat(groups.any(1), groups.shape[1])

    def _win(self, net):
        # Of competing starts the best; without validation rows nobody knows.
        starts = self.best_losses_.reshape(-1, net.n_starts, 1 + net.n_folds)
        best = np.argmin(starts[..., 0], 1, keepdims=True)
        wins = (np.arange(net.n_starts) == best) | np.isinf(starts[..., 0])
        return np.repeat(wins.ravel(), 1 + net.n_folds)

    def _keep(self, net, which, epoch):
        self.best_epochs_[which] = epoch
        to = torch.from_numpy(np.flatnonzero(which)).to(net.device)
        rows = torch.from_numpy(np.flatnonzero(which[net.in_stack_])).to(net.device)
        self._best_weights[to] = net.kept_weights[rows]
        for name, buffer in net.stack_.buffers.items():
            self._best_buffers[name][to] = buffer[rows]

    def _are_finite(self, net, terms):
        finite = np.isfinite(terms["train"]["loss"])
        if "valid" in terms:  # which saw the last weights
            return finite & np.isfinite(terms["valid"]["loss"])
        finite[net.in_stack_] &= net.kept_weights.isfinite().all(1).cpu().numpy()
        return finite


class ProgressBar(Callback):
    """Show one bar for the whole fit, with the monitored loss; of competing starts the lowest."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        from tqdm.auto import tqdm

        self.bar_ = tqdm(total=net.max_epochs, unit="epoch")

    def on_epoch_end(self, net, **kwargs):
        record = net.history[-1]
        name = "valid_loss" if "valid_loss" in record else "train_loss"
        loss = np.nanmin(record["modules"][name]) if net.n_starts > 1 else record[name]
        self.bar_.total = self.bar_.n + 1 + net.cycle_end_ - len(net.history)
        self.bar_.set_postfix({name: f"{loss:.4g}"}, refresh=False)
        self.bar_.update()

    def on_train_end(self, net, X=None, y=None, **kwargs):
        self.bar_.close()
        del self.bar_

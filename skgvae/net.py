"""How is it trained? A skorch net with a lean loop.

skorch's own loop synchronises with the device after every batch and records every batch; on
tables that costs more than the training step. This net keeps skorch's surface (parameters,
callbacks, history, checkpoints) and records once an epoch.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from threadpoolctl import threadpool_limits
from torch import nn

from .batches import TensorBatches
from .objectives import NegativeBound

__all__ = ["BestEpoch", "GaussianVAENet", "ProgressBar", "one_cycle"]

_SHARED_NOISE_RATE = 0.1  # at the full learning rate
_PARALLEL_WORK = 2**29  # multiplications in a step from which threads share it
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class EarlyStop(KeyboardInterrupt):
    """Ends training: skorch ends its loop at a KeyboardInterrupt."""


def one_cycle(progress: float, warm_up: float = 0.05) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine to zero.

    Parameters
    ----------
    progress : float
        Share of all steps that is done, in [0, 1].
    warm_up : float
        Share of all steps that the rise takes.
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class BestEpoch(Callback):
    """Keep the weights of the best epoch, stop when there is no hope of a better one.

    The best epoch has the lowest validation loss; the weights before the first step take
    part. Without validation rows it is the last epoch with finite loss and weights. Training
    ends after ``patience`` epochs without a better one, or at the first loss that is not
    finite; then, and at every other end, the best weights are put back.

    Parameters
    ----------
    patience : int, optional
        Epochs to wait for a better one; None waits to the end.
    """

    def __init__(self, patience: int | None = None):
        self.patience = patience

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.best_loss_ = math.inf
        self._keep(net, len(net.history))

    def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
        if dataset_valid is not None and self.best_loss_ == math.inf:
            loss = net.evaluate(dataset_valid)["loss"]
            self.best_loss_ = loss if math.isfinite(loss) else math.inf

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        epoch, record = len(net.history), net.history[-1]
        if not self._is_finite(net, record):
            warnings.warn(
                f"The loss or a weight was not finite in epoch {epoch}: training ended and the "
                f"weights of epoch {self.best_epoch_} are kept. Use a smaller lr "
                f"(now {net.lr:g}), or a larger min_noise; check the data for outliers.",
                RuntimeWarning,
                stacklevel=2,
            )
            net.stop_training_ = True
            return
        loss = record.get("valid_loss")
        better = loss is None or loss < self.best_loss_
        if better:
            self.best_loss_ = math.inf if loss is None else loss
            self._keep(net, epoch)
        net.history.record("valid_loss_best", better)
        if self.patience is not None and epoch - self.best_epoch_ >= self.patience:
            net.stop_training_ = True

    def on_train_end(self, net, X=None, y=None, **kwargs):
        if len(net.history) != self.best_epoch_:
            net.module_.load_state_dict(self._best_state)
        del self._best_state

    def _keep(self, net, epoch):
        self.best_epoch_ = epoch
        self._best_state = copy.deepcopy(net.module_.state_dict())

    def _is_finite(self, net, record):
        if "valid_loss" in record:  # which saw the last weights
            return math.isfinite(record["train_loss"]) and math.isfinite(record["valid_loss"])
        weights = torch.stack([p.detach().sum() for p in net.module_.parameters()])
        return math.isfinite(record["train_loss"]) and math.isfinite(weights.sum().item())


class ProgressBar(Callback):
    """Show one bar for the whole fit, with the monitored loss."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        from tqdm.auto import tqdm

        self.bar_ = tqdm(total=net.max_epochs, unit="epoch")

    def on_epoch_end(self, net, **kwargs):
        record = net.history[-1]
        name = "valid_loss" if "valid_loss" in record else "train_loss"
        self.bar_.set_postfix({name: f"{record[name]:.4g}"}, refresh=False)
        self.bar_.update()

    def on_train_end(self, net, X=None, y=None, **kwargs):
        self.bar_.close()
        del self.bar_


class GaussianVAENet(NeuralNet):
    """Train a :class:`~skgvae.nn.GaussianVAEModule` on a :class:`~skgvae.batches.RowDataset`.

    Everything that :class:`skorch.NeuralNet` accepts is accepted; the parameters below are
    new or have other defaults. ``history`` holds, for each epoch, ``train_`` and ``valid_``
    ``loss`` and its parts, in nats a row.

    Parameters
    ----------
    module : nn.Module
        A :class:`~skgvae.nn.GaussianVAEModule`, or its class with ``module__`` parameters; with
        ``criterion=JointLoss`` a :class:`~skgvae.nn.GaussianVAEClassifierModule`.
    seed : int, default=0
        Seed of the order of rows and of all draws.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    schedule : callable, optional
        Learning-rate factor as a function of the share of steps done; None keeps ``lr``. It
        steps aside when a :class:`skorch.callbacks.LRScheduler` is among the callbacks.
    gradient_clip : float, default=10.0
        Largest norm of the gradient of the loss.
    n_valid_draws : int, default=1
        Draws of z for each validation row, the same in every epoch.

    Examples
    --------
    >>> import torch
    >>> from skgvae.batches import RowDataset
    >>> from skgvae.net import GaussianVAENet
    >>> from skgvae.nn import GaussianVAEModule
    >>> net = GaussianVAENet(GaussianVAEModule, module__in_features=3,
    ...                      module__latent_features=2, max_epochs=2)
    >>> net = net.fit(RowDataset(torch.zeros(50, 3)))
    >>> sorted(net.history[-1])
    ['batches', 'epoch', 'train_kl', 'train_loss', 'train_reconstruction', 'valid_loss_best']
    """

    def __init__(
        self,
        module,
        *,
        criterion=NegativeBound,
        optimizer=torch.optim.AdamW,
        lr=1e-2,
        max_epochs=100,
        batch_size=256,
        iterator_train=TensorBatches,
        iterator_train__shuffle=True,
        iterator_valid=TensorBatches,
        iterator_valid__batch_size=8192,
        train_split=None,
        verbose=0,
        seed=0,
        patience=None,
        schedule=one_cycle,
        gradient_clip=10.0,
        n_valid_draws=1,
        **kwargs,
    ):
        self.seed = seed
        self.patience = patience
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.n_valid_draws = n_valid_draws
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            iterator_train=iterator_train,
            iterator_train__shuffle=iterator_train__shuffle,
            iterator_valid=iterator_valid,
            iterator_valid__batch_size=iterator_valid__batch_size,
            train_split=train_split,
            verbose=verbose,
            **kwargs,
        )

    @property
    def _default_callbacks(self):
        callbacks = [("best_epoch", BestEpoch(self.patience))]
        return callbacks + ([("progress_bar", ProgressBar())] if self.verbose else [])

    def get_all_learnable_params(self):
        """Yield what the optimizer sees: shared noise has a closed form instead."""
        for name, parameter in super().get_all_learnable_params():
            if not name.endswith("shared_log_scale"):
                yield name, parameter

    def initialize_optimizer(self, triggered_directly=None):
        super().initialize_optimizer(triggered_directly)
        for group in self.optimizer_.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return self

    def get_split_datasets(self, X, y=None, **fit_params):
        train, valid = super().get_split_datasets(X, y, **fit_params)
        return train.to(self.device), None if valid is None else valid.to(self.device)

    def get_iterator(self, dataset, training=False):
        iterator = super().get_iterator(dataset, training)
        if training and isinstance(iterator, TensorBatches):
            iterator.generator = self._generator
        return iterator

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        self.stop_training_ = False
        self._steps_done, self._n_epochs = 0, self.max_epochs if epochs is None else epochs
        # Seeded by the epochs so far: a second pass has draws of its own, and no state is kept.
        self._generator = self._seeded_generator(self.seed + len(self.history))
        self._trained_parameters = [p for _, p in self.get_all_learnable_params()]
        callbacks = [cb for _, cb in self.callbacks_]
        self._own_schedule = not any(isinstance(cb, LRScheduler) for cb in callbacks)
        self._notify_batches = any(
            getattr(type(cb), hook) is not getattr(Callback, hook)
            for cb in callbacks
            for hook in _BATCH_HOOKS
        )
        try:
            with self._few_threads():
                super().fit_loop(X, y, epochs=epochs, **fit_params)
        except EarlyStop:
            pass
        except KeyboardInterrupt:
            if not any(isinstance(cb, EarlyStopping) for cb in callbacks):  # it raises this too
                warnings.warn(
                    f"Training was interrupted in epoch {len(self.history)}: the best epoch so "
                    "far is kept.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        finally:
            del self._generator, self._trained_parameters
        return self

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        if self.stop_training_:
            raise EarlyStop
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run an epoch; record the means of the loss and its parts."""
        if iterator is None:
            return
        means = self._mean_terms(iterator, training, step_fn, self._notify_batches)
        for name, value in means.items():
            self.history.record(f"{prefix}_{name}", value)

    def evaluate(self, dataset) -> dict[str, float]:
        """Return the loss of a data set and its parts, in nats a row.

        Parameters
        ----------
        dataset : RowDataset
            Rows in the units in which the module was trained.
        """
        iterator = self.get_iterator(dataset.to(self.device), training=False)
        return self._mean_terms(iterator, False, self.validation_step, notify=False)

    def _mean_terms(self, iterator, training, step_fn, notify):
        self._set_training(training)
        if not training:
            self._valid_generator = self._seeded_generator(self.seed)  # the same draws always
        terms, n_rows = [], []
        for batch in iterator:
            if training:
                self._schedule_lr(len(iterator))
            if notify:
                self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch)
            terms += step["terms"]
            n_rows.append(len(batch[1]))
            if notify:
                self._record_batch(batch, training, step)
        # Only here are numbers read from the device: once an epoch.
        terms = torch.stack(terms).detach().view(len(n_rows), -1).tolist()
        means = np.average(terms, axis=0, weights=n_rows).tolist()
        return dict(zip(step["terms"]._fields, means, strict=True))

    def _record_batch(self, batch, training, step):
        # skorch's own batch record, for callbacks that need it.
        prefix = "train" if training else "valid"
        self.history.record_batch(f"{prefix}_loss", step["loss"].item())
        self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))
        with torch.no_grad():
            step["y_pred"] = self.infer(batch[0])
        self.notify("on_batch_end", batch=batch, training=training, **step)

    def train_step(self, batch, **fit_params):
        """Take one optimizer step; return the loss and its parts."""
        self.module_.zero_grad()  # shared noise too, which the optimizer does not see
        terms = self._loss(batch, self.criterion_.n_draws, self._generator)
        terms.loss.backward()
        decoder = self.module_.decoder
        weight = self.criterion_.vae_weight
        if decoder.noise != "heteroscedastic" and weight > 0:
            group = self.optimizer_.param_groups[0]
            rate = _SHARED_NOISE_RATE * group["lr"] / group["initial_lr"]
            decoder.update_shared_noise_(min(rate, 1.0), weight)
        if self._notify_batches:
            named = list(self.get_all_learnable_params())
            self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
        nn.utils.clip_grad_norm_(self._trained_parameters, self.gradient_clip)
        self.optimizer_.step()
        return {"loss": terms.loss.detach(), "terms": terms}

    def validation_step(self, batch, **fit_params):
        """Return the loss and its parts, without a gradient."""
        with torch.no_grad():
            terms = self._loss(batch, self.n_valid_draws, self._valid_generator)
        return {"loss": terms.loss, "terms": terms}

    def infer(self, x, **fit_params):
        """Return the decoder's mean at the posterior mean, in standardised units."""
        v1, *_ = x
        loc, _ = self.module_.encoder.loc_and_log_scale(v1)
        return self.module_.decoder.loc_and_log_scale(loc)[0]

    def _loss(self, batch, n_draws, generator):
        (v1, *others), v2 = batch
        shape = (n_draws, len(v1), self.criterion_.noise_features(self.module_))
        eps = torch.randn(shape, generator=generator, dtype=v1.dtype, device=v1.device)
        return self.criterion_(self.module_, v1, v2, eps, *others)

    def _schedule_lr(self, n_batches):
        if not self._own_schedule:
            return
        factor = 1.0
        if self.schedule is not None:
            factor = self.schedule(self._steps_done / (self._n_epochs * n_batches))
        for group in self.optimizer_.param_groups:
            group["lr"] = factor * group["initial_lr"]
        self._steps_done += 1

    def _few_threads(self):
        # In a small step threads wait for each other longer than they share the work, above all
        # on a busy machine.
        n_weights = sum(p.numel() for p in self.module_.parameters())
        rows = min(self.batch_size, 8192) * self.criterion_.n_draws
        limits = 1 if rows * n_weights < _PARALLEL_WORK else None
        return threadpool_limits(limits, user_api="openmp")

    def _seeded_generator(self, seed):
        return torch.Generator(self.device).manual_seed(seed)

"""How is it trained? A skorch net with a lean loop.

skorch's own loop synchronises with the device after every batch and records every batch; on
tables that costs more than the training step. This net keeps skorch's surface (parameters,
callbacks, history, checkpoints) and records once an epoch.
"""

from __future__ import annotations

import inspect
import math
from numbers import Integral

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import Dataset
from skorch.utils import to_numpy
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, Subset

from ._batches import RowDataset, StackedRows, TensorBatches
from ._callbacks import BestEpoch, ProgressBar
from ._optimizer import StackOptimizer
from ._stack import ModuleStack
from .likelihood import class_log_prob, latent_draws
from .nn.linear import along
from .objectives import JointLoss, NegativeBound

__all__ = [
    "GaussianVAEClassifierNet",
    "GaussianVAENet",
    "RowDataset",
    "StackedRows",
    "one_cycle",
]

SHARED_NOISE = "decoder.shared_log_scale"
_SHARED_NOISE_RATE = 0.1  # at the full learning rate
_LAST_EPOCHS = 0.1  # share of a cycle of the rate
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


class GaussianVAENet(NeuralNet):
    """Train a :class:`~skgvae.nn.GaussianVAEModule` on a :class:`~skgvae.net.RowDataset`.

    The parameters are those of :class:`skorch.NeuralNet`; the ones below are new or have other
    defaults. ``history`` holds, for each epoch, ``train_`` and ``valid_`` ``loss`` and its
    parts, in nats a row.

    What skorch accepts and this net does not: rows are a RowDataset, not arrays or tensors;
    ``iterator_train`` and ``iterator_valid`` are TensorBatches, not a DataLoader; an optimizer
    that needs a closure, such as LBFGS, raises a ValueError.

    A callback that sees batches or predictions, such as :class:`skorch.callbacks.EpochScoring`,
    sees the rows and the predictions of the first module.

    Parameters
    ----------
    module : nn.Module or list of nn.Module
        A :class:`~skgvae.nn.GaussianVAEModule`, or its class with ``module__`` parameters; with
        ``criterion=JointLoss`` a :class:`~skgvae.nn.GaussianVAEClassifierModule`. Several
        modules of one architecture are trained together, each on its rows of a
        :class:`~skgvae.net.StackedRows` or all on one RowDataset, with the same result as
        alone. ``module_`` is the first, ``stack_.members`` are all; ``history`` holds averages
        over them.
    seed : int or list of int, default=0
        Seed of the order of rows and of all draws: of each module, or one that all have.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    schedule : callable, optional
        Learning-rate factor as a function of the share of steps done; None keeps ``lr``. It
        steps aside when a :class:`skorch.callbacks.LRScheduler` is among the callbacks.
    n_cycles : int, default=1
        Largest number of cycles of the schedule [2]_: the first takes ``max_epochs``, each other
        twice the epochs of the one before. It starts from the best weights, with the modules
        whose best epoch lies in the last tenth of the cycle that ended; without validation rows
        these are all. There is one where ``epochs`` are given, and without a schedule or the
        callback ``best_epoch``.
    gradient_clip : float, default=10.0
        Largest norm of the gradient of the loss.
    n_valid_draws : int, default=1
        Draws of z for each validation row, the same in every epoch.
    averaging : float, default=0.05
        Share r of the steps so far over which the weights are averaged, exponentially [1]_:
        after step t the newest weights enter with a weight of 1 / (1 + r t). The average is what
        is evaluated and kept after an epoch, training goes on from the weights themselves. It
        finds what a falling learning rate would, before it falls. 0 keeps the weights as they are.
    prior_delay : float, default=0.0
        Share of the schedule's first cycle in which the parameters of the prior stay as they are.
    n_starts : int, default=1
        So many modules, each with its ``n_folds`` more, compete: after a cycle only the one with
        the best validation loss may go on.
    n_folds : int, default=0
        Of every 1 + ``n_folds`` modules all have the mean validation loss of those after the
        first, a fifth of them left out at either end, and so one best epoch: what
        cross-validation says of the first, which may train on all rows.

    References
    ----------
    .. [1] Karras, Aittala, Lehtinen, Hellsten, Aila & Laine, "Analyzing and Improving the
       Training Dynamics of Diffusion Models", 2024, arXiv:2312.02696 (section 3.1).
    .. [2] Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
       arXiv:1608.03983.

    Examples
    --------
    >>> import torch
    >>> from skgvae.net import GaussianVAENet, RowDataset
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
        optimizer=StackOptimizer,
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
        n_cycles=1,
        gradient_clip=10.0,
        n_valid_draws=1,
        averaging=0.05,
        prior_delay=0.0,
        n_starts=1,
        n_folds=0,
        **kwargs,
    ):
        self.seed = seed
        self.patience = patience
        self.schedule = schedule
        self.n_cycles = n_cycles
        self.gradient_clip = gradient_clip
        self.n_valid_draws = n_valid_draws
        self.averaging = averaging
        self.prior_delay = prior_delay
        self.n_starts = n_starts
        self.n_folds = n_folds
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
        """Yield what an optimizer of torch sees: shared noise has a closed form instead."""
        for name, parameter in self.stack_.parameters.items():
            if not name.endswith(SHARED_NOISE):
                yield name, parameter

    def initialize(self):
        """Initialise all parts of the net."""
        self.interrupt_ = None  # the KeyboardInterrupt that ended the last training
        return super().initialize()

    def initialize_module(self):
        """Stack the modules: those that train are rows of common tensors."""
        if isinstance(self.module, (list, tuple)):
            self.module_ = self.module[0]
            members = self.module
        else:
            super().initialize_module()
            members = [self.module_]
        self.stack_ = ModuleStack([member.to(self.device) for member in members])
        self.in_stack_ = np.arange(len(members))
        return self

    def initialize_optimizer(self, triggered_directly=None):
        if self.optimizer is StackOptimizer:
            _, params = self.get_params_for_optimizer("optimizer", [])
            self.optimizer_ = StackOptimizer(self.stack_, **{"lr": self.lr, **params})
        else:
            super().initialize_optimizer(triggered_directly)
        closure = inspect.signature(self.optimizer_.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ValueError(
                f"optimizer={type(self.optimizer_).__name__} needs a closure, and this net has "
                "none. Use an optimizer that steps along the gradient, such as AdamW or SGD."
            )
        for group in self.optimizer_.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return self

    def get_dataset(self, X, y=None):
        return _checked(X)

    def get_split_datasets(self, X, y=None, **fit_params):
        parts = super().get_split_datasets(X, y, **fit_params)
        train, valid = (None if part is None else self._stacked(part) for part in parts)
        self._datasets = [rows for rows in (train, valid) if rows is not None]
        return train, valid

    def _stacked(self, rows):
        if isinstance(rows, Subset) and isinstance(rows.dataset, RowDataset):
            rows = rows.dataset.subset(rows.indices)  # skorch's ValidSplit makes a Subset
        rows, n_modules = _checked(rows), len(self.in_stack_)
        if isinstance(rows, RowDataset):
            rows = StackedRows([rows] * n_modules)
        if rows.n_members != n_modules:
            raise ValueError(
                f"The net has {n_modules} modules, but the StackedRows have {rows.n_members} "
                "members. Give each module its rows, or one RowDataset for all."
            )
        return _ScoredRows(rows.to(self.device), self)

    def get_iterator(self, dataset, training=False):
        iterator = super().get_iterator(dataset, training)
        if isinstance(iterator, DataLoader):
            name = "iterator_train" if training else "iterator_valid"
            raise TypeError(
                f"{name} must make batches as TensorBatches does, got a {type(iterator).__name__}."
            )
        if training and isinstance(iterator, TensorBatches):
            iterator.generators = self._generators
        return iterator

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        self.stop_training_, self.interrupt_ = False, None
        # Seeded by the epochs so far: a second pass has draws of its own, and no state is kept.
        self._generators = self._seeded_generators(len(self.history))
        self.stack_.pull_()
        names = [name for name, *_ in self.stack_.columns]
        self._shared_noise = next((n for n in names if n.endswith(SHARED_NOISE)), None)
        self._of_prior = [name for name in names if "prior." in f".{name}"]
        self._criterion_by_module = {
            name: value for name, value in vars(self.criterion_).items() if torch.is_tensor(value)
        }
        callbacks = [cb for _, cb in self.callbacks_]
        self._own_schedule = not any(isinstance(cb, LRScheduler) for cb in callbacks)
        n_in_cycle = self.max_epochs if epochs is None else epochs
        has_schedule = self._own_schedule and self.schedule is not None
        if epochs is None and has_schedule:
            epochs = self.most_epochs
        self._start_cycle(n_in_cycle)
        self._prior_rests = self.prior_delay if has_schedule else 0.0
        self._notify_batches = any(
            getattr(type(cb), hook) is not getattr(Callback, hook)
            for cb in callbacks
            for hook in _BATCH_HOOKS
        )
        own = (BestEpoch, ProgressBar)
        self._is_watched = not all(isinstance(cb, own) for cb in callbacks)
        self.member_terms_ = {}
        try:
            with self._few_threads():
                super().fit_loop(X, y, epochs=epochs, **fit_params)
        except EarlyStop:
            pass
        except Exception:
            best = dict(self.callbacks_).get("best_epoch")
            if hasattr(best, "_best_weights"):
                best.on_train_end(self)
            raise
        except KeyboardInterrupt:
            stops = (cb for cb in callbacks if isinstance(cb, EarlyStopping))
            if not any(cb.misses_ == cb.patience for cb in stops):  # which raise this too
                self.interrupt_ = KeyboardInterrupt(
                    f"Training was interrupted in epoch {len(self.history)}: the best epoch so "
                    "far is kept."
                )
        finally:
            del self._generators, self._average
            self._datasets = []
        return self

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        if self.stop_training_:
            raise EarlyStop
        if len(self.history) == self.cycle_end_:
            self._start_next_cycle()
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)

    @property
    def most_epochs(self) -> int:
        """Number of epochs in all cycles."""
        if not (isinstance(self.n_cycles, Integral) and self.n_cycles >= 1):
            raise ValueError(f"n_cycles={self.n_cycles!r} must be a whole number from 1 on.")
        return self.max_epochs * (2**self.n_cycles - 1)

    def _start_cycle(self, n_epochs):
        self._n_epochs, self.cycle_end_ = n_epochs, len(self.history) + n_epochs
        self._steps_done, self._steps_averaged, self._progress = 0, 0, 0.0
        if not self.averaging >= 0:
            raise ValueError(f"averaging={self.averaging!r} must be 0 or positive.")
        self._average = self.stack_.weights.clone() if self.averaging else None

    def _start_next_cycle(self):
        """Start a cycle twice as long, or end training where the last one was long enough."""
        best = dict(self.callbacks_).get("best_epoch")
        if not (isinstance(best, BestEpoch) and best.restart(self, _LAST_EPOCHS * self._n_epochs)):
            raise EarlyStop
        self.optimizer_.state.clear()  # of other weights; callbacks hold the optimizer itself
        self._prior_rests = 0.0
        self._start_cycle(2 * self._n_epochs)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run an epoch; record the means of the loss and its parts."""
        if iterator is None:
            return
        if training and not self._notify_batches:
            self.history.new_batch()  # an empty one: Checkpoint looks at the last
        terms = self._mean_terms(iterator, training, step_fn, self._notify_batches)
        if training and self._is_watched:
            self.stack_.sync_(self.kept_weights)  # for callbacks
        self.member_terms_[prefix] = terms
        self.record_for_members({f"{prefix}_{name}": v for name, v in terms.items()}, np.mean)

    @property
    def kept_weights(self) -> torch.Tensor:
        """What is evaluated and kept after an epoch: the average of the weights, of (M, P)."""
        average = getattr(self, "_average", None)
        return self.stack_.weights if average is None else average

    def record_for_members(self, values, summarise):
        """Record what has an entry for each module: a summary, and of several modules all."""
        for name, entries in values.items():
            self.history.record(name, _in_float32(summarise(entries[self.in_stack_])).item())
        if len(entries) > 1:
            known = self.history[-1].get("modules", {})
            own = {name: _in_float32(entries).tolist() for name, entries in values.items()}
            self.history.record("modules", known | own)

    def final_losses(self) -> np.ndarray:
        """Return the loss of each module with the weights that it has after training.

        The best validation loss, or without validation rows the training loss of the last
        epoch; infinite where it is not known.
        """
        best = dict(self.callbacks_).get("best_epoch")
        if best is not None and np.isfinite(best.best_losses_).any():
            return best.best_losses_
        terms = getattr(self, "member_terms_", {}).get("train", {})
        loss = terms.get("loss", np.full(len(self.stack_), math.inf))
        return np.where(np.isnan(loss), math.inf, loss)

    def keep_modules(self, which: list[int]) -> None:
        """Hold these modules alone, in this order, with a new optimizer.

        Parameters
        ----------
        which : list of int
            Indices of modules.
        """
        self.module = [self.stack_.members[i] for i in which]
        if isinstance(self.seed, (list, tuple)):
            self.seed = [self.seed[i] for i in which]
        self.n_starts, self.n_folds = 1, 0
        self.initialize_module()
        self.initialize_optimizer()
        self.member_terms_ = {
            part: {name: values[which] for name, values in terms.items()}
            for part, terms in getattr(self, "member_terms_", {}).items()
        }
        best = dict(self.callbacks_).get("best_epoch")
        for name in ("best_losses_", "best_epochs_", "last_epochs_", "in_training_"):
            if hasattr(best, name):
                setattr(best, name, getattr(best, name)[which])

    def drop_members(self, which: np.ndarray) -> None:
        """Go on without the modules for which training has ended.

        Parameters
        ----------
        which : ndarray of bool, of shape (n_modules,)
            The modules that go on.
        """
        which = which[self.in_stack_]
        if self._notify_batches:
            which[0] = True  # callbacks that hear of batches go on seeing the first module
        states = [t for s in self.optimizer_.state.values() for t in s.values() if t is not None]
        can_drop = all(torch.is_tensor(t) and (not t.ndim or len(t) == len(which)) for t in states)
        if which.all() or not can_drop:
            return
        self.in_stack_ = self.in_stack_[which]
        rows = torch.from_numpy(np.flatnonzero(which)).to(self.device)
        for state in self.optimizer_.state.values():
            state.update({k: v[rows] for k, v in state.items() if v.ndim})
        self.stack_.keep_(rows)
        if self._average is not None:
            self._average = self._average[rows]
        for dataset in self._datasets:
            dataset.keep_(rows)
        for group in self.optimizer_.param_groups:
            decay = group.get("weight_decay")
            if torch.is_tensor(decay) and decay.ndim:
                group["weight_decay"] = decay[rows]
        for name, value in self._criterion_by_module.items():
            setattr(self.criterion_, name, value[self.in_stack_])
        # In place: the iterator holds the same list.
        self._generators[:] = [g for g, kept in zip(self._generators, which, strict=True) if kept]

    def restore_members(self, weights: torch.Tensor, buffers: dict[str, torch.Tensor]) -> None:
        """Put all modules back, with these weights and buffers.

        Parameters
        ----------
        weights : Tensor of shape (M, P)
            A row for each module.
        buffers : dict of Tensor of shape (M, *)
            As those of the stack.
        """
        some_ended = len(self.in_stack_) < len(weights)
        self.in_stack_ = np.arange(len(weights))
        self.stack_.restore_(weights, buffers)
        for name, value in self._criterion_by_module.items():
            setattr(self.criterion_, name, value)
        if some_ended:  # the optimizer has forgotten them
            self.initialize_optimizer()

    def evaluate(self, dataset) -> dict[str, float]:
        """Return the loss of a data set and its parts, in nats a row.

        Parameters
        ----------
        dataset : RowDataset or StackedRows
            Rows in the units in which the module was trained.
        """
        terms = self.evaluate_members(dataset)
        return {name: float(np.nanmean(values)) for name, values in terms.items()}

    def evaluate_members(self, dataset) -> dict[str, np.ndarray]:
        """Return the same for each of several modules, as arrays of shape (n_modules,)."""
        if not hasattr(self, "_average"):  # between trainings the members are what there is
            self.stack_.pull_()
        iterator = self.get_iterator(self._stacked(dataset), training=False)
        return self._mean_terms(iterator, False, self.validation_step, notify=False)

    def _mean_terms(self, iterator, training, step_fn, notify):
        self._set_training(training)
        self.stack_.bind_(None if training else self.kept_weights)
        if not training:
            self._valid_generators = self._seeded_generators()  # the same draws always
        terms, n_rows = [], []
        for batch in iterator:
            if training:
                self._schedule_lr(len(iterator))
            self._counts = getattr(iterator, "counts", None) or [batch[1].shape[-2]]
            if notify:
                self.notify("on_batch_begin", batch=self._of_first(batch), training=training)
            step = step_fn(batch)
            terms += step["terms"]
            n_rows.append(self._counts)
            if notify:
                self._record_batch(self._of_first(batch), training, step)
        # Only here are numbers read from the device: once an epoch.
        terms = torch.stack(terms).detach().unflatten(0, (len(n_rows), -1)).cpu().double().numpy()
        n_rows = np.expand_dims(n_rows, 1)  # (batches, 1, modules or 1)
        means = np.full((terms.shape[1], len(self.stack_.all_members)), math.nan)
        means[:, self.in_stack_] = (terms * n_rows).sum(0) / n_rows.sum(0)
        names = step["terms"]._fields
        self.stack_.bind_()
        if self.n_folds and not training:
            _judge_by_folds(means, means[names.index("loss")], self.n_folds)
        return dict(zip(names, means, strict=True))

    def _record_batch(self, batch, training, step):
        # skorch's own batch record, for callbacks that need it.
        prefix = "train" if training else "valid"
        self.history.record_batch(f"{prefix}_loss", step["loss"].mean().item())
        self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))
        step["y_pred"] = self.evaluation_step(batch)  # without dropout, which training has
        self._set_training(training)
        self.notify("on_batch_end", batch=batch, training=training, **step)

    def _of_first(self, batch):
        """Return the first module's part of a batch, as callbacks know it: (X, y)."""
        (v1, *others), v2 = batch
        rows = 0, slice(self._counts[0])
        return self._scored(
            tuple(None if part is None else part[rows] for part in (v1, *others)), v2[rows]
        )

    def _scored(self, X, v2):
        """Return X and y of the rows that a score is computed from."""
        return X, v2

    def forward_iter(self, X, training=False, device="cpu"):
        if not isinstance(X, StackedRows):
            yield from super().forward_iter(X, training, device)
            return
        for batch in self._batches_of_first(X):
            yield self.evaluation_step(batch, training).to(device)

    def _batches_of_first(self, rows):
        iterator = self.get_iterator(rows)
        for batch in iterator:
            self._counts = getattr(iterator, "counts", None) or [batch[1].shape[-2]]
            yield self._of_first(batch)

    def _set_training(self, training=True):
        super()._set_training(training)
        self.stack_.train(training)

    def train_step(self, batch, **fit_params):
        """Take one optimizer step; return the loss and its parts."""
        stack = self.stack_
        for parameter in stack.parameters.values():
            parameter.grad = None
        terms = self._loss(batch, self.criterion_.n_draws, self._generators)
        terms.loss.sum().backward()  # no weight is shared: each has its own gradient
        if self._progress < self._prior_rests:
            for name in self._of_prior:
                stack.parameters[name].grad = None
        if self._shared_noise is not None:
            self._move_shared_noise(stack.parameters[self._shared_noise])
        if self._notify_batches:
            named = list(self.get_all_learnable_params())
            own = self._of_first(batch)
            self.notify("on_grad_computed", named_parameters=named, batch=own, training=True)
        gradient = stack.gradient()
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        factor = (self.gradient_clip / (norm + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
        if isinstance(self.optimizer_, StackOptimizer):
            self.optimizer_.step(gradient=gradient.mul_(factor))
        else:
            for parameter in stack.parameters.values():
                if parameter.grad is not None:
                    parameter.grad *= along(factor[:, 0], parameter, n_axes=0)
            self.optimizer_.step()
        if self._average is not None:
            self._steps_averaged += 1
            self._average.lerp_(stack.weights, 1 / (1 + self.averaging * self._steps_averaged))
        return {"loss": terms.loss.detach(), "terms": terms}

    def _move_shared_noise(self, parameter):
        """Move noise that is no function of z towards its optimum, which is known."""
        group, weight = self.optimizer_.param_groups[0], self.criterion_.vae_weight
        rate = min(_SHARED_NOISE_RATE * group["lr"] / group["initial_lr"], 1.0)
        if weight > 0:
            self.stack_.decoder.update_shared_noise_(rate, weight, parameter.grad)
        parameter.grad = None

    def validation_step(self, batch, **fit_params):
        """Return the loss and its parts, without a gradient."""
        with torch.no_grad():
            terms = self._loss(batch, self.n_valid_draws, self._valid_generators)
        return {"loss": terms.loss, "terms": terms}

    def infer(self, x, **fit_params):
        """Return the first module's decoded posterior mean, in standardised units."""
        v1, *_ = x
        loc, _ = self.module_.encoder.loc_and_log_scale(v1)
        return self.module_.decoder.loc_and_log_scale(loc)[0]

    def _loss(self, batch, n_draws, generators):
        (v1, *others), v2 = batch  # of shape (n_modules, n, features)
        n_rows, n_features = v1.shape[-2], self.criterion_.noise_features(self.stack_)
        counts = self._counts if len(self._counts) > 1 else [n_rows] * len(generators)
        eps = []
        for n, generator in zip(counts, generators, strict=True):
            shape = n_draws, n, n_features
            own = torch.randn(shape, generator=generator, dtype=v1.dtype, device=v1.device)
            eps.append(own if n == n_rows else nn.functional.pad(own, (0, 0, 0, n_rows - n)))
        eps = torch.stack(eps)  # (M, K, n, features)
        terms = self.criterion_.by_rows(self.stack_, v1, v2, eps, *others)
        return type(terms)(*(term.mean(-1) for term in terms))

    def _schedule_lr(self, n_batches):
        if not self._own_schedule:
            return
        factor = 1.0
        self._progress = self._steps_done / (self._n_epochs * n_batches)
        if self.schedule is not None:
            factor = self.schedule(self._progress)
        for group in self.optimizer_.param_groups:
            group["lr"] = factor * group["initial_lr"]
        self._steps_done += 1

    def _few_threads(self):
        # In a small step threads wait for each other longer than they share the work, above all
        # on a busy machine.
        n_weights = self.stack_.weights.numel()
        rows = min(self.batch_size, 8192) * self.criterion_.n_draws
        limits = 1 if rows * n_weights < _PARALLEL_WORK else None
        return threadpool_limits(limits, user_api="openmp")

    def _seeded_generators(self, offset=0):
        n_modules = len(self.stack_.all_members)
        seeds = self.seed if isinstance(self.seed, (list, tuple)) else [self.seed] * n_modules
        if len(seeds) != n_modules:
            raise ValueError(
                f"seed must have an entry for each of the {n_modules} modules, got {len(seeds)}."
            )
        seeds = [seeds[i] + offset for i in self.in_stack_]
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]


class GaussianVAEClassifierNet(ClassifierMixin, GaussianVAENet):
    """Train a :class:`~skgvae.nn.GaussianVAEClassifierModule`, and score it as a classifier.

    Parameters are those of :class:`GaussianVAENet` and the ones below. ``predict`` and
    ``predict_proba`` are of the first module. A callback that scores sees what they return, and
    the classes themselves; it does not see rows without a label.

    Parameters
    ----------
    module : nn.Module or list of nn.Module
        A :class:`~skgvae.nn.GaussianVAEClassifierModule`, or several.
    classes : array-like of shape (n_classes,)
        The class of each index that is a label in the RowDataset.
    n_draws : int, default=64
        Draws of z and v2 in prediction, of :func:`~skgvae.likelihood.latent_draws`.
    draws_seed : int, default=0
        Seed of these draws.
    """

    def __init__(
        self, module, *, classes, criterion=JointLoss, n_draws=64, draws_seed=0, **kwargs
    ):
        self.classes = classes
        self.n_draws = n_draws
        self.draws_seed = draws_seed
        super().__init__(module, criterion=criterion, **kwargs)

    @property
    def classes_(self):
        """Classes, as ndarray of shape (n_classes,)."""
        return np.asarray(self.classes)

    def infer(self, x, **fit_params):
        """Return the first module's probability of each class, of shape (n_samples, n_classes)."""
        v1, *_ = x
        width = self.module_.encoder.out_features + self.module_.decoder.out_features
        draws = latent_draws(self.n_draws, width, self.draws_seed)
        return class_log_prob(self.module_, v1, draws).exp()

    def predict(self, X):
        """Return the most probable class of each row of a RowDataset."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _scored(self, X, v2):
        *_, label_weight = X
        if label_weight is not None:
            X = tuple(None if part is None else part[label_weight >= 0] for part in X)
        return X, self.classes_[to_numpy(X[2])]


class _ScoredRows(StackedRows, Dataset):
    """Rows with an X and a y, where skorch looks for them when it scores without its cache."""

    X = property(lambda self: self)

    def __init__(self, rows, net):
        vars(self).update(vars(rows))
        self._net = net

    @property
    def y(self):
        return np.concatenate([to_numpy(y) for _, y in self._net._batches_of_first(self)])


def _checked(rows):
    if isinstance(rows, Subset):
        raise TypeError(
            f"train_split can split a RowDataset, but not {type(rows.dataset).__name__}. In an "
            "estimator use validation_fraction instead."
        )
    if not isinstance(rows, (RowDataset, StackedRows)):
        raise TypeError(
            f"Rows must be a RowDataset, got {type(rows).__name__}. Make one from float32 "
            "tensors: skgvae.net.RowDataset(v1, v2)."
        )
    if not len(rows):
        raise ValueError("The data set must have at least one row, got none.")
    return rows


def _in_float32(values):
    """Return losses as exactly as they are computed: so they are saved in half the space."""
    return np.asarray(values, np.float32) if np.asarray(values).dtype.kind == "f" else values


def _judge_by_folds(means, loss, n_folds):
    """Give all modules of a group the means of its folds; not finite stays not finite."""
    lost = ~np.isfinite(loss)
    of_folds = means.reshape(len(means), -1, 1 + n_folds)[..., 1:]
    # Without those at the ends: one row far from all others can ruin a fold's.
    n_cut = n_folds // 5
    middle = np.argsort(loss.reshape(-1, 1 + n_folds)[:, 1:])[:, n_cut : n_folds - n_cut]
    judged = np.take_along_axis(of_folds, middle[None], -1).mean(-1)
    means[:] = np.where(lost, math.nan, np.repeat(judged, 1 + n_folds, -1))

"""What users of skorch know of a training: its net, around the loop of ``_training.py``.

skorch's own loop synchronises with the device after every batch and records every batch; on
tables that costs more than the training step. This net keeps skorch's surface (parameters,
callbacks, history, checkpoints) and records once an epoch.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import numpy as np
from sklearn.base import ClassifierMixin
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import Dataset
from skorch.utils import to_numpy
from torch.utils.data import DataLoader, Subset

from ._optimizer import StackOptimizer
from ._progress import ProgressBar
from ._rows import RowDataset, StackedRows, as_pair, batches
from ._stack import ModuleStack
from ._threads import one_openmp_thread
from ._training import SHARED_NOISE, Hooks, Plan, evaluate, one_cycle, train
from .likelihood import class_log_prob, latent_draws
from .objectives import JointLoss, NegativeBound

__all__ = [
    "GaussianVAEClassifierNet",
    "GaussianVAENet",
    "RowDataset",
    "StackedRows",
    "one_cycle",
]

_PARALLEL_WORK = 2**29  # multiplications in a step from which threads share it
_PREDICTED_ROWS = 8192  # at once
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class GaussianVAENet(NeuralNet):
    """Train a :class:`~skgvae.nn.GaussianVAEModule` on a :class:`~skgvae.net.RowDataset`.

    The parameters are those of :class:`skorch.NeuralNet`; the ones below are new or have other
    defaults. ``history`` holds, for each epoch, ``train_`` and ``valid_`` ``loss`` and its
    parts, in nats a row. After training the module has the weights of the epoch with the lowest
    validation loss, without validation rows those of the last.

    What skorch accepts and this net does not: rows are a RowDataset, not arrays or tensors;
    the net makes the batches itself, so there are no iterators; an optimizer that needs a
    closure, such as LBFGS, raises a ValueError.

    A callback that sees batches or predictions, such as :class:`skorch.callbacks.EpochScoring`,
    sees the rows and the predictions of the first module; one that loads weights
    (``load_best=True``) loads them into the first alone.

    Parameters
    ----------
    module : nn.Module or list of nn.Module
        A :class:`~skgvae.nn.GaussianVAEModule`, or its class with ``module__`` parameters; with
        ``criterion=JointLoss`` a :class:`~skgvae.nn.GaussianVAEClassifierModule`. Several
        modules of one architecture are trained together, each on its rows of a
        :class:`~skgvae.net.StackedRows` or all on one RowDataset. ``module_`` is the first,
        ``stack_.members`` are all; ``history`` holds averages over them.
    seed : int or list of int, default=0
        Seed of the order of rows and of all draws: of each module, or one that all have.
    patience : int, optional
        Epochs without a better validation loss after which training stops; at least as many as
        the best one took.
    schedule : callable, optional
        Learning-rate factor as a function of the share of steps done; None keeps ``lr``. It
        steps aside when a :class:`skorch.callbacks.LRScheduler` is among the callbacks.
    gradient_clip : float, default=10.0
        Largest norm of the gradient of the loss.
    n_valid_draws : int, default=1
        Draws of z for each validation row, the same in every epoch.
    averaging : float, default=0.05
        Share r of the steps so far over which the weights are averaged, exponentially [1]_:
        after step t the newest weights enter with a weight of 1 / (1 + r t). The average is what
        is evaluated and kept after an epoch, training goes on from the weights themselves. It
        finds what a falling learning rate would, before it falls. 0 keeps the weights as they are.
    n_groups : int, default=1
        Number of equal groups of consecutive modules. Those of a group have one best epoch, by
        the mean of their validation losses. A fifth of these at either end does not count, unless
        a module has very few validation rows.
    n_cycles : int, default=1
        Cycles of the schedule that ``max_epochs`` are divided into. Training ends with a cycle
        of which the last tenth held no best epoch.
    cycle_growth : int, default=1
        How many times as long as the one before it a further cycle is [2]_.

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
        train_split=None,
        verbose=0,
        seed=0,
        patience=None,
        schedule=one_cycle,
        gradient_clip=10.0,
        n_valid_draws=1,
        averaging=0.05,
        n_groups=1,
        n_cycles=1,
        cycle_growth=1,
        **kwargs,
    ):
        self.seed = seed
        self.patience = patience
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.n_valid_draws = n_valid_draws
        self.averaging = averaging
        self.n_groups = n_groups
        self.n_cycles = n_cycles
        self.cycle_growth = cycle_growth
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_split=train_split,
            verbose=verbose,
            **kwargs,
        )

    # Saved in one piece with module_, which is one of its members, and loaded to the same device.
    cuda_dependent_attributes_ = ["stack_"]

    def __setstate__(self, state):
        super().__setstate__(state)
        if "optimizer_" in vars(self):  # whose parameters would be others than those of the stack
            before = self.optimizer_.state_dict()
            self.initialize_optimizer()
            self.optimizer_.load_state_dict(before)

    @property
    def _default_callbacks(self):
        return [("progress_bar", ProgressBar())] if self.verbose else []

    def get_all_learnable_params(self):
        """Yield what an optimizer of torch sees: shared noise has a closed form instead."""
        for name, parameter in self.stack_.parameters.items():
            if not name.endswith(SHARED_NOISE):
                yield name, parameter

    def initialize(self):
        """Initialise all parts of the net."""
        if {self.iterator_train, self.iterator_valid} != {DataLoader} or any(
            name.startswith("iterator_") and "__" in name for name in self.get_params(deep=False)
        ):
            raise ValueError("This net makes its batches itself: it takes no iterators.")
        if not self.averaging >= 0:
            raise ValueError(f"averaging={self.averaging!r} must be 0 or positive.")
        self.result_ = None  # what the loop said of the last training
        return super().initialize()

    def initialize_module(self):
        """Stack the modules: those that train are rows of common tensors."""
        if isinstance(self.module, (list, tuple)):
            self.module_, members = self.module[0], self.module
        else:
            super().initialize_module()
            members = [self.module_]
        if len(members) % self.n_groups:
            raise ValueError(f"n_groups={self.n_groups} does not divide {len(members)} modules.")
        self.stack_ = ModuleStack([member.to(self.device) for member in members])
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

    def _set_params_callback(self, **params):
        if not self.callbacks_ and list(params) == ["callbacks"]:  # of none skorch asks the names
            self.callbacks = params["callbacks"]
            return self
        return super()._set_params_callback(**params)

    def _apply_virtual_params(self, virtual_kwargs):
        # By set_params on an initialised net. The schedule is a factor of the first rate.
        has_rate = any(name.split("__")[-1] == "lr" for name in virtual_kwargs)
        groups = self.optimizer_.param_groups if has_rate else ()
        for group in groups:
            group["lr"] = group["initial_lr"]
        super()._apply_virtual_params(virtual_kwargs)
        for group in groups:
            group["initial_lr"] = group["lr"]

    def get_dataset(self, X, y=None):
        return _checked(X)

    def get_split_datasets(self, X, y=None, **fit_params):
        parts = super().get_split_datasets(X, y, **fit_params)
        return tuple(None if part is None else self._stacked(part) for part in parts)

    def _stacked(self, rows):
        if isinstance(rows, Subset) and isinstance(rows.dataset, RowDataset):
            rows = rows.dataset.subset(rows.indices)  # skorch's ValidSplit makes a Subset
        rows, n_modules = _checked(rows), len(self.stack_)
        if isinstance(rows, RowDataset):
            rows = StackedRows([rows] * n_modules)
        if len(rows.counts) != n_modules:
            raise ValueError(
                f"The net has {n_modules} modules, but the StackedRows have {len(rows.counts)} "
                "members. Give each module its rows, or one RowDataset for all."
            )
        return _ScoredRows(rows.to(self.device), self)

    def fit_loop(self, X, y=None, epochs=None, _routing_method=None, **fit_params):
        self.result_ = None
        train_rows, valid_rows = self.get_split_datasets(X, y, **fit_params)
        hooks = _SkorchHooks(self, train_rows, valid_rows)
        # Seeded by the epochs so far: a second pass has draws of its own, and no state is kept.
        seeds = [seed + len(self.history) for seed in self._seeds()]
        plan, self.stop_training_ = self._plan(epochs), False
        self.planned_epochs_ = plan.max_epochs
        with self._few_threads():
            self.result_ = train(
                self.stack_,
                self.criterion_,
                self.optimizer_,
                train_rows,
                valid_rows,
                plan,
                seeds,
                hooks,
            )
        stops = (cb for _, cb in self.callbacks_ if isinstance(cb, EarlyStopping))
        if any(cb.misses_ == cb.patience for cb in stops):  # which ends training as a user does
            self.result_.interrupt = None
        return self

    def _plan(self, epochs=None):
        has_own = any(isinstance(cb, LRScheduler) for _, cb in self.callbacks_)
        has_cycles = self.schedule is not None and not has_own and epochs is None
        return Plan(
            max_epochs=self.max_epochs if epochs is None else epochs,
            batch_size=self.batch_size,
            schedule=None if has_own else self.schedule or _constant,
            patience=self.patience,
            gradient_clip=self.gradient_clip,
            averaging=self.averaging,
            n_valid_draws=self.n_valid_draws,
            n_groups=self.n_groups,
            n_cycles=self.n_cycles if has_cycles else 1,
            cycle_growth=self.cycle_growth,
        )

    def _seeds(self):
        n_modules = len(self.stack_)
        seeds = self.seed if isinstance(self.seed, (list, tuple)) else [self.seed] * n_modules
        if len(seeds) != n_modules:
            raise ValueError(
                f"seed must have an entry for each of the {n_modules} modules, got {len(seeds)}."
            )
        return seeds

    def _few_threads(self):
        # In a small step threads wait for each other longer than they share the work, above all
        # on a busy machine.
        rows = min(self.batch_size, 8192) * self.criterion_.n_draws
        is_small = rows * self.stack_.weights.numel() < _PARALLEL_WORK
        return one_openmp_thread() if is_small else nullcontext()

    def record(self, values):
        """Record what has an entry for each module in the history: its mean."""
        for name, entries in values.items():
            # In the precision of the loss: so it is saved in half the space.
            mean = entries.any() if entries.dtype == bool else entries.astype(np.float32).mean()
            self.history.record(name, mean.item())

    def evaluate(self, dataset) -> dict[str, float]:
        """Return the loss of a data set and its parts, in nats a row, averaged over modules.

        Parameters
        ----------
        dataset : RowDataset or StackedRows
            Rows in the units in which the module was trained.
        """
        stack = ModuleStack(self.stack_.members)  # training has its own, and may be under way
        rows, plan = self._stacked(dataset), self._plan()
        found = evaluate(stack, self.criterion_, rows, plan, self._seeds())
        self.stack_.train(self.stack_.training)  # evaluation has changed the mode of the members
        return {name: float(values.mean()) for name, values in found.items()}

    def forward_iter(self, X, training=False, device="cpu"):
        rows = X if isinstance(X, StackedRows) else self._stacked(X)
        for pair in self.pairs_of_first(rows):
            yield self.evaluation_step(pair, training).to(device)

    def pairs_of_first(self, rows):
        """Yield the first module's rows in batches, as skorch knows them: (X, y)."""
        for batch, n_own in batches(rows, _PREDICTED_ROWS):
            yield self.pair_of_first(batch, n_own[0])

    def pair_of_first(self, batch, n):
        """Return the first module's n rows of a batch as X and y."""
        own = (part if part is None else part[0, :n] for part in batch)
        return self._scored(*as_pair(type(batch)(*own)))

    def _scored(self, X, v2):
        """Return X and y of the rows that a score is computed from."""
        return X, v2

    def infer(self, x, **fit_params):
        """Return the first module's decoded posterior mean, in standardised units."""
        v1, *_ = x
        loc, _ = self.module_.encoder.loc_and_log_scale(v1)
        return self.module_.decoder.loc_and_log_scale(loc)[0]


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


class _SkorchHooks(Hooks):
    """Tells the callbacks of a net what the loop does, and records it in the net's history."""

    def __init__(self, net, train_rows, valid_rows):
        self.net, callbacks = net, [cb for _, cb in net.callbacks_]
        self.datasets = {"dataset_train": train_rows, "dataset_valid": valid_rows}
        self.sees_batches = any(
            getattr(type(cb), hook) is not getattr(Callback, hook)
            for cb in callbacks
            for hook in _BATCH_HOOKS
        )
        self.is_watched = not all(isinstance(cb, ProgressBar) for cb in callbacks)

    def on_epoch_begin(self):
        self.net.notify("on_epoch_begin", **self.datasets)
        if not self.sees_batches:
            self.net.history.new_batch()  # an empty one: Checkpoint looks at the last

    def on_batch_begin(self, batch, n, training):
        net, pair = self.net, self.net.pair_of_first(batch, n)
        net.notify("on_batch_begin", batch=pair, training=training)
        net.stack_.train(training)  # whatever a callback has done

    def on_grad_computed(self, batch, n):
        pair, named = self.net.pair_of_first(batch, n), list(self.net.get_all_learnable_params())
        self.net.notify("on_grad_computed", named_parameters=named, batch=pair, training=True)

    def on_batch_end(self, batch, n, training, loss):
        net, pair = self.net, self.net.pair_of_first(batch, n)
        name = "train" if training else "valid"
        net.history.record_batch(f"{name}_loss", loss.mean().item())
        net.history.record_batch(f"{name}_batch_size", len(pair[1]))
        if training:
            net.stack_.sync_()
        y_pred = net.evaluation_step(pair)  # without dropout, which training has
        net.notify("on_batch_end", batch=pair, training=training, loss=loss, y_pred=y_pred)
        net.stack_.train(training)

    def on_weights(self, weights):
        if self.is_watched:
            self.net.stack_.sync_(weights)

    def on_epoch_end(self, record):
        self.net.record(record)
        self.net.notify("on_epoch_end", **self.datasets)
        return self.net.stop_training_


class _ScoredRows(StackedRows, Dataset):
    """Rows with an X and a y, where skorch looks for them when it scores without its cache."""

    X = property(lambda self: self)

    def __init__(self, rows, net):
        vars(self).update(vars(rows))
        self._net = net

    @property
    def y(self):
        return np.concatenate([to_numpy(y) for _, y in self._net.pairs_of_first(self)])


def _constant(progress):
    return 1.0


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

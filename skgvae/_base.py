"""What the estimators share: parameters, units, training, state."""

import copy
import warnings
from abc import ABCMeta, abstractmethod
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from skorch.helper import predefined_split

from ._batches import RowDataset, StackedRows
from ._history import to_columns, to_records
from ._latent_space import LatentSpaceMixin
from ._networks import (
    ACTIVATIONS,
    NetworkMixin,
    hidden_features,
    module_params,
    resolve_device,
)
from ._random import draw_seeds, torch_seed
from ._scaling import FAR, FARTHEST, Standardizer, grid_noise
from ._sklearn_callbacks import CallbackSupportMixin, SklearnCallbacks
from ._together import train_among_others
from ._training_plan import TrainingPlanMixin
from ._validation import SMALLEST
from .nn import MAX_SCALE, NOISE_MODELS

INITS = ("factor_analysis", "random")

N_DESCRIBED = 10_000
ACTIVE_KL = 0.01  # nats a row from which a latent component counts as used
# Raised by each change of what a saved model holds.
STATE_VERSION = 4
_SEEDS = ("split", "weights", "train", "draws")  # of one member

# Where scikit-learn's HTML representation of an estimator links to.
DOC_LINK = (
    "https://skgvae.readthedocs.io/en/stable/generated/{estimator_module}.{estimator_name}.html"
)


class PosteriorCollapseWarning(UserWarning):
    """The fitted model does not use its latent space."""


class BaseGaussianVAE(
    TrainingPlanMixin,
    NetworkMixin,
    LatentSpaceMixin,
    CallbackSupportMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Training of an encoder of v1 and a Gaussian decoder of v2."""

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "noise": [StrOptions(set(NOISE_MODELS))],
        "min_noise": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "init": [StrOptions(set(INITS))],
        "n_train_draws": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "max_epochs": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "net_params": [dict, None],
    }

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    @abstractmethod
    def __init__(self):
        pass

    _min_noise = 0.01  # in standardised units

    # When a collapse is right.
    _nothing_to_find = "if the target does not depend on X, there is nothing to find"

    def _validate_params(self):
        super()._validate_params()
        unnamed = [key for key in self.net_params or {} if not isinstance(key, str)]
        if unnamed:
            raise ValueError(f"net_params must have names of parameters as keys, got {unnamed}.")

    @abstractmethod
    def _choose_n_components(self, X, target):
        """Return the width of the latent space where the user leaves it open."""

    def _count_members(self, n_rows):
        """Return how many models make the predictions."""
        return self.n_estimators

    @abstractmethod
    def _bound_params(self):
        """Return what is maximised, as parameters of the net's criterion."""

    def _choose_inits(self, n_valid=0):
        """Return the kinds of start that compete with each other."""
        return [self.init]

    @abstractmethod
    def _start(self, module, rows, init, like):
        """Set the initial weights, where they are not random.

        What is chosen from the rows is chosen for ``like``.
        """

    # Of estimators that have no such parameter.
    n_estimators = 1

    @property
    def module_(self):
        """The fitted :class:`~skgvae.nn.GaussianVAEModule`, in standardised units.

        Of several, the one with the best validation loss.
        """
        return self.net_.module_

    @property
    def modules_(self):
        """All fitted modules, ``module_`` first."""
        return list(self.net_.stack_.members)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_")

    # Training

    def _fit(self, X, target=None, weight=None, *labels, groups=None):
        """Train on validated rows with positive weights of mean one.

        Without a target the target is X itself. Labels are their indices and their weights. Rows
        of one group are on one side of every split.
        """
        continues = self._continues()
        n_init = 1 if continues else self.n_init
        n_members = len(self.modules_) if continues else self._count_members(len(X))
        seeds = self._draw_seeds(n_members * n_init)
        for i, seed in enumerate(seeds):  # starts that compete see the same rows
            seed["split"] = seeds[i - i % n_init]["split"]
        self._net_params = dict(self.net_params or {})
        self._keeps_optimizer = False
        if continues:
            self._check_structure(X, target)
            self._learn_units(X, target, weight)
            self._check_distance(X, target)
            # Each holds out the rows that it has held out before.
            for seed, known in zip(seeds, vars(self).get("_split_seeds", ()), strict=False):
                seed["split"] = known
        else:
            self._set_up(X, target, weight, seeds[0])
        rows = self._to_rows(X, target, weight, *labels)
        splits = []
        for seed in seeds[::n_init]:
            parts = self._split(rows, groups, seed["split"])
            splits.append([(self._balance(train), valid) for train, valid in parts])
            if len(splits) * len(parts) >= n_members:  # models of folds are members too
                break
        seeds = seeds[: len(splits) * n_init]
        (train, valid), n_folds = splits[0][0], len(splits[0]) - 1
        n_valid = 0 if valid is None else len(valid)
        self._resolve_training(len(train), n_valid, n_folds)
        unjudged = self.early_stopping and valid is None
        if unjudged and self._needs_judge and self._training["max_epochs"]:
            self._keep_start(len(train) if groups is None else len(np.unique(groups)))
        if continues:  # the prior has learned already
            self._training.pop("prior_delay", None)
        inits = ["continued"] if continues else self._choose_inits(0 if n_folds else n_valid)
        n_starts = n_init * len(inits)
        parts = [part for split in splits for _ in range(n_starts) for part in split]
        train, valid = map(list, zip(*parts, strict=True))
        # Kinds of start see the same batches and draws, the models of one start other rows.
        starts = [(seed, init) for seed in seeds for init in inits for _ in splits[0]]
        seeds = [seed for seed, _ in starts]
        n_alike = n_starts * len(splits[0])
        with self._seeded(seeds[0]["weights"]):
            modules = self.modules_ if continues else self._new_modules(train, starts, n_alike)
        self._train_seeds = [seed["train"] for seed in seeds]
        self._split_seeds = [seed["split"] for seed in seeds]
        self._choose_optimizer()
        n_rivals = n_starts if len(inits) > 1 or self._training["n_cycles"] > 1 else 1
        self.net_ = self._make_net(modules, n_starts=n_rivals, n_folds=n_folds).initialize()
        self._train(train, valid, X, target, n_starts=n_starts, n_members=n_members)
        return self

    def _continues(self):
        return self.warm_start and self.__sklearn_is_fitted__()

    def _partial_fit(self, X, target=None, weight=None, *labels):
        """Train one pass over such rows, at a constant learning rate."""
        if self.__sklearn_is_fitted__():
            self._check_net_params()
            self._check_structure(X, target)
            self._learn_units(X, target, weight)
            self._check_distance(X, target)
            rows = self._balance(self._to_rows(X, target, weight, *labels))
            self._resolve_training(len(rows), 0)
            self._update_net()
        else:
            self._net_params = dict(self.net_params or {})
            self._keeps_optimizer = False
            seeds = self._draw_seeds(self._count_members(len(X)))
            self._set_up(X, target, weight, seeds[0])
            rows = self._balance(self._to_rows(X, target, weight, *labels))
            self._resolve_training(len(rows), 0)
            self._train_seeds = [seed["train"] for seed in seeds]
            starts = [(seed, *self._choose_inits()) for seed in seeds]
            with self._seeded(seeds[0]["weights"]):
                modules = self._new_modules([rows] * len(seeds), starts, len(seeds))
            self._choose_optimizer()
            self.net_ = self._make_net(modules).initialize()
        self.net_.schedule = None
        self._keeps_optimizer = True  # the next pass goes on with its state
        n_members = len(self.modules_)
        self._train([rows] * n_members, [None] * n_members, X, target, epochs=1)
        return self

    def _draw_seeds(self, n):
        seeds = iter(draw_seeds(self.random_state, n * len(_SEEDS)))
        return [{name: next(seeds) for name in _SEEDS} for _ in range(n)]

    def _set_up(self, X, target, weight, seeds):
        """Learn the units and choose the sizes of the module."""
        self._set_scaling(X, target, weight)
        target = X if target is None else target
        known = np.isfinite(target[:, 0])
        target = target if known.all() else target[known]
        scale = self._target_scaler.scale
        max_noise = MAX_SCALE if self.standardize else MAX_SCALE * np.maximum(1, target.std(0))
        if self.min_noise == "auto":
            self.min_noise_ = grid_noise(target, scale, self._min_noise)
        else:
            self.min_noise_ = np.full(target.shape[1], float(self.min_noise))
            if self.min_noise < SMALLEST:
                raise ValueError(f"min_noise={self.min_noise!r} is zero in float32.")
            if np.any(self.min_noise_ >= max_noise):
                raise ValueError(
                    f"min_noise={self.min_noise!r} is out of proportion to the data: use less "
                    f"than {np.min(max_noise):g}, or 'auto'."
                )
        if self.n_components is None:
            self.n_components_ = self._choose_n_components(X, target)
        else:
            self.n_components_ = int(self.n_components)
        self._module_spec = {
            "in_features": X.shape[1],
            "latent_features": self.n_components_,
            "out_features": target.shape[1],
            "hidden_features": hidden_features(self.hidden_layer_sizes),
            "activation": self.activation,
            "noise": self.noise,
            "min_noise": self.min_noise_,
            "max_noise": max_noise,
            **module_params(self._net_params),
        }
        self._structure = self._get_structure()
        self._fixed = self._get_fixed()
        self._draws_seed = seeds["draws"]
        self._dtype = X.dtype.name
        self.device_ = resolve_device(self.device)

    def _set_scaling(self, X, target, weight):
        fit = Standardizer.fit if self.standardize else Standardizer.identity
        self._scaler = fit(X, weight)
        self._target_scaler = self._scaler if target is None else fit(target, weight)

    def _learn_units(self, X, target, weight):
        """Learn the units of columns that were constant so far."""
        is_own = self._target_scaler is self._scaler
        self._scaler, new = self._scaler.with_varying(X, weight)
        if is_own:
            self._target_scaler = self._scaler
        else:
            self._target_scaler, new = self._target_scaler.with_varying(target, weight)
        for module in self.modules_ if new.any() else ():
            module.decoder.reset_outputs_(torch.from_numpy(new))

    def _check_net_params(self):
        """Refuse what a pass would ignore."""
        fitted = {"net_params": self._net_params, **self._fixed}
        now = {"net_params": dict(self.net_params or {}), **self._get_fixed()}
        for name, value in now.items():
            if not _are_equal(value, fitted[name]):
                raise ValueError(
                    f"{name}={value!r}, but the fitted model has {name}={fitted[name]!r}: "
                    "partial_fit goes on with it. Use fit to change it."
                )

    def _get_fixed(self):
        return {"weight_decay": self.weight_decay, "device": str(self.device)}

    def _check_structure(self, X, target):
        for name, value in self._get_structure().items():
            fitted = self._structure[name]
            if value != fitted:
                raise ValueError(
                    f"{name}={value!r}, but the fitted model has {name}={fitted!r}. Use fit with "
                    "warm_start=False for another model."
                )
        widths = self._module_spec["in_features"], self._module_spec["out_features"]
        given = X.shape[1], X.shape[1] if target is None else target.shape[1]
        if widths != given:
            raise ValueError(
                f"The fitted model has {widths[0]} features and {widths[1]} targets, but got "
                f"{given[0]} and {given[1]}. Use fit with warm_start=False for new data."
            )

    def _check_distance(self, X, target):
        names = ("X", X, self._scaler), ("the target", target, self._target_scaler)
        for name, rows, scaler in names[: 1 if target is None else 2]:
            if not self.standardize:
                Standardizer.identity(rows)  # raises where they are too large
                continue
            farthest = scaler.farthest(rows)
            if farthest > FARTHEST:
                raise ValueError(
                    f"A value of {name} lies {farthest:.3g} standard deviations from the mean of "
                    f"the first rows, and beyond {FARTHEST:g} nothing can be learned. Correct it, "
                    "or use fit with warm_start=False, which learns the scale anew."
                )
            if farthest > FAR:
                warnings.warn(
                    f"A value of {name} lies {farthest:.3g} standard deviations from the mean of "
                    "the first rows, whose scale is kept: little can be learned from such rows. "
                    "Let the first rows be more typical, or use fit.",
                    UserWarning,
                    stacklevel=4,
                )

    def _get_structure(self):
        """Return the parameters that cannot change between a fit and its continuation."""
        names = ("n_components", "activation", "noise", "min_noise", "standardize", "n_estimators")
        hidden = {"hidden_layer_sizes": hidden_features(self.hidden_layer_sizes)}
        return {name: getattr(self, name) for name in names} | hidden

    def _to_rows(self, X, target, weight, *labels):
        if target is not None:
            self._scaler = self._scaler.limited_to(X)
        v1 = torch.from_numpy(self._scaler.forward(X, np.float32))
        v2 = None
        if target is not None:
            v2 = torch.from_numpy(self._target_scaler.forward(target, np.float32))
        weight = None if weight is None else torch.from_numpy(weight.astype(np.float32))
        return RowDataset(v1, v2, weight, *map(torch.from_numpy, labels))

    def _train(self, train, valid, X, y, epochs=None, n_starts=1, n_members=None):
        """Train all modules, each on its rows; of each so many starts keep the best.

        Where there are not so many members, models of the folds become members.
        """
        net, callbacks, n_before = self.net_, self.net_.callbacks_, len(self.net_.history)
        try:
            if valid[0] is not None:
                net.train_split = predefined_split(StackedRows(valid))
            if getattr(self, "_skl_callbacks", None):
                net.callbacks_ = [*callbacks, ("sklearn", SklearnCallbacks(self, X, y))]
            if epochs is None:
                train_among_others(net, train, valid, alone=lambda: self._run(train))
            else:
                self._run(train, epochs)
        finally:
            net.train_split, net.callbacks_ = None, callbacks  # a fitted model holds no data
        interrupt = net.interrupt_
        if interrupt is not None and epochs is not None:
            raise KeyboardInterrupt("The pass was interrupted: the model is as it was before.")
        kept, n_alike = list(range(len(net.stack_))), 1 + net.n_folds
        known = self.history_ if epochs is not None and n_before else []
        if epochs is None:  # a single pass does not change which module transforms
            best = _choose_best(net.final_losses()[::n_alike], n_starts)
            kept = [i * n_alike + fold for fold in range(n_alike) for i in best][:n_members]
        best = dict(callbacks).get("best_epoch")
        n_after, self.best_epoch_ = len(net.history), len(net.history)
        if best is not None:
            n_after, self.best_epoch_ = (
                int(epochs_[kept[0]]) for epochs_ in (best.last_epochs_, best.best_epochs_)
            )
        del net.history[n_after:]  # the others' epochs after that
        records = [r for r in net.history[n_before:] if "train_loss" in r]
        self.history_ = known + [_scalars(record, kept[0]) for record in records]
        self.n_epochs_ = len(self.history_)
        self._keep_modules(kept)
        self._describe([train[i] for i in kept])
        if self.n_active_components_ == 0:
            warnings.warn(
                "Posterior collapse: no latent component carries information (all of "
                f"kl_per_component_ are below {ACTIVE_KL} nats), transform is constant. Lower "
                f"kl_weight (now {self.kl_weight:g}); {self._nothing_to_find}.",
                PosteriorCollapseWarning,
                stacklevel=2,
            )

    def _run(self, train, epochs=None):
        with self._seeded(self._train_seeds[0] + len(self.net_.history)):
            self.net_.partial_fit(StackedRows(train), epochs=epochs)

    def _has_own_network(self):
        """Return whether the user brings a network, or a part of one."""
        return any(name.split("__")[0] == "module" for name in self.net_params or {})

    def _seeded(self, seed):
        """Seed torch's global generator if a network may draw from it, as dropout does."""
        return torch_seed(seed, self.device_) if self._has_own_network() else nullcontext()

    @torch.no_grad()
    def _describe(self, train):
        """Record how the latent space and the noise are used, on (some of) the rows.

        The latent space is that of the first module, the noise an average over those that decode.
        """
        noise = []
        for module, rows in list(zip(self.modules_, train, strict=True))[: self._n_decoders]:
            rows = rows.subset(slice(None, N_DESCRIBED))
            module.eval()
            loc, log_scale = module.encoder.loc_and_log_scale(rows.v1.to(self.device_))
            generator = torch.Generator(self.device_).manual_seed(self._draws_seed)
            eps = torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
            z = torch.addcmul(loc, log_scale.exp(), eps)
            decoded, decoded_log_scale = module.decoder.loc_and_log_scale(z)
            variance = torch.exp(2 * decoded_log_scale).expand_as(decoded)
            variance = module.decoder.family.variance * variance
            weight = None if rows.weight is None else rows.weight.numpy()
            weight = None if weight is None or not weight.any() else weight
            noise.append(np.average(variance.cpu().double().numpy(), 0, weight))
            if len(noise) == 1:
                kl = module.prior.kl(loc, log_scale, z)
                self.kl_per_component_ = np.average(kl.cpu().double().numpy(), 0, weight)
        self.n_active_components_ = int(np.sum(self.kl_per_component_ > ACTIVE_KL))
        self.noise_variance_ = np.mean(noise, 0) * self._target_scaler.scale**2

    @contextmanager
    def _all_or_nothing(self):
        """Leave the estimator as it was when fitting fails."""
        before = dict(vars(self))
        net = before.get("net_")
        if net is not None:  # which a continued fit trains in place
            optimizer = net.optimizer_
            parts = *net.stack_.members, optimizer
            states = [copy.deepcopy(part.state_dict()) for part in parts]
            n_epochs = len(net.history)
        try:
            with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode
                yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            if net is not None:
                net.optimizer_ = optimizer
                for part, state in zip(parts, states, strict=True):
                    part.load_state_dict(state)
                del net.history[n_epochs:]
            raise
        interrupt, self.net_.interrupt_ = self.net_.interrupt_, None
        if interrupt is not None:  # with the best epoch so far in the estimator
            raise interrupt

    # State: arrays and numbers only

    def __getstate__(self):
        state = dict(super().__getstate__())
        net = state.pop("net_", None)
        if net is not None:
            members = [member.state_dict() for member in net.stack_.members]
            state["_weights"] = {
                name: np.stack([member[name].cpu().numpy() for member in members])
                for name in members[0]
            }
            if self._keeps_optimizer:
                state["_optimizer_state"] = _map_tensors(net.optimizer_.state_dict()["state"])
            # In training, when callbacks copy the estimator, some may have ended.
            for name in {"_train_seeds", "_split_seeds"} & set(state):
                state[name] = [state[name][i] for i in net.in_stack_]
            state["_state_version"] = STATE_VERSION
            if "history_" in state:  # which it is not in the first epochs
                state["history_"] = to_columns(state["history_"])
            state["device_"] = str(state["device_"])
        return state

    def __setstate__(self, state):
        state = dict(state)
        weights, version = state.pop("_weights", None), state.pop("_state_version", None)
        moments = state.pop("_optimizer_state", None)
        if weights is not None and version != STATE_VERSION:
            raise ValueError(
                f"This {type(self).__name__} was saved by another version of skgvae, in form "
                f"{version}, where this one reads form {STATE_VERSION}. Load it with the version "
                "that saved it, or fit it anew."
            )
        if "history_" in state and weights is not None:
            state["history_"] = to_records(state["history_"])
        super().__setstate__(state)
        if weights is None:
            return
        device = "auto" if self._fixed["device"] == "auto" else self.device_
        self.device_ = resolve_device(device, fall_back=True)
        modules = [self._make_module(torch.Generator()) for _ in self._train_seeds]
        for i, module in enumerate(modules):
            own = {name: torch.from_numpy(np.array(w[i])) for name, w in weights.items()}
            module.load_state_dict(own)
        self.net_ = self._make_net(modules).initialize()
        if moments is not None:
            optimizer = self.net_.optimizer_.state_dict()
            optimizer["state"] = _map_tensors(moments, to_tensors=True)
            self.net_.optimizer_.load_state_dict(optimizer)
        for record in state.get("history_", ()):
            self.net_.history.new_epoch()
            for name, value in record.items():
                self.net_.history.record(name, value)


def _are_equal(a, b):
    """Compare parameters, of which some may be arrays."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_are_equal(a[k], b[k]) for k in a)
    return a is b or np.array_equal(np.asarray(a, object), np.asarray(b, object))


def _map_tensors(states, to_tensors=False):
    """Return the states of an optimizer with arrays for its tensors, or tensors for arrays."""

    def convert(value):
        if to_tensors:
            return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        return value.cpu().numpy().copy() if torch.is_tensor(value) else value

    return {i: {k: convert(v) for k, v in state.items()} for i, state in states.items()}


def _choose_best(losses, n_starts):
    """Return the best of each so many starts, the best of all first."""
    starts = np.reshape(losses, (-1, n_starts))
    best = np.argmin(starts, 1)
    order = np.argsort(starts[np.arange(len(starts)), best], kind="stable")
    return [int(e * n_starts + best[e]) for e in order]


def _scalars(record, i):
    """Return the record of an epoch for module i."""
    scalars = {k: v for k, v in record.items() if k not in ("batches", "modules")}
    return scalars | {k: v[i] for k, v in record.get("modules", {}).items()}

"""What happens in a fit, and what of it is kept? The same for all estimators."""

import copy
import warnings
from abc import ABCMeta, abstractmethod
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
)
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from skorch.helper import predefined_split

from ._answers import Copies
from ._columns import Column, RawColumn, check_held, columns_of_table, dtypes_of
from ._folds import make_folds
from ._history import to_columns, to_records
from ._networks import (
    ACTIVATIONS,
    hidden_features,
    make_module,
    module_params,
    resolve_device,
)
from ._random import draw_seeds, torch_seed
from ._recipe import Recipe, recipe_for
from ._rows import RowDataset, StackedRows, seen_by_encoder
from ._scaling import FAR, FARTHEST, Latents, grid_noise, rows_with_holes
from ._sklearn_callbacks import SklearnCallbacks
from ._together import train_among_others
from ._units import Units
from ._validation import SMALLEST, refuse_dates, with_nan
from .net import GaussianVAENet
from .nn import MAX_SCALE, NOISE_MODELS, GaussianVAEModule
from .nn.prior import with_equal_priors

DTYPES = [np.float64, np.float32]
N_DESCRIBED = 10_000
ACTIVE_KL = 0.01  # nats a row from which a latent component counts as used
# Raised by each change of what a saved model holds.
STATE_VERSION = 8

# Where scikit-learn's HTML representation of an estimator links to.
DOC_LINK = (
    "https://skgvae.readthedocs.io/en/stable/generated/{estimator_module}.{estimator_name}.html"
)


class PosteriorCollapseWarning(UserWarning):
    """The fitted model does not use its latent space."""


class Table(NamedTuple):
    """Validated rows of positive weight."""

    X: np.ndarray
    target: np.ndarray | None = None
    """v2; X itself by default."""
    weight: np.ndarray | None = None
    """With mean one."""
    groups: np.ndarray | None = None
    """Rows of one group are on one side of every split."""
    label: np.ndarray | None = None
    """Indices of classes."""
    label_weight: np.ndarray | None = None
    """As of RowDataset."""
    columns: list | None = None
    """Kinds of the columns of X, found in rows of which none is a copy that was left out."""

    @property
    def v2(self):
        """The target, whatever it is."""
        return self.X if self.target is None else self.target

    @property
    def n_units(self):
        """Number of rows, or of groups of them."""
        return len(self.X) if self.groups is None else len(np.unique(self.groups))


class FittedVAE(BaseEstimator, metaclass=ABCMeta):
    """Parameters, training and state of an encoder of v1 and a Gaussian decoder of v2."""

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "noise": [StrOptions(set(NOISE_MODELS))],
        "min_noise": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "max_epochs": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "validation_fraction": [
            Interval(Real, 0, 0.5, closed="right"),
            StrOptions({"auto"}),
            None,
        ],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "handle_unknown": [StrOptions({"error", "ignore"})],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "net_params": [dict, None],
    }

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    _correction = None  # of predictions, after training
    # What kinds of estimators differ in.
    _habits = None  # of training, see _recipe.py
    _net_class = GaussianVAENet
    _min_noise = 0.01  # in standardised units
    _knows_density = False  # of X, which tells what unknown cells may be
    # When a collapse is right.
    _nothing_to_find = "if the target does not depend on X, there is nothing to find"

    @abstractmethod
    def __init__(self):
        pass

    @abstractmethod
    def _criterion_params(self):
        """Return what is maximised, as parameters of the net."""

    @abstractmethod
    def _start(self, module, rows, i):
        """Set the initial weights of model i, where they are not random."""

    def _validate_params(self):
        super()._validate_params()
        unnamed = [key for key in self.net_params or {} if not isinstance(key, str)]
        if unnamed:
            raise ValueError(f"net_params must have names of parameters as keys, got {unnamed}.")

    @property
    def module_(self):
        """The first fitted :class:`~skgvae.nn.GaussianVAEModule`, in standardised units.

        Its latents are those of ``transform``, in another order and perhaps of other signs.
        """
        return self.net_.module_

    @property
    def modules_(self):
        """All fitted modules, ``module_`` first."""
        return list(self.net_.stack_.members)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_")

    # Training

    def _fit(self, table):
        """Recipe → units → split → start → train → calibrate → describe."""
        if continues := self._continues():
            self._learn_more(table)
            self._net_params = dict(self.net_params or {})
            self._scale_by(-1)
        else:
            self._set_units(table)
            self._correction = None
        recipe = self._recipe_for(table, self.get_params(deep=False))
        if not continues:
            self._set_up(table, recipe)
        self._keeps_optimizer = False
        self._recipe = asdict(recipe)
        if recipe.max_epochs == 0 and self.max_epochs != 0:
            warnings.warn(
                f"{table.n_units} rows or groups are too few to judge training by some of them: "
                "the model stays at its start. Give more; validation_fraction=None trains "
                "without a judge.",
                UserWarning,
                stacklevel=4,
            )
        n_members = len(self.modules_) if continues else recipe.n_members
        train, valid = self._split(table, recipe, n_members)
        with self._seeded(self._weight_seeds[0]):
            modules = self.modules_ if continues else self._new_modules(train)
        self.net_ = self._make_net(modules, self._training_params(recipe)).initialize()
        self._train(train, valid, table, calibrates=not continues)
        self.net_.optimizer_.state.clear()  # moments of other weights than those that are kept
        return self

    def _partial_fit(self, table):
        """Train one pass over such rows, at a constant learning rate; all models see them all."""
        if is_first := not self.__sklearn_is_fitted__():
            self._set_units(table)
        else:
            self._check_net_params()
            self._learn_more(table)
            self._scale_by(-1)
        params = self.get_params(deep=False) | {"validation_fraction": None, "max_epochs": 1}
        recipe = self._recipe_for(table, params)
        if is_first:
            self._set_up(table, recipe)
        n_members = recipe.n_members if is_first else len(self.modules_)
        rows = [self._balance(self._to_rows(table))] * n_members
        params = self._training_params(recipe)
        if is_first:
            with self._seeded(self._weight_seeds[0]):
                modules = self._new_modules(rows)
            self.net_ = self._make_net(modules, params).initialize()
            self._recipe = asdict(recipe)
        else:
            self._update_net(params)
        self.net_.schedule = None
        self._keeps_optimizer = True  # the next pass goes on with its state
        self._train(rows, [None] * n_members, table, epochs=1)
        return self

    def _choose_habits(self, table):
        """Return the habits of training for such a table."""
        return self._habits

    def _continues(self):
        return self.warm_start and self.__sklearn_is_fitted__()

    def _recipe_for(self, table, params):
        n_columns = self._target_units.n_cells
        return recipe_for(table.n_units, n_columns, params, self._choose_habits(table))

    def _set_units(self, table):
        """Learn kinds and units of the columns."""
        self._sees_holes = bool(rows_with_holes(table.X).any())
        columns = table.columns or self._find_columns(table.X)
        self._units = Units.fit(table.X, columns, table.weight, self._may_bend())
        self._target_units = self._units
        if table.target is not None:
            columns = self._find_target_columns(table.target)
            self._target_units = Units.fit(table.target, columns, table.weight, may_bend=False)

    def _find_columns(self, X):
        """Return the kind of each column of X, but for those that are left out."""
        return self._with_levels([Column()] * X.shape[1])

    def _may_bend(self):
        """Return whether columns of X may be bent."""
        return False

    def _find_target_columns(self, target):
        """Return the kind of each column of v2, where it is not X itself."""
        return [Column()] * target.shape[1]

    def _with_levels(self, columns):
        places = np.delete(np.arange(self.n_features_in_), self._unknown_columns)
        return [
            Column("categorical", levels=self._levels[j]) if j in self._levels else column
            for j, column in zip(places, columns, strict=True)
        ]

    def _set_up(self, table, recipe):
        """Choose sizes and seeds."""
        self._net_params = dict(self.net_params or {})
        min_noise = self._choose_min_noise(table.v2)
        self.min_noise_ = self._of_columns(min_noise)
        self.n_components_ = recipe.n_components
        self._module_spec = {
            "in_features": self._units.n_cells * (2 if self._sees_holes else 1),
            "latent_features": recipe.n_components,
            "out_features": self._target_units.n_cells,
            "hidden_features": hidden_features(self.hidden_layer_sizes),
            "activation": self.activation,
            "noise": self.noise,
            "min_noise": min_noise,
            "max_noise": self._choose_max_noise(table.v2, min_noise),
            **module_params(self._net_params),
        }
        if (cells := self._target_units.cells()) is not None:
            self._module_spec["cells"] = cells
        self._structure = self._get_structure()
        self._copies = Copies()
        self._latents = Latents(np.arange(recipe.n_components), np.ones(recipe.n_components))
        self._dtype = table.X.dtype.name
        self._device = str(self.device)
        self.device_ = resolve_device(self.device)
        n = recipe.n_members
        seeds = draw_seeds(self.random_state, 2 + 2 * n)
        self._split_seed, self._draws_seed = seeds[:2]
        self._weight_seeds, self._train_seeds = seeds[2 : 2 + n], seeds[2 + n :]

    def _choose_min_noise(self, target):
        if self.min_noise == "auto":
            return self._auto_min_noise(target)
        if self.min_noise < SMALLEST:
            raise ValueError(f"min_noise={self.min_noise!r} is zero in float32.")
        if self.min_noise >= MAX_SCALE:
            raise ValueError(
                f"min_noise={self.min_noise!r} is out of proportion to the data: use less than "
                f"{MAX_SCALE:g}, or 'auto'."
            )
        return np.full(self._target_units.n_cells, float(self.min_noise))

    def _auto_min_noise(self, target):
        units = self._target_units
        return grid_noise(units.mapped(target), units.scale, self._min_noise)

    def _choose_max_noise(self, target, min_noise):
        return np.full(self._target_units.n_cells, MAX_SCALE)

    def _learn_more(self, table):
        """Check rows with which a fitted model goes on; learn units of columns so far constant."""
        self._check_structure(table)
        self._units, new = self._units.with_varying(table.X, table.weight)
        if table.target is None:
            self._target_units = self._units
        else:
            self._target_units, new = self._target_units.with_varying(table.target, table.weight)
        for module in self.modules_ if new.any() else ():
            module.decoder.reset_outputs_(torch.from_numpy(new))
            if (cells := self._target_units.cells()) is not None and cells["grid"]:
                self._module_spec["cells"] = cells
                module.decoder.family.grid.set_(**cells["grid"])
        self._check_distance(table)

    def _check_net_params(self):
        """Refuse what a pass would ignore."""
        fitted = {"net_params": self._net_params, "device": self._device}
        now = {"net_params": dict(self.net_params or {}), "device": str(self.device)}
        for name, value in now.items():
            if not _are_equal(value, fitted[name]):
                raise ValueError(
                    f"{name}={value!r}, but the fitted model has {name}={fitted[name]!r}: "
                    "partial_fit goes on with it. Use fit to change it."
                )

    def _check_structure(self, table):
        for name, value in self._get_structure().items():
            fitted = self._structure[name]
            if value != fitted:
                raise ValueError(
                    f"{name}={value!r}, but the fitted model has {name}={fitted!r}. Use fit with "
                    "warm_start=False for another model."
                )
        widths = len(self._units.columns), len(self._target_units.columns)
        given = table.X.shape[1], table.v2.shape[1]
        if widths != given:
            raise ValueError(
                f"The fitted model has {widths[0]} features and {widths[1]} targets, but got "
                f"{given[0]} and {given[1]}. Use fit with warm_start=False for new data."
            )
        names = np.delete(self._all_names(), self._unknown_columns).tolist()
        for column, values, name in zip(self._units.columns, table.X.T, names, strict=True):
            check_held(values, column, name)

    def _check_distance(self, table):
        names = ("X", table.X, self._units), ("the target", table.target, self._target_units)
        for name, rows, units in names[: 1 if table.target is None else 2]:
            farthest = units.farthest(rows).max()
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
                    stacklevel=5,
                )

    def _get_structure(self):
        """Return the parameters that cannot change between a fit and its continuation."""
        names = ("n_components", "activation", "noise", "min_noise", "n_estimators")
        hidden = {"hidden_layer_sizes": hidden_features(self.hidden_layer_sizes)}
        return {name: getattr(self, name) for name in names} | hidden

    def _to_rows(self, table):
        if table.target is not None:
            self._units = self._units.limited_to(table.X)
        v1 = torch.from_numpy(self._to_input(table.X, np.float32))
        v2, known = None, None
        if table.target is not None:
            v2 = self._target_units.forward(table.target, np.float32)
            if rows_with_holes(v2).any():
                known = ~np.isnan(v2)
                v2 = np.where(known, v2, np.float32(0))
            v2 = torch.from_numpy(v2)
        elif self._sees_holes:
            v2, unknown = v1.tensor_split(2, -1)
            known = (unknown == 0).numpy() if unknown.any() else None
        others = (table.weight, table.label, table.label_weight, known)
        weight, *others = (None if a is None else torch.from_numpy(a) for a in others)
        weight = None if weight is None else weight.float()
        return RowDataset(v1, v2, weight, *others)

    def _to_input(self, X, dtype=None):
        """Return standardised rows as the encoder sees them."""
        rows = torch.from_numpy(self._units.forward(X, dtype))
        return seen_by_encoder(rows, self._sees_holes).numpy()

    def _split(self, table, recipe, n_members):
        """Return the training rows of each model and those that judge it, None if none do."""
        rows, folds = self._to_rows(table), self._folds_of(table, recipe)
        if folds is None:
            return [self._balance(rows)] * n_members, [None] * n_members
        train, valid = [], []
        for i in range(n_members):
            is_held_out = torch.from_numpy(folds == i % recipe.n_folds)
            train.append(self._balance(rows.subset(~is_held_out)))
            valid.append(rows.subset(is_held_out))
        return train, valid

    def _folds_of(self, table, recipe):
        """Return the fold of each row, which model i does not see if it is i; None of none."""
        if recipe.n_folds == 1:
            return None
        return make_folds(
            len(table.X),
            recipe.n_folds,
            self._split_seed,
            table.groups,
            self._strata(table),
            recipe.max_judged,
        )

    def _strata(self, table):
        """Return what the folds should have equal shares of."""
        return None

    def _balance(self, train):
        """Return the rows that an epoch passes over."""
        return train

    def _make_module(self, generator):
        module_class = self._net_params.get("module", GaussianVAEModule)
        return make_module(module_class, self._module_spec, generator)

    def _new_modules(self, rows):
        modules = []
        for part, seed in zip(rows, self._weight_seeds, strict=True):
            modules.append(self._make_module(torch.Generator().manual_seed(seed)))
            self._start(modules[-1], part, len(modules) - 1)
        return with_equal_priors(modules)

    def _training_params(self, recipe):
        return {
            "batch_size": recipe.batch_size,
            "max_epochs": recipe.max_epochs,
            "n_cycles": recipe.n_cycles,
            "cycle_growth": recipe.cycle_growth,
            "patience": recipe.patience,
            "lr": recipe.lr,
            "n_valid_draws": recipe.n_valid_draws,
            "criterion__kl_weight": float(self.kl_weight),
            "criterion__n_draws": recipe.n_draws,
            "optimizer__orthogonal": recipe.orthogonal,
            **self._criterion_params(),
        }

    def _make_net(self, modules, params):
        custom, params = dict(self._net_params), dict(params)
        if "optimizer" in custom:
            params.pop("optimizer__orthogonal")
        elif "optimizer__param_groups" in custom:  # something for an optimizer of torch
            params.pop("optimizer__orthogonal")
            params |= {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 0.0}
        own = {
            "device": self.device_,
            "seed": list(self._train_seeds),
            "verbose": int(self.verbose),
        }
        custom = {k: v for k, v in custom.items() if k.split("__")[0] != "module"}
        if "max_epochs" in custom:  # as if the estimator had been told
            params["n_cycles"] = 1
        return self._net_class(list(modules), **{**params, **own, **custom})

    def _update_net(self, params):
        """Give parameters that were changed after fitting to the net, for partial_fit."""
        net = self.net_
        for name, value in params.items():
            own = name.removeprefix("criterion__")
            if own != name and own in vars(net.criterion_) and name not in self._net_params:
                setattr(net.criterion_, own, value)
        if "batch_size" not in self._net_params:
            net.batch_size = params["batch_size"]
        if not {"lr", "optimizer__lr"} & self._net_params.keys():
            with_own = self._net_params.get("optimizer__param_groups", ())
            for i, group in enumerate(net.optimizer_.param_groups):
                if i >= len(with_own) or "lr" not in with_own[i][1]:
                    group["initial_lr"] = params["lr"]

    def _train(self, train, valid, table, epochs=None, calibrates=False):
        """Train all modules, each on its rows, and set what is known of the model then."""
        net, callbacks, n_before = self.net_, self.net_.callbacks_, len(self.net_.history)
        rows, judged = StackedRows(train), None if valid[0] is None else StackedRows(valid)
        try:
            if judged is not None:
                net.train_split = predefined_split(judged)
            if getattr(self, "_skl_callbacks", None):
                n_epochs = net.max_epochs if epochs is None else epochs
                own = SklearnCallbacks(self, n_epochs, table.X, table.target)
                net.callbacks_ = [*callbacks, ("sklearn", own)]

            def run():
                with self._seeded(self._train_seeds[0] + n_before):
                    net.partial_fit(rows, epochs=epochs)

            may_join = epochs is None and not self._has_own_network()
            train_among_others(net, rows, judged, run, may_join)
        finally:
            net.train_split, net.callbacks_ = None, callbacks  # a fitted model holds no data
        if net.result_ is None:  # interrupted before the first step, of which skorch says nothing
            raise KeyboardInterrupt("Training was interrupted before it began.")
        if net.result_.interrupt is not None and epochs is not None:
            raise KeyboardInterrupt("The pass was interrupted: the model is as it was before.")
        del net.history[n_before + len(net.result_.records) :]  # of an epoch that did not end
        known = self.history_ if epochs is not None and n_before else []
        self.history_ = known + [
            {k: v for k, v in record.items() if k != "batches"}
            for record in net.history[n_before:]
        ]
        self.n_epochs_ = len(self.history_)
        self.best_epoch_ = n_before + int(net.result_.best_epochs[0])
        self._calibrate(valid if calibrates and judged is not None else None)
        self._describe(train, is_new=not n_before)
        if self.n_active_components_ == 0:
            warnings.warn(
                "Posterior collapse: no latent component carries information (all of "
                f"kl_per_component_ are below {ACTIVE_KL} nats), transform is constant. Lower "
                f"kl_weight (now {self.kl_weight:g}); {self._nothing_to_find}.",
                PosteriorCollapseWarning,
                stacklevel=2,
            )

    def _calibrate(self, valid):
        """Scale what each model says by how it is about rows that it has not seen.

        In a continued training nobody knows which rows these are: the first correction stays.
        """
        if valid is not None:
            self._correction = self._find_correction(valid)
        self._scale_by(1)

    def _find_correction(self, valid):
        """Return what predictions are corrected by; None of nothing."""
        return None

    def _scale_by(self, power):
        """Scale the outputs of the modules by a power of the factor that was found."""

    def _decodes_input(self):
        """Return whether v2 is X."""
        return self._knows_density

    def _has_own_network(self):
        """Return whether the user brings a network, or a part of one."""
        return any(name.split("__")[0] == "module" for name in self.net_params or {})

    def _seeded(self, seed):
        """Seed torch's global generator if a network may draw from it, as dropout does."""
        return torch_seed(seed, self.device_) if self._has_own_network() else nullcontext()

    @torch.no_grad()
    def _describe(self, train, is_new):
        """Record how the latent space and the noise are used, on (some of) the rows.

        The latent space is that of the first module, the noise an average over all. Passes over
        further rows leave the order of the latents.
        """
        noise = []
        for module, rows in zip(self.modules_, train, strict=True):
            rows = rows.subset(slice(None, N_DESCRIBED))
            module.eval()
            loc, log_scale = module.encoder.loc_and_log_scale(rows.v1.to(self.device_))
            generator = torch.Generator(self.device_).manual_seed(self._draws_seed)
            eps = torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
            z = torch.addcmul(loc, log_scale.exp(), eps)
            decoded, decoded_log_scale = module.decoder.loc_and_log_scale(z)
            family = module.decoder.family
            variance = self._target_units.noise_variance(family, decoded, decoded_log_scale)
            weight = None if rows.weight is None else rows.weight.numpy()
            weight = None if weight is None or not weight.any() else weight
            noise.append(np.average(variance, 0, weight))
            if len(noise) == 1:
                kl = module.prior.kl(loc, log_scale, z).cpu().double().numpy()
                kl = np.average(kl, 0, weight)
                if is_new:
                    cells = rows.v1[:, : self._units.n_cells].numpy()
                    self._latents = Latents.of(kl, loc.cpu().numpy(), cells)
                self.kl_per_component_ = kl[self._latents.order]
        self.n_active_components_ = int(np.sum(self.kl_per_component_ > ACTIVE_KL))
        self.noise_variance_ = self._with_all_columns(np.mean(noise, 0))

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
        if self.net_.result_.interrupt is not None:  # with the best epoch in the estimator
            interrupt, self.net_.result_.interrupt = self.net_.result_.interrupt, None
            raise KeyboardInterrupt(
                f"Training was interrupted in epoch {len(self.history_) + 1}: the best epoch so "
                "far is kept."
            ) from interrupt

    # What comes in

    def _check_rows(self, X, reset=True, **params):
        """Return rows as an array in which unknown cells are NaN, and names are codes."""
        refuse_dates(X)
        own = {"dtype": DTYPES, "ensure_all_finite": "allow-nan", **params}
        raw = columns_of_table(X)
        if reset:
            self._dtypes = dtypes_of(X)
        if raw is None:
            X = validate_data(self, with_nan(X), reset=reset, **own)
            places = self._said_to_be_categories() if reset else self._levels
            if not places:
                self._levels = {}
                return X
            raw = [RawColumn(X[:, j]) for j in range(X.shape[1])]
        else:
            X = X if hasattr(X, "shape") else np.array(X, dtype=object)
            validate_data(self, X, reset=reset, skip_check_array=True)
            places = [j for j, column in enumerate(raw) if column.holds_names]
            places = {*places, *self._said_to_be_categories()} if reset else self._levels
        names = self._all_names()
        if reset:
            self._levels = {j: raw[j].find_levels(names[j]) for j in sorted(places)}
            self._levels = {j: levels for j, levels in self._levels.items() if levels}
        found, may_skip = np.empty((len(raw[0].values), len(raw))), self.handle_unknown == "ignore"
        for j, column in enumerate(raw):
            if j in self._levels:
                found[:, j] = column.to_codes(self._levels[j], names[j], may_skip)
            else:
                found[:, j] = column.to_numbers(names[j])
        return check_array(found, input_name="X", estimator=self, **own)

    def _said_to_be_categories(self):
        """Return the positions of columns of numbers that the user calls categories."""
        return []

    def _all_names(self):
        return list(getattr(self, "feature_names_in_", range(self.n_features_in_)))

    def _choose_columns(self, X, reset):
        """Return training rows without the columns of which no cell is known; warn of these."""
        if not reset:
            if not np.isnan(X[:, self._unknown_columns]).all():
                warnings.warn(
                    f"Columns {self._names_of(self._unknown_columns)} of X were left out of the "
                    "model, as no cell of them was known at first: what is known now is ignored. "
                    "Use fit with warm_start=False for a model of all columns.",
                    UserWarning,
                    stacklevel=3,
                )
            return self._with_known_columns(X)
        unknown = np.isnan(X).all(0)
        if unknown.all():
            raise ValueError("No cell of X is known: all are NaN.")
        self._unknown_columns = np.flatnonzero(unknown)
        if unknown.any():
            warnings.warn(
                f"No cell of columns {self._names_of(unknown)} of X is known: they are left out.",
                UserWarning,
                stacklevel=3,
            )
        return np.delete(X, self._unknown_columns, axis=1) if unknown.any() else X

    def _names_of(self, columns):
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        return names[columns].tolist()

    def _validate_rows(self, X):
        """Return rows as an array, without the columns that are left out."""
        check_is_fitted(self)
        return self._with_known_columns(self._check_rows(X, reset=False))

    def _with_known_columns(self, X):
        if len(self._unknown_columns):
            X = np.delete(X, self._unknown_columns, axis=1)
        if not (self._knows_density or self._sees_holes) and rows_with_holes(X).any():
            warnings.warn(
                "X has unknown cells (NaN), and the model was fitted to rows without: they are "
                "taken for the means of their columns. Fit it to rows with unknown cells too.",
                UserWarning,
                stacklevel=4,
            )
        return X

    def _of_columns(self, cells):
        """Return numbers of the module's columns for those of v2; NaN for categories."""
        return self._with_all_columns(self._target_units.of_columns(cells))

    def _with_all_columns(self, cells):
        """Return cells of v2, columns last; NaN in those that were left out, where v2 is X."""
        if not len(self._unknown_columns) or not self._decodes_input():
            return cells
        places = self._unknown_columns - np.arange(len(self._unknown_columns))
        return np.insert(cells, places, np.nan, axis=-1)

    # State: arrays and numbers only

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_copies", None)
        net = state.pop("net_", None)
        if net is not None:
            members = [member.state_dict() for member in net.stack_.members]
            state["_weights"] = {
                name: np.stack([member[name].cpu().numpy() for member in members])
                for name in members[0]
            }
            if self._keeps_optimizer:
                state["_optimizer_state"] = _map_tensors(net.optimizer_.state_dict()["state"])
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
        device = "auto" if self._device == "auto" else self.device_
        self.device_ = resolve_device(device, fall_back=True)
        modules = [self._make_module(torch.Generator()) for _ in self._train_seeds]
        for i, module in enumerate(modules):
            own = {name: torch.from_numpy(np.array(w[i])) for name, w in weights.items()}
            module.load_state_dict(own)
        self._copies = Copies()
        params = self._training_params(Recipe(**self._recipe))
        self.net_ = self._make_net(modules, params).initialize()
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

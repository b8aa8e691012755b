"""GaussianVAEClassifier: classes from v1 and an estimate of v2, trained jointly."""

import copy
import warnings
from numbers import Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _get_feature_names, check_is_fitted
from torch import nn

from ._answers import cached_draws
from ._base import BaseGaussianVAE
from ._calibration import N_DRAWS, log_inverse_temperature
from ._fit import DTYPES, Table
from ._groups import merge_copies
from ._labels import (
    check_any_labeled,
    check_classes,
    choose_classes,
    distinct,
    find_labeled,
    weigh_labels,
)
from ._networks import ACTIVATIONS
from ._random import torch_seed
from ._recipe import CLASSIFICATION
from ._sklearn_callbacks import with_callbacks
from ._validation import check_groups, check_y, drop_unweighted, refuse_dates
from .likelihood import class_log_prob
from .net import GaussianVAEClassifierNet
from .nn import ClassifierHead, FilledClassifier, GaussianVAEClassifierModule
from .objectives import JointLoss

# Precision of the prior on the weights of the default head: 1 / C of LogisticRegression.
HEAD_PRECISION = 3.0
PSEUDO_WEIGHT = 3.0  # of rows without a label


class GaussianVAEClassifier(ClassifierMixin, BaseGaussianVAE):
    r"""Classifier of a vector v1 and of an estimate of a second vector v2, trained jointly.

    .. math::

        z \sim q(z | v_1), \quad \hat v_2 \sim p(v_2 | z), \quad
        p(c | v_1) = E[\operatorname{softmax}_c f(v_1, \hat v_2)]

    A variational auto-encoder with a Gaussian decoder estimates v2 = ``X_target`` from
    v1 = ``X``, a classifier f sees v1 and a draw of that estimate. For each row, in nats, the
    loss is

    .. math::

        -\log p(c | v_1) + v \left[ -\log p(v_2 | v_1) + w \, KL(q(z | v_1) \| p(z)) \right]

    with v = ``vae_weight``, w = ``kl_weight`` and both densities averaged over draws. v2 is
    needed in training only; it may be X itself. Labels and targets may each be missing for some
    rows; then each part is an average over the rows that have it, and rows without a label are
    drawn to their own prediction (see Notes).

    NaN in X means that a cell is unknown. If cells may be unknown in ``predict``, some should be
    so in ``fit``: there the encoder learns what that means. A model that was fitted to complete
    rows takes the mean of the column, and warns.

    Parameters
    ----------
    n_components : int, default=None
        Width of the latent space. None: as many as target features, but more if there are few
        of them and fewer if there are many.
    kl_weight : float, default=0.1
        Weight of the KL term. Where v2 is not v1 it has to be small: from some weight on to
        ignore v1 is optimal for the auto-encoder.
    classifier : nn.Module, callable or None, default=None
        Called as ``classifier(v1, v2_estimate)`` with two standardised matrices, returns
        logits. A module is deep-copied and starts with the weights it has; a class or function
        is called as ``classifier(n_features, n_target_features, n_classes)``. None is a
        :class:`~skgvae.nn.ClassifierHead` with a Gaussian prior on its weights, of precision 3
        (LogisticRegression's 1 / C).
    vae_weight : float or "auto", default="auto"
        Weight of the auto-encoder's loss, which is a sum over target features; "auto" makes
        it an average over them. Zero trains the classifier alone: encoder and decoder keep
        their initial weights.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the cross-entropy.
    unlabeled : object, default=None
        Value of y that marks rows without a label. None: all rows have one.
    hidden_layer_sizes : int or tuple of int, default=(64, 64)
        Widths of the encoder's hidden layers; the decoder has them in reverse order.
    activation : {"identity", "logistic", "relu", "silu", "gelu", "tanh"}, default="silu"
        Activation of the hidden layers.
    noise : str, default="heteroscedastic"
        Decoder variance: "heteroscedastic", a function of z for each feature; "homoscedastic",
        one number for each feature, as in FactorAnalysis; "isotropic", one number, as in
        probabilistic PCA. "student" is heteroscedastic with Student's t in place of the normal
        distribution (four degrees of freedom): for data with outliers.
    min_noise : float or "auto", default="auto"
        Floor of the decoder's standard deviation, in standardised units.
        "auto" is 0.01, and up to h / √12 for a column with spacing h whose values repeat, on
        which a density could otherwise grow by spikes.
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. "auto": see the user guide, which has a table of all
        that it means. 0 keeps the start.
    batch_size : int or "auto", default="auto"
        Rows in a step.
    lr : float or "auto", default="auto"
        Largest learning rate. The rate rises at first, then it falls as half a cosine.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the rows that a model does not see, and by which it is judged. All models keep
        the epoch that is best on average over them. "auto" is cross-validation: the rows are
        divided into parts, and each model does not see another part. None holds out nothing and
        keeps the last epoch.
    n_estimators : int, default=5
        Number of models, each with its own start, held-out rows and order of rows, trained at
        once: a deep ensemble [3]_. Predictions are those of their mixture with equal weights;
        the latent space is that of the first.
    n_draws : int, default=64
        Draws of z and v2 in prediction: scrambled Sobol points that are seeded in ``fit`` and
        shared by all rows, so that answers do not depend on which rows are asked for
        together. A power of two is best.
    handle_unknown : {"error", "ignore"}, default="error"
        What a name is that a category did not have in ``fit``: a ValueError, or an unknown cell.
    warm_start : bool, default=False
        Whether ``fit`` continues with the weights and the scaling of the last one.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed of the held-out rows, initial weights, order of rows and draws. None takes fresh
        entropy. Global generators are neither read nor moved.
    verbose : bool or int, default=0
        Whether to show a progress bar.
    net_params : dict, default=None
        Parameters of the skorch net in skorch's spelling, applied last: ``{"callbacks":
        [...], "optimizer": torch.optim.SGD, "gradient_clip": 1.0, ...}``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes, sorted.
    n_components_ : int
        Width of the latent space.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has string names.
    n_epochs_, best_epoch_ : int
        Epochs trained, and the epoch whose weights are kept (0: the start).
    history_ : list of dict
        For each epoch: loss, cross-entropy, reconstruction and KL, of training and validation
        rows, in nats a row, in standardised units, and the penalty on the head's weights: averages
        over the models. The training loss also has the parts of rows without a label, which are
        not listed.
    kl_per_component_ : ndarray of shape (n_components_,)
        Average KL divergence of each component, in nats: the information that it carries.
    n_active_components_ : int
        Components with more than 0.01 nats.
    noise_variance_ : ndarray of shape (n_target_features,)
        Average decoder variance of each target feature, in its squared units.
    min_noise_ : ndarray of shape (n_target_features,)
        Floor of the decoder's standard deviation, in standardised units.
    net_ : GaussianVAEClassifierNet
        The skorch net.
    module_ : GaussianVAEClassifierModule
        The torch module; of several the first, whose latent space ``transform`` returns.
    modules_ : list of GaussianVAEClassifierModule
        All modules, ``module_`` first. ``copy.deepcopy`` of one shares no memory with the others.
    device_ : str
        Where it was trained.

    See Also
    --------
    GaussianVAERegressor : The same model without the classifier.
    sklearn.neural_network.MLPClassifier : A network without the estimate of v2.

    Notes
    -----
    ``X_target`` is metadata of ``fit``: with
    ``sklearn.set_config(enable_metadata_routing=True)`` and
    ``model.set_fit_request(X_target=True)`` it is passed, row by row, through ``Pipeline``,
    ``cross_validate`` and ``GridSearchCV``. Without routing too, as any fit parameter:
    ``GridSearchCV(model, grid).fit(X, y, X_target=V)``.

    ``score`` leaves out unlabelled rows, scorers such as ``"neg_log_loss"`` do not know of them.

    Where few rows have a label, these are repeated within an epoch, with smaller weights, until
    they are half of the rows; and the cross-entropy's gradient with respect to the estimate of
    v2 is multiplied by the share of labelled rows, lest the auto-encoder learn these by heart.
    A row without a label takes part in two cross-entropies, in which a sharper version of its
    own predicted probabilities takes the place of the label [4]_: its own, and that of mixtures
    of two rows [5]_ (:class:`~skgvae.objectives.JointLoss`). Their weight is
    ``net_params={"criterion__pseudo_weight": 3.0}``; with zero such rows train the auto-encoder
    only. A classifier of the user's that collects running statistics (BatchNorm) sees mixed
    rows too.
    The prior on the weights of the default head is ``net_params={"criterion__penalty": ...}``,
    by default 3 divided by the number of labels; there is none on a classifier of the user.
    After training the logits of the default head are divided by a temperature [6]_, with which the
    labels that each model has not seen are most likely, and 50 more that are as the models say; of
    fewer than 20 labels there is none.

    A feature that lies further outside its training range than that range is wide is moved to
    there.

    The network of Kingma & Welling [1]_ with one hidden layer of half the width on each side
    and half of that as latent space is ``GaussianVAEClassifier(max(h // 2, 5),
    hidden_layer_sizes=h, activation="relu", net_params={"module__linear": False})`` with
    ``h = max(n_features // 2, 5)``.

    References
    ----------
    .. [1] Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114,
       appendix C.2.
    .. [2] Alemi, Fischer, Dillon & Murphy, "Deep Variational Information Bottleneck", 2017,
       arXiv:1612.00410.
    .. [3] Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty
       Estimation using Deep Ensembles", 2017, arXiv:1612.01474.
    .. [4] Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep
       Neural Networks", 2013.
    .. [5] Verma, Lamb, Kannala, Bengio & Lopez-Paz, "Interpolation Consistency Training for
       Semi-Supervised Learning", 2019, arXiv:1903.03825.
    .. [6] Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", 2017,
       arXiv:1706.04599.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skgvae import GaussianVAEClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = GaussianVAEClassifier(max_epochs=20, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:2]).shape
    (2, 3)
    >>> mean, std = model.predict_target(X, return_std=True)
    """

    _habits = CLASSIFICATION
    _net_class = GaussianVAEClassifierNet
    _parameter_constraints: dict = {
        **BaseGaussianVAE._parameter_constraints,
        "classifier": [nn.Module, callable, None],
        "vae_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "unlabeled": [Real, str, None],
    }

    def __init__(
        self,
        n_components=None,
        *,
        kl_weight=0.1,
        classifier=None,
        vae_weight="auto",
        class_weight=None,
        unlabeled=None,
        hidden_layer_sizes=(64, 64),
        activation="silu",
        noise="heteroscedastic",
        min_noise="auto",
        max_epochs="auto",
        batch_size="auto",
        lr="auto",
        validation_fraction="auto",
        n_estimators=5,
        n_draws=64,
        handle_unknown="error",
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
        net_params=None,
    ):
        self.n_components = n_components
        self.kl_weight = kl_weight
        self.classifier = classifier
        self.vae_weight = vae_weight
        self.class_weight = class_weight
        self.unlabeled = unlabeled
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.noise = noise
        self.min_noise = min_noise
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.n_estimators = n_estimators
        self.n_draws = n_draws
        self.handle_unknown = handle_unknown
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, *, X_target=None, groups=None, sample_weight=None):
        """Train the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows v1, at least two.
        y : array-like of shape (n_samples,)
            Classes; ``unlabeled`` where there is none.
        X_target : array-like of shape (n_samples, n_target_features) or (n_samples,), default=None
            Targets v2 of the auto-encoder, X itself by default; NaN where they are unknown. Rows
            that are NaN throughout train the classifier alone.
        groups : array-like of shape (n_samples,), default=None
            The object that each row was measured on. Rows of one object are held out together,
            or not at all. Copies of a row need no groups: they count as one row with their
            weights together.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAEClassifier
            The fitted estimator. When fitting fails, it stays as it was.

        Raises
        ------
        KeyboardInterrupt
            When training is interrupted; the best epoch so far is in the estimator.
        """
        with self._all_or_nothing():
            *rows, weight, groups = self._validate_training(
                X, y, X_target, sample_weight, groups, reset=not self._continues()
            )
            X, X_target, label = rows
            weight, groups, kept = merge_copies(weight, groups, X, X_target, labels=label)
            X, X_target, label = (part[kept] for part in rows)
            self._n_labeled = int(np.sum(label >= 0))
            labels = self._weigh_labels(label, weight)
            return self._fit(Table(X, X_target, weight, groups, *labels))

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, *, X_target=None, sample_weight=None):
        """Train one pass over the rows, at a constant learning rate, without held-out rows.

        The first call learns scaling, classes and start. Later calls keep them, but for the
        scaling of columns that vary for the first time, and refuse values more than 1e8 of its
        standard deviations away. The rate is ``lr``, the peak of that in ``fit``: to refine a
        fitted model, lower it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows v1, at least two in the first call.
        y : array-like of shape (n_samples,)
            Classes.
        classes : array-like of shape (n_classes,), default=None
            All classes that there will be; those in the first y by default.
        X_target : array-like of shape (n_samples, n_target_features) or (n_samples,), default=None
            Targets v2 of the auto-encoder, X itself by default; columns as in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAEClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            When ``net_params`` or ``device`` are not those of the first call.
        KeyboardInterrupt
            When the pass is interrupted; the model is then as it was before.
        """
        with self._all_or_nothing():
            reset = not self.__sklearn_is_fitted__()
            known = None if classes is None else check_classes(classes, self.unlabeled)
            if not reset:
                if known is not None and not np.array_equal(known, self.classes_):
                    raise ValueError(
                        f"classes={classes!r} are not those of the first call, "
                        f"{self.classes_.tolist()}."
                    )
                known = self.classes_
            if self.class_weight == "balanced":
                raise ValueError(
                    "class_weight='balanced' needs all rows at once: for partial_fit give a dict."
                )
            X, X_target, label, weight, _ = self._validate_training(
                X, y, X_target, sample_weight, classes=known, reset=reset, n_needed=1 + reset
            )
            if reset:
                weight, _, kept = merge_copies(weight, None, X, X_target, labels=label)
                X, X_target, label = X[kept], X_target[kept], label[kept]
            labels = self._weigh_labels(label, weight)
            self._n_labeled = int(np.sum(label >= 0)) + (0 if reset else self._n_labeled)
            return self._partial_fit(Table(X, X_target, weight, None, *labels))

    def predict(self, X):
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Classes.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_log_proba(X).argmax(1)]

    def predict_proba(self, X):
        """Return the probability of each class, averaged over draws of z and v2.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """Return the logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Nats.
        """
        check_is_fitted(self)
        X = self._validate_rows(X)
        draws = self._draws(self.n_components_ + self._module_spec["out_features"])
        (log_prob,) = self._answer(
            lambda modules, v1: (class_log_prob(modules, v1, draws),),
            X,
            forwards=[self._to_input],
        )
        return log_prob

    def predict_target(self, X, return_std=False):
        """Return mean and standard deviation of v2 given v1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows v1.
        return_std : bool, default=False
            Whether to return the standard deviation too.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_target_features)
            E[v2 | v1], in the units of ``X_target``.
        std : ndarray of shape (n_samples, n_target_features)
            Decoder noise and spread of the decoder's means together, if ``return_std``.
        """
        mean, std = self._mean_and_std(self._validate_rows(X))
        mean, std = self._to_table(mean), self._with_all_columns(std)
        return (mean, std) if return_std else mean

    def sample(self, X, n_samples=1, random_state=None):
        """Draw v2 given v1: a component of the predictive mixture, then its noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows v1.
        n_samples : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=None
            Seed; None draws afresh at each call.

        Returns
        -------
        ndarray of shape (n_samples, n_rows, n_target_features)
            Draws in the units of ``X_target``, for the n_rows rows of X.
        """
        return self._sample_target(X, n_samples, random_state)

    def score(self, X, y, sample_weight=None):
        """Return the accuracy, over the rows that have a label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Classes; rows whose class equals ``unlabeled`` are left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of rows classified correctly.
        """
        predicted, y = self.predict(X), column_or_1d(y)
        check_consistent_length(predicted, y, sample_weight)
        known = find_labeled(y, self._get_valid("unlabeled"))
        check_any_labeled(known, self.unlabeled)
        distinct(y[known])  # it must be sorted
        weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        return accuracy_score(y[known], predicted[known], sample_weight=weight)

    def _validate_training(
        self, X, y, X_target, sample_weight, groups=None, *, classes=None, reset, n_needed=2
    ):
        """Return X, target, class indices (-1: no label), weights and groups of the rows."""
        if self.unlabeled != self.unlabeled:
            raise ValueError("unlabeled=nan equals nothing: mark missing labels by another value.")
        X = self._check_rows(X, reset=reset, ensure_min_samples=n_needed)
        y = check_y(self, X, y)
        is_labeled = find_labeled(y, self.unlabeled)
        found = choose_classes(y[is_labeled], classes)
        label = np.full(len(y), -1)
        label[is_labeled] = np.searchsorted(found, y[is_labeled])
        self._check_target_names(X_target, reset)
        self._has_own_target = X_target is not None
        X_target = _validate_target(X_target, X) if self._has_own_target else X
        weight, X, X_target, label, groups = drop_unweighted(
            sample_weight, X, X_target, label, check_groups(groups, X), n_needed=n_needed
        )
        X = self._choose_columns(X, reset)
        if not self._has_own_target:
            X_target = X
        n_known = np.min(np.sum(~np.isnan(X_target), 0))
        if self._has_own_target and n_needed == 2 and n_known < 2:
            raise ValueError(
                f"A column of X_target is known for {n_known} rows; 2 are needed. Rows of weight "
                "zero do not count."
            )
        if classes is None:
            check_any_labeled(label >= 0, self.unlabeled)
        if reset and self.unlabeled is not None and len(found) == 1:
            warnings.warn(
                f"Only one class is left, {found.tolist()[0]!r}: unlabeled={self.unlabeled!r} "
                "marks rows without a label. If that is a class too, use another value.",
                stacklevel=2,
            )
        self.classes_ = found
        return X, X_target, label, weight, groups

    def _weigh_labels(self, label, weight):
        """Return class indices and the weights of the labels, as RowDataset has them."""
        is_labeled = label >= 0
        label = np.where(is_labeled, label, 0)
        weight = np.ones(len(label)) if weight is None else weight / weight.mean()
        own = weigh_labels(label, weight * is_labeled, self.classes_, self.class_weight)
        self._label_share = float(weight[is_labeled].sum() / weight.sum())
        return label, np.where(is_labeled, own, -weight).astype(np.float32)

    def _check_target_names(self, X_target, reset):
        """Remember the names of the columns of X_target, or compare them with those known."""
        names = _get_feature_names(X_target)
        if reset:
            self._target_names = names
        known = self._target_names
        if names is not None and known is not None and not np.array_equal(names, known):
            raise ValueError(
                "The feature names of X_target should match those that were passed during fit, "
                f"{known.tolist()}, got {names.tolist()}."
            )

    def _find_target_columns(self, target):
        columns = super()._find_target_columns(target)
        return self._with_levels(columns) if self._decodes_input() else columns

    def _decodes_input(self):
        return not self._has_own_target

    def _has_own_network(self):
        return self.classifier is not None or super()._has_own_network()

    def _set_up(self, table, recipe):
        super()._set_up(table, recipe)
        # What a stored model is built from again, whatever becomes of the user's module.
        is_module = isinstance(self.classifier, nn.Module)
        self._fitted_classifier = copy.deepcopy(self.classifier) if is_module else self.classifier

    def _get_structure(self):
        return super()._get_structure() | {
            "classifier": self.classifier,
            "classes_": self.classes_.tolist(),
            "X_target": "given" if self._has_own_target else None,
        }

    def _to_rows(self, table):
        target, weight = table.target, table.weight
        missing = np.isnan(target).all(1)
        if missing.any():
            target = np.where(missing[:, None], self._target_units.typical(), target)
            weight = np.where(missing, 0.0, 1.0 if weight is None else weight)
            weight = weight / weight.mean() if weight.any() else weight
        return super()._to_rows(table._replace(target=target, weight=weight))

    def _strata(self, table):
        return np.where(table.label_weight > 0, table.label, -1)

    def _balance(self, train):
        # Where few rows have a label they are repeated, with smaller weights, until half of the
        # rows have one: else the few in a batch make a noisy gradient.
        is_labeled = train.label_weight > 0
        n_labeled = int(is_labeled.sum())
        n_times = (len(train) - n_labeled) // max(n_labeled, 1)
        if n_times < 2:
            return train
        repeats = torch.where(is_labeled, n_times, 1)
        weight = torch.ones_like(train.label_weight) if train.weight is None else train.weight
        train = copy.copy(train)  # which other members see too
        train.weight, train.label_weight = weight / repeats, train.label_weight / repeats
        rows = torch.arange(len(train), device=repeats.device)
        balanced = train.subset(rows.repeat_interleave(repeats))
        balanced.label_weight[balanced.label_weight < 0] *= len(balanced) / len(train)
        return balanced

    def _make_module(self, generator):
        vae = super()._make_module(generator)
        with torch.device("cpu"):  # whatever torch's default device is
            classifier = self._make_classifier(generator).float()
        return GaussianVAEClassifierModule(vae, classifier)

    def _make_classifier(self, generator):
        classifier, n_classes = self._fitted_classifier, len(self.classes_)
        n_targets = self._module_spec["out_features"]
        if classifier is None:
            activation = self._module_spec["activation"]
            activation = ACTIVATIONS.get(activation, activation)
            widths = self._module_spec["in_features"], n_targets, n_classes
            return ClassifierHead(*widths, activation=activation, generator=generator)
        if isinstance(classifier, nn.Module):
            module = copy.deepcopy(classifier).cpu()
        else:
            module = self._call_classifier(classifier, n_targets, n_classes, generator)
        if not self._sees_holes:
            return module
        return FilledClassifier(module, by_estimate=not self._has_own_target)

    def _call_classifier(self, classifier, n_targets, n_classes, generator):
        with torch_seed(generator.initial_seed()):
            module = classifier(self._units.n_cells, n_targets, n_classes)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "classifier must be a module, or return one when called with (n_features, "
                f"n_target_features, n_classes), but it returned a {type(module).__name__}."
            )
        return module

    def _to_double(self, module):
        module = super()._to_double(module)
        if self._fitted_classifier is not None:
            module.classifier.float()  # it may make float32 tensors of its own
        return module

    def _criterion_params(self):
        vae_weight = self.vae_weight
        if vae_weight == "auto":
            vae_weight = 1 / self._module_spec["out_features"]
        has_unlabeled = self._label_share < 1
        params = {
            "criterion": JointLoss,
            "criterion__vae_weight": float(vae_weight),
            # As if in the auto-encoder's loss every row had the same weight.
            "criterion__label_share": self._label_share,
            "criterion__pseudo_weight": PSEUDO_WEIGHT if has_unlabeled else 0.0,
        }
        if self._fitted_classifier is None:
            params["criterion__penalty"] = HEAD_PRECISION / max(self._n_labeled, 1)
        return params

    def _find_correction(self, valid):
        if self._fitted_classifier is not None:
            return None  # of which nobody knows what its last layer is
        modules = [self._to_double(module) for module in self.modules_]
        width = self.n_components_ + self._module_spec["out_features"]
        draws = cached_draws(N_DRAWS, width, self._draws_seed)
        return log_inverse_temperature(modules, valid, draws)

    def _scale_by(self, power):
        if self._correction is not None:
            for module in self.modules_:
                module.classifier.scale_logits_(float(np.exp(power * self._correction)))

    def _make_net(self, modules, params):
        own = {"classes": self.classes_, "n_draws": self.n_draws, "draws_seed": self._draws_seed}
        return super()._make_net(modules, params | own)

    def _start(self, module, rows, i):
        with torch.no_grad():
            module.encoder.log_scale.weight.mul_(0.1)
            module.encoder.log_scale.bias.fill_(-2.0)
            self._try(module.classifier.eval(), rows.v1[:2], rows.v2[:2])

    def _try(self, classifier, v1, v2):
        """Raise before training what else would be raised in its midst."""
        expected = len(v1), len(self.classes_)
        try:
            logits = classifier(v1, v2)
        except Exception as error:
            raise ValueError(
                f"classifier(v1, v2_estimate) failed for matrices of shapes {tuple(v1.shape)} and "
                f"{tuple(v2.shape)}: {error}"
            ) from error
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != expected:
            raise ValueError(
                f"The classifier returns logits of shape {shape}, but for {expected[0]} rows and "
                f"{expected[1]} classes it should be {expected}."
            )

    def _train(self, *args, **kwargs):
        # With weight zero the auto-encoder stays as it is, also by weight decay.
        weight = self.net_.criterion_.vae_weight
        for module in self.modules_:
            module.vae.requires_grad_(weight > 0)
        super()._train(*args, **kwargs)


def _validate_target(X_target, X):
    """Return X_target with two dimensions."""
    refuse_dates(X_target, "X_target")
    X_target = check_array(
        X_target,
        dtype=DTYPES,
        ensure_2d=False,
        ensure_all_finite="allow-nan",
        input_name="X_target",
    )
    check_consistent_length(X, X_target)
    return X_target.reshape(len(X_target), -1)

"""GaussianVAERegressor: y given x, as a mixture of Gaussians over the latent space."""

from functools import partial
from numbers import Real

import numpy as np
import torch
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ._answers import cached_draws
from ._base import BaseGaussianVAE
from ._calibration import N_DRAWS, WIDE_SHARE, noise_correction
from ._fit import Table
from ._groups import merge_copies
from ._mixture import mixture_quantile
from ._recipe import REGRESSION
from ._sklearn_callbacks import with_callbacks
from ._validation import check_groups, check_y, drop_unweighted, refuse_dates
from .likelihood import (
    decoded_components,
    decoded_covariance,
    decoded_moments,
    predictive_log_prob,
)
from .objectives import predictive_bound

MEAN_POWER = 0.5
# Logarithms of factors of the noise: an epoch is judged with the best of them, or with none.
LOG_SPREADS = tuple(i / 4 for i in range(-4, 9) if i)
# The largest coverage whose upper quantile, 0.5 + coverage / 2, is below one in float64.
MAX_COVERAGE = 1 - float(np.finfo(np.float64).eps)


class GaussianVAERegressor(RegressorMixin, BaseGaussianVAE):
    r"""Regressor whose predictive distribution is a mixture of Gaussians over a latent space.

    .. math::

        p(y | x) = \int N(y; \mu(z), \operatorname{diag} \sigma^2(z)) \,
        N(z; m(x), \operatorname{diag} s^2(x)) \, dz

    It may have several modes, noise that depends on x, and correlated targets. For each row,
    in nats, the loss is :math:`-\log \tfrac1K \sum_k p(y | z_k) + w \, KL(q(z | x) \| p(z))`
    with K draws and w = ``kl_weight``. Several such models are trained at once
    (``n_estimators``), and predictions are those of their mixture, of ``n_draws`` Gaussians
    in all. After training σ is scaled, and some of the Gaussians are made wider, so that the
    density of held-out rows is largest.

    Columns and targets are standardised inside; whatever comes out is in the units of y.
    A feature that lies further outside its training range than that range is wide is moved
    to there: answers for such rows are no better than for that point.

    NaN in X means that a cell is unknown. If cells may be unknown in ``predict``, some should be
    so in ``fit``: there the encoder learns what that means. A model that was fitted to complete
    rows takes the mean of the column, and warns.

    Parameters
    ----------
    n_components : int, default=None
        Width of the latent space. None: as many as targets, but more if there are few.
    kl_weight : float, default=0.01
        Weight of the KL term, which has to be small: with y in place of x on the decoder's
        side the loss is a variational information bottleneck [1]_. With one linear latent,
        one target and one draw in training the slope is shrunk by about w (1 - R²) / R², and
        from w = R² on to ignore x is optimal; K draws allow about K times that weight.
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
    n_draws : int, default=256
        Draws of z in prediction, the components of the mixture, shared out equally (rounded
        up) between the models: scrambled Sobol points
        that are seeded in ``fit`` and shared by all rows, so that answers do not depend on
        which rows are asked for together. A power of two is best.
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
    n_components_ : int
        Width of the latent space.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has string names.
    n_epochs_, best_epoch_ : int
        Epochs trained, and the epoch whose weights are kept (0: the start).
    history_ : list of dict
        For each epoch: loss, reconstruction and KL, of training and validation rows, in
        nats a row, in standardised units: averages over the models. The validation loss is that
        with the best factor of the noise, and with what the prior takes for it.
    kl_per_component_ : ndarray of shape (n_components_,)
        Average KL divergence of each component, in nats: the information that it carries.
    n_active_components_ : int
        Components with more than 0.01 nats.
    noise_variance_ : ndarray of shape (n_targets,)
        Average decoder variance of each target, in squared units of y.
    noise_correlation_ : ndarray of shape (n_targets, n_targets)
        Correlation of the targets' noise given z, the same for all z.
    min_noise_ : ndarray of shape (n_targets,)
        Floor of the decoder's standard deviation, in standardised units.
    net_ : GaussianVAENet
        The skorch net.
    module_ : GaussianVAEModule
        The torch module; of several the first, whose latent space ``transform`` returns.
    modules_ : list of GaussianVAEModule
        All modules, ``module_`` first. ``copy.deepcopy`` of one shares no memory with the others.
    device_ : str
        Where it was trained.

    See Also
    --------
    sklearn.gaussian_process.GaussianProcessRegressor : One Gaussian with a standard deviation.
    skgvae.metrics : Proper scores for predictive distributions.

    Notes
    -----
    Targets with several modes need more draws of z in training:
    ``net_params={"criterion__n_draws": 32}``.

    The noise is scaled by a factor for each target; a share of the components is made three times
    as wide as the others, since some rows are missed by far more than training showed; and the
    (normal) noise of up to 32 targets is correlated. All of this maximises the log density that
    each model gives the rows that it has not seen, shrunk towards a factor of one, a share of
    1/256 and no correlation with the weight of 50 rows; of fewer than 20 rows nothing is learned.
    Then the variance of the models' means is taken from the noise, as their mixture has it
    already. The decoder of ``module_`` is scaled too. Epochs are judged with the best factor.

    The gradient with respect to the mean is multiplied by σ(z), relative to its average for
    each target, as with the loss of Seitzer et al. [2]_; without that, rows that are fitted
    badly get a large σ and then hardly train the mean. ``history_`` reports the objective
    itself; ``net_params={"criterion__mean_power": 0}`` follows its gradient too.

    Far outside the training rows σ is as arbitrary as the mean is. In a pipeline the
    methods that :class:`~sklearn.pipeline.Pipeline` does not know are reached by
    ``pipe[-1].predict_interval(pipe[:-1].transform(X))``.

    References
    ----------
    .. [1] Alemi, Fischer, Dillon & Murphy, "Deep Variational Information Bottleneck", 2017,
       arXiv:1612.00410.
    .. [2] Seitzer, Tavakoli, Antic & Martius, "On the Pitfalls of Heteroscedastic
       Uncertainty Estimation", 2022, arXiv:2203.09168.
    .. [3] Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty
       Estimation using Deep Ensembles", 2017, arXiv:1612.01474.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skgvae import GaussianVAERegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = GaussianVAERegressor(max_epochs=20, random_state=0).fit(X, y)
    >>> mean, std = model.predict(X, return_std=True)
    >>> model.predict_interval(X, coverage=0.9).shape
    (442, 2)
    """

    _habits = REGRESSION

    def __init__(
        self,
        n_components=None,
        *,
        kl_weight=0.01,
        hidden_layer_sizes=(64, 64),
        activation="silu",
        noise="heteroscedastic",
        min_noise="auto",
        max_epochs="auto",
        batch_size="auto",
        lr="auto",
        validation_fraction="auto",
        n_estimators=5,
        n_draws=256,
        handle_unknown="error",
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
        net_params=None,
    ):
        self.n_components = n_components
        self.kl_weight = kl_weight
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, *, groups=None, sample_weight=None):
        """Train the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        groups : array-like of shape (n_samples,), default=None
            The object that each row was measured on. Rows of one object are held out together,
            or not at all. Copies of a row need no groups: they count as one row with their
            weights together.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAERegressor
            The fitted estimator. When fitting fails, it stays as it was.

        Raises
        ------
        KeyboardInterrupt
            When training is interrupted; the best epoch so far is in the estimator.
        """
        with self._all_or_nothing():
            reset = not self._continues()
            X, y = self._validate_pairs(X, y, reset=reset)
            weight, X, y, groups = drop_unweighted(sample_weight, X, y, check_groups(groups, X))
            X = self._choose_columns(X, reset)
            weight, groups, kept = merge_copies(weight, groups, X, y)
            return self._fit(Table(X[kept], y[kept], weight, groups))

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, *, sample_weight=None):
        """Train one pass over the rows, at a constant learning rate, without held-out rows.

        The first call learns scaling and start from its rows. Later calls keep the scaling, but
        for columns that vary for the first time, and refuse values more than 1e8 of its standard
        deviations away.
        The rate is ``lr``, the peak of that in ``fit``: to refine a fitted model, lower it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two in the first call.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAERegressor
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
            X, y = self._validate_pairs(X, y, reset=reset)
            n_needed = 2 if reset else 1
            weight, X, y = drop_unweighted(sample_weight, X, y, n_needed=n_needed)
            X = self._choose_columns(X, reset)
            if reset:
                weight, _, kept = merge_copies(weight, None, X, y)
                X, y = X[kept], y[kept]
            return self._partial_fit(Table(X, y, weight))

    def decode(self, Z, return_std=False):
        """Return mean and standard deviation of p(y | z) in the units of y.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Points of the latent space.
        return_std : bool, default=False
            Whether to return σ(z) too.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_targets)
            μ(z).
        std : ndarray like mean
            σ(z), if ``return_std``.
        """
        mean, std = super().decode(Z, return_std=True)
        mean, std = self._keep_shape(mean), self._keep_shape(std)
        return (mean, std) if return_std else mean

    def predict(self, X, return_std=False, return_cov=False):
        """Return the mean of the predictive mixture, with its spread where asked for.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        return_std : bool, default=False
            Whether to return the standard deviation of each target too.
        return_cov : bool, default=False
            Whether to return the covariance of the targets too. It is one between the targets
            of a row; GaussianProcessRegressor returns one between rows.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_targets)
            E[y | x].
        std : ndarray like mean
            Decoder noise and spread of the decoder's means together, if ``return_std``.
        cov : ndarray of shape (n_samples,) or (n_samples, n_targets, n_targets)
            Covariance of the targets of each row, if ``return_cov``.
        """
        if return_std and return_cov:
            raise RuntimeError("At most one of return_std and return_cov can be asked for.")
        if return_cov:
            return self._mean_and_covariance(X)
        mean, std = (self._keep_shape(part) for part in self._mean_and_std(self._validate_rows(X)))
        return (mean, std) if return_std else mean

    def predict_variance(self, X):
        """Return the two parts of the predictive variance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        noise : ndarray of shape (n_samples,) or (n_samples, n_targets)
            E[σ²(z)], the mean of the decoder's variances.
        latent : ndarray like noise
            Var[μ(z)], the variance of the decoder's means over z and over the models of the
            ensemble: spread of y that the latent explains, and where they disagree.
        """
        moments = partial(decoded_moments, wide_share=self._wide_share)
        _, *parts = self._answer_from_draws(moments, self._validate_rows(X))
        to_units = self._target_units.inverse_variance
        noise, latent = (self._keep_shape(to_units(part)) for part in parts)
        return noise, latent

    def predict_mixture(self, X):
        """Return the components of the predictive mixture, for other tools.

        Given its component, the targets of a row have the correlations ``noise_correlation_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        weights : ndarray of shape (n_components,)
            Probabilities of the components, all equal: there are ``n_draws`` of them, rounded up
            to a multiple of the number of models.
        means : ndarray of shape (n_samples, n_components) or (n_samples, n_components, n_targets)
            Means in the units of y.
        scales : ndarray like means
            Standard deviations, of components that are normal; with ``noise="student"`` the scales
            of Student's t with four degrees of freedom.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_diabetes
        >>> from skgvae import GaussianVAERegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = GaussianVAERegressor(max_epochs=5, random_state=0).fit(X, y)
        >>> weights, means, scales = model.predict_mixture(X)
        >>> np.allclose(means @ weights, model.predict(X))
        True
        """
        loc, scale = self._predict_components(X)
        means, scales = (np.moveaxis(part, 0, 1) for part in (loc, scale))
        if self._is_single:
            means, scales = means[..., 0], scales[..., 0]
        return np.full(len(loc), 1 / len(loc)), means, scales

    def predict_quantiles(self, X, quantiles):
        """Return quantiles of the predictive mixture, by root-finding on its exact CDF.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        quantiles : float or array-like of shape (n_quantiles,)
            Probabilities in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles) or (n_samples, n_targets, n_quantiles)
            Quantiles of each target, in the units of y; without the last axis for a float.
        """
        quantiles = np.asarray(quantiles, dtype=np.float64)
        if quantiles.ndim > 1 or quantiles.size == 0:
            raise ValueError(
                f"quantiles must be a number or a list of them, got shape {quantiles.shape}."
            )
        if not np.all((quantiles > 0) & (quantiles < 1)):
            raise ValueError(f"quantiles must lie in (0, 1), got {quantiles.tolist()!r}.")

        decoded = partial(decoded_components, wide_share=self._wide_share)

        def function(modules, v1, draws):
            components = [part.double() for part in decoded(modules, v1, draws)]
            levels = np.atleast_1d(quantiles)
            found = [mixture_quantile(p, *components, self._noise_family) for p in levels]
            return (torch.stack(found, 1),)  # (n, n_quantiles, n_targets)

        inverses = [self._target_units.inverse]
        size = self._n_components_decoded
        X = self._validate_rows(X)
        (found,) = self._answer_from_draws(function, X, size=size, inverses=inverses)
        found = np.moveaxis(found, 1, -1)
        found = found[:, 0] if self._is_single else found
        return found if quantiles.ndim else found[..., 0]

    def predict_interval(self, X, coverage=0.9):
        """Return the central interval that holds y with a given probability.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Probability in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, n_targets, 2)
            Lower and upper bound of each target.
        """
        number = np.asarray(coverage)[()]  # an array of no dimension is one too
        if not isinstance(number, Real) or not 0 < number <= MAX_COVERAGE:
            raise ValueError(
                f"coverage must be a number in (0, {MAX_COVERAGE}], got {coverage!r}."
            )
        return self.predict_quantiles(X, [0.5 - number / 2, 0.5 + number / 2])

    def score_samples(self, X, y=None):
        """Return log p(y | x) of each row, jointly over the targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets; the predicted mean by default.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, for a density in the units of y.
        """
        check_is_fitted(self)
        y = self.predict(X) if y is None else y
        X, y = self._validate_pairs(X, y, reset=False)
        X = self._with_known_columns(X)
        n_targets = self._module_spec["out_features"]
        if y.shape[1] != n_targets:
            raise ValueError(
                f"y has {y.shape[1]} targets, but the model was fitted to {n_targets}."
            )
        draws, dtype = self._draws(), X.dtype
        noise = self._wide_share, self._noise_root_like(X)
        (log_prob,) = self._answer(
            lambda modules, v1, v2: (predictive_log_prob(modules, v1, v2, draws, *noise),),
            X,
            y,
            forwards=[self._to_input, lambda y: self._target_units.forward(y, dtype)],
        )
        return log_prob - self._target_units.log_abs_det(y)

    def sample(self, X, n_samples=1, random_state=None):
        """Draw y given x: a component of the predictive mixture, then its noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        n_samples : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=None
            Seed; None draws afresh at each call.

        Returns
        -------
        ndarray of shape (n_samples, n_rows) or (n_samples, n_rows, n_targets)
            Draws in the units of y, for the n_rows rows of X.
        """
        y = self._sample_target(X, n_samples, random_state)
        return y[..., 0] if self._is_single else y

    def _validate_pairs(self, X, y, reset):
        refuse_dates(y, "y")
        X = self._check_rows(X, reset=reset, ensure_min_samples=2 if reset else 1)
        y = check_y(self, X, y, multi_output=True, y_numeric=True)
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")  # refuses sparse
        if reset:
            self._is_single = y.ndim == 1
        return X, y.reshape(len(y), -1)

    @property
    def _n_components_decoded(self):
        check_is_fitted(self)
        return self.n_draws * self._module_spec["out_features"]

    @property
    def _noise_family(self):
        return self.module_.decoder.family

    def _criterion_params(self):
        return {
            "criterion__bound": predictive_bound,
            "criterion__mean_power": MEAN_POWER,
            # A bound of the user's own knows nothing of them.
            "criterion__log_spreads": None if self._has_own_criterion() else LOG_SPREADS,
        }

    def _has_own_criterion(self):
        return not {"criterion", "criterion__bound"}.isdisjoint(self._net_params)

    def _find_correction(self, valid):
        if not all(hasattr(module.decoder, "scale_noise_") for module in self.modules_):
            return None  # a decoder of the user's own
        modules = [self._to_double(module) for module in self.modules_]
        draws = cached_draws(N_DRAWS, self.n_components_, self._draws_seed)
        floor = np.broadcast_to(self._module_spec["min_noise"], self._target_units.n_cells)
        floor = torch.from_numpy(floor.astype(np.float64))
        return noise_correction(modules, valid, draws, floor)

    def _scale_by(self, power):
        if self._correction is not None:
            log_factor = power * torch.tensor(self._correction.log_spread, device="cpu")
            for module in self.modules_:
                module.decoder.scale_noise_(log_factor)

    @property
    def _wide_share(self):
        return WIDE_SHARE if self._correction is None else self._correction.wide_share

    @property
    def _noise_root(self):
        return None if self._correction is None else self._correction.root

    def _start(self, module, rows, i):
        # Narrow posteriors: from wide ones training first has to learn that x matters.
        with torch.no_grad():
            module.encoder.log_scale.weight.mul_(0.1)
            module.encoder.log_scale.bias.fill_(-2.0)

    def _predict_components(self, X):
        """Return mean and standard deviation of the mixture's components, in units of y.

        Both of shape (n_draws, n_samples, n_targets): what the metrics are made of.
        """
        decoded = partial(decoded_components, wide_share=self._wide_share)

        def function(modules, v1, draws):
            loc, scale = decoded(modules, v1, draws)
            return loc.transpose(0, 1), scale.transpose(0, 1)  # rows first, to be joined

        X = self._validate_rows(X)
        parts = self._answer_from_draws(function, X, size=self._n_components_decoded)
        loc, scale = (part.transpose(1, 0, 2) for part in parts)
        return self._target_units.inverse_mean(loc), self._target_units.inverse_scale(scale)

    def _mean_and_covariance(self, X):
        X = self._validate_rows(X)
        noise = {"wide_share": self._wide_share, "noise_root": self._noise_root_like(X)}
        function = partial(decoded_covariance, **noise)
        mean, covariance = self._answer_from_draws(function, X, size=self._n_components_decoded)
        mean = self._keep_shape(self._target_units.inverse_mean(mean))
        covariance = covariance * np.outer(self._target_units.scale, self._target_units.scale)
        return mean, covariance[:, 0, 0] if self._is_single else covariance

    @property
    def noise_correlation_(self):
        """Correlation of the targets' noise given z, of shape (n_targets, n_targets)."""
        check_is_fitted(self)
        if self._noise_root is None:
            return np.eye(self._module_spec["out_features"])
        return self._noise_root @ self._noise_root.T

    def _keep_shape(self, y):
        return y[:, 0] if self._is_single else y

"""GaussianVAE: transformer, density and generator."""

import math
import warnings
from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils import check_scalar, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ._answers import cached_draws
from ._base import BaseGaussianVAE
from ._columns import Column, column_as, column_of, specs_by_place
from ._density import ROUNDS, log_density, widened
from ._fit import Table
from ._groups import merge_copies
from ._posterior import decoded_by, drawn_by, given_others, posterior_draws
from ._random import draw_seeds
from ._recipe import DENSITY, INCOMPLETE
from ._rows import seen_by_encoder
from ._scaling import rows_with_holes
from ._sklearn_callbacks import with_callbacks
from ._start import MAX_ROWS, factor_analysis, mixture_of_rows
from ._start_incomplete import factors_of_known, mixture_of_known
from ._together import compute_once
from ._validation import check_given, check_groups, drop_unweighted
from .likelihood import lower_bound
from .nn import NOISE_MODELS, PRIORS, GaussianNoise
from .objectives import elbo, importance_weighted_bound

N_PRIOR_COMPONENTS = 8  # where no classical model says how many
FEW_ROWS = 10
MIN_DRAWS = 8  # of each model: of fewer no standard error can be told
STATISTICS = "auto", "mean", "median"
MAX_SAMPLES = 4096  # at once, where cells are given


class GaussianVAE(BaseGaussianVAE):
    r"""Variational auto-encoder whose decoder learns a mean and a variance.

    .. math::

        p(z) = \textstyle\sum_c \pi_c N(m_c, S_c), \quad
        p(x | z) = N(\mu(z), \operatorname{diag} \sigma^2(z)), \quad
        q(z | x) = N(m(x), \operatorname{diag} s^2(x))

    The four functions of x and z are multi-layer perceptrons beside linear paths (Kingma &
    Welling [1]_, appendix C.2). p(z) is a mixture of Gaussians that is learned with the rest,
    or N(0, I). By default five such models are trained at once, and the density is the mean of
    theirs. For each row, in nats, summed over features and components, the loss is
    :math:`-E_q \log p(x | z) + w \, KL(q(z | x) \| p(z))` with w = ``kl_weight``, and for
    several draws in training the tighter importance-weighted bound in its place.

    Columns are standardised inside; whatever comes out is in the units of X. So
    ``score`` is comparable with that of PCA, FactorAnalysis and GaussianMixture on the same
    rows, and a grid search needs no scorer. σ(z) of a column is no larger than the column
    reaches in the training rows.

    NaN means that a cell is unknown, in ``fit`` and in every method. Training maximises the bound
    of the known cells [5]_; it takes longer where there are unknown ones. Answers are those given
    the known cells. Columns of which no cell is known in ``fit`` are left out, with a warning.

    Columns may hold integers, amounts and names, see Notes. What comes out is a possible row, and
    an array of objects where there are names; ``set_output`` asks for a table.

    Parameters
    ----------
    n_components : int, default=None
        Width of the latent space. None: as many as columns, but fewer if there are many columns
        or few rows. With ``prior="standard"`` components that are not needed stay unused
        (``n_active_components_``).
    kl_weight : float, default=1.0
        Weight of the KL term. One maximises a bound on the likelihood; more gives fewer,
        smoother components, less gives better reconstructions.
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
        Floor of the decoder's standard deviation, in standardised units. It bounds the
        density [2]_: none exceeds :math:`-\sum_j \log(\sqrt{2 \pi} \, \sigma_{\min, j})`.
        "auto" is 0.003 (0.01 for a constant column), and up to h / √12 for a column with
        spacing h whose values repeat, on which a density could otherwise grow by spikes.
    prior : {"standard", "mixture"} or int, default="mixture"
        p(z): N(0, I), or a mixture of Gaussians with full covariances, of a number that the
        Bayesian information criterion chooses, or of this number. It decides the start too,
        which is a classical model of the training rows. With "standard" it is scikit-learn's
        FactorAnalysis (probabilistic PCA for isotropic noise). With a mixture it is
        GaussianMixture, less sharp where a component holds less noise than the decoder, whose
        variance starts the same everywhere; with fewer components than columns it is a mixture
        in the plane of FactorAnalysis, a mixture of factor analysers with common loadings.
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
        Number of models, trained at once, each with its own order of rows, draws and held-out
        rows. The second starts at random, the others at a classical model of their rows.
        The density is the mean of theirs, a mixture with equal weights [4]_, and so is what
        ``sample`` draws from; the latent space is that of the first, ``module_``. Without
        training (``max_epochs=0``) there is one.
    n_draws : int, default=256
        Draws of z in ``elbo`` and ``reconstruct``, shared out between the models (of five each
        has 52 of 260); ``score_samples`` has fewer or more for each row, as its estimate needs.
        They are scrambled Sobol points that are seeded in ``fit`` and shared by all rows, so that
        answers do not depend on which rows are asked for together. A power of two for each
        model is best.
    columns : "auto", "continuous" or dict, default="auto"
        Kinds of the columns. "auto" finds them, see Notes; a dict says some by name or position:
        "continuous", "positive", ("bounded", low, high), "integer", "grid" or ("grid", step),
        "categorical". "continuous" takes all numbers as they are.
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
        nats a row, in standardised units: averages over the models.
    kl_per_component_ : ndarray of shape (n_components_,)
        Average KL divergence of each component of the first model, in nats: the information that
        it carries.
        The largest is the first. With a mixture prior: beyond what the components before it in
        ``module_`` tell.
    n_active_components_ : int
        Components with more than 0.01 nats.
    n_prior_components_ : int
        Gaussians in the prior; of several models, the most that any has.
    noise_variance_ : ndarray of shape (n_features_in_,)
        Average decoder variance of each feature, over all models, in squared units of X. NaN for a
        category.
    min_noise_ : ndarray of shape (n_features_in_,)
        Floor of the decoder's standard deviation, in standardised units. NaN for a category.
    columns_ : dict
        Kind of each column, by its name or position.
    net_ : GaussianVAENet
        The skorch net.
    module_ : GaussianVAEModule
        The torch module; of several the first, whose latent space ``transform`` returns.
    modules_ : list of GaussianVAEModule
        All of them, ``module_`` first.
    device_ : str
        Where it was trained.

    See Also
    --------
    sklearn.decomposition.FactorAnalysis : The linear special case with one variance a feature.
    sklearn.decomposition.PCA : The linear special case with one variance.
    sklearn.mixture.GaussianMixture : Density of clustered data.
    GaussianVAEImputer : A step that fills in unknown cells.

    Notes
    -----
    Strings, bool and pandas' categories are categories, with at most 50 levels each. Whole
    numbers are integers, numbers with at most three decimals are on a grid, and if none of the
    others is negative they are positive; in 5 % of the rows there may be more decimals, or zeros.
    Amounts that are zero more often are on a fine grid, on which zero has a probability. All else
    is continuous, also a column of less than 20 values or of one alone.

    For a value on a grid with step h the score counts log P(cell) - log h, with P of the interval
    around the value; what lies beyond the lowest value belongs to it. That is a density, constant
    around each value. The probability of a category's level is a softmax of the decoder's
    output. Positive values are mapped to all numbers first, and skewed amounts on a grid are bent.
    So kinds of columns do not change the unit of a score, but the step of a grid does. A row with
    a value beyond the bounds of its column has a density of zero.

    References
    ----------
    .. [1] Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.
    .. [2] Mattei & Frellsen, "Leveraging the Exact Likelihood of Deep Latent Variable
       Models", 2018, arXiv:1802.04826.
    .. [3] Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", 2015,
       arXiv:1509.00519.
    .. [4] Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty
       Estimation using Deep Ensembles", 2017, arXiv:1612.01474.
    .. [5] Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
       Data Sets", 2019, arXiv:1812.02633.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(n_components=2, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (150, 2)
    >>> vae.sample(3, random_state=0).shape
    (3, 4)
    """

    _habits = DENSITY
    _knows_density = True
    _statistic = "auto"
    _min_noise = 0.003  # what columns leave of each other's variance may be little
    _nothing_to_find = "if the columns are independent of each other, there is nothing to find"
    _parameter_constraints: dict = {
        **BaseGaussianVAE._parameter_constraints,
        "prior": [
            StrOptions(set(PRIORS)),
            Interval(Integral, 1, None, closed="left"),
        ],
        "columns": [dict, StrOptions({"auto", "continuous"})],
    }

    def __init__(
        self,
        n_components=None,
        *,
        kl_weight=1.0,
        hidden_layer_sizes=(64, 64),
        activation="silu",
        noise="heteroscedastic",
        min_noise="auto",
        prior="mixture",
        max_epochs="auto",
        batch_size="auto",
        lr="auto",
        validation_fraction="auto",
        n_estimators=5,
        n_draws=256,
        columns="auto",
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
        self.prior = prior
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.n_estimators = n_estimators
        self.n_draws = n_draws
        self.columns = columns
        self.handle_unknown = handle_unknown
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, groups=None, sample_weight=None):
        """Train the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two.
        y : Ignored
            Not used, present for API consistency.
        groups : array-like of shape (n_samples,), default=None
            The object that each row was measured on. Rows of one object are held out together,
            or not at all. Copies of a row need no groups: they count as one row with their
            weights together.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAE
            The fitted estimator. When fitting fails, it stays as it was.

        Raises
        ------
        KeyboardInterrupt
            When training is interrupted; the best epoch so far is in the estimator.
        """
        with self._all_or_nothing():
            reset = not self._continues()
            return self._fit(self._training_table(X, groups, sample_weight, reset))

    def _training_table(self, X, groups, sample_weight, reset):
        """Return what is trained on: rows of positive weight, copies of a row as one."""
        X = self._check_rows(X, reset=reset, ensure_min_samples=2)
        weight, X, groups = drop_unweighted(sample_weight, X, check_groups(groups, X))
        X = self._choose_columns(X, reset)
        columns = self._find_columns(X) if reset else None
        weight, groups, kept = merge_copies(weight, groups, X)
        return Table(X[kept], weight=weight, groups=groups, columns=columns)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, *, sample_weight=None):
        """Train one pass over X, at a constant learning rate and without held-out rows.

        The first call learns scaling and start from its rows. Later calls keep the scaling, but
        for columns that vary for the first time, and refuse values more than 1e8 of its standard
        deviations away.
        After ``fit`` it goes on with the fitted model. The rate is ``lr``, the peak of that in
        ``fit``: to refine a fitted model, lower it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two in the first call.
        y : Ignored
            Not used, present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAE
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
            n_needed = 2 if reset else 1
            X = self._check_rows(X, reset=reset, ensure_min_samples=n_needed)
            weight, X = drop_unweighted(sample_weight, X, n_needed=n_needed)
            X, columns = self._choose_columns(X, reset), None
            if reset:
                columns = self._find_columns(X)
                weight, _, kept = merge_copies(weight, None, X)
                X = X[kept]
            return self._partial_fit(Table(X, weight=weight, columns=columns))

    def inverse_transform(self, X):
        """Return the decoder's mean, in the units of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Points of the latent space.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            μ(z).
        """
        mean, _ = self._decode(X, with_std=False)
        return self._to_table(mean, True, _index_of(X))

    def reconstruct(self, X, return_std=False):
        """Return mean and standard deviation of p(x' | x) = E[p(x' | z)] over z ~ q(z | x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. Where a cell is unknown (NaN), z is drawn from p(z | known cells).
        return_std : bool, default=False
            Whether to return the standard deviation too.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_features)
            Average of the decoder's means, in the units of X.
        std : ndarray of shape (n_samples, n_features)
            Decoder noise and spread of the decoder's means together, if ``return_std``.
        """
        check_is_fitted(self)
        params = {"statistic": "auto", "with_std": return_std}
        complete = partial(self._mean_and_std, **params)
        incomplete = partial(self._summary_of_incomplete, **params)
        index = _index_of(X)
        mean, std = self._answer_each(complete, incomplete, self._validate_rows(X))
        mean, std = self._to_table(mean, True, index), self._with_all_columns(std)
        return (mean, std) if return_std else mean

    def score_samples(self, X, return_std=False):
        r"""Return log p(x) of each row, estimated by importance sampling.

        .. math:: \log \tfrac1K \sum_k p(x | z_k) \, p(z_k) / r(z_k), \quad z_k \sim r

        of each model, and of several the logarithm of the mean of their densities. A row has as
        many draws as it takes until the standard error is below 0.05 nats: an eighth of
        ``n_draws`` from q(z | x) for a row that is settled by these, else ``n_draws``, 4 or 16
        times ``n_draws`` from q(z | x) and a Gaussian at the mode of p(z | x) [1]_, only of those
        models that matter for the row. In expectation the estimate is a little too low, by half
        the squared error. A row with unknown cells has its draws from q and from Gaussians at
        several modes at once. Rows in float32 are answered in single precision, twice as fast.

        Part of the density, with a weight of 10⁻⁵⁰, is a Cauchy distribution ten times as wide as
        the training rows. It shows only where a row is 115 nats less likely than that: there no
        model says anything that is to be trusted, and the density falls with the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. Where cells are unknown (NaN), the density is that of the known ones: zero
            nats if there are none.
        return_std : bool, default=False
            Whether to return the standard errors too.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Nats, for a density in the units of X.
        std : ndarray of shape (n_samples,)
            The standard error of each estimate by the finite number of draws, if
            ``return_std``. It is an estimate too: beyond about 0.5 it only says that the score is
            poor, and a row unlike the training rows may have a larger error than it tells. All
            rows share the draws, so errors of rows go together: that of a mean is larger than
            independent ones would have.

        References
        ----------
        .. [1] Tierney & Kadane, "Accurate Approximations for Posterior Moments and Marginal
           Densities", Journal of the American Statistical Association 81(393), 1986.
        """
        check_is_fitted(self)
        X = self._validate_rows(X)
        self._warn_of_unsupported(X)
        log_prob, std = self._log_density(X)
        log_prob = self._in_units(log_prob, X)
        return (log_prob, std) if return_std else log_prob

    def _log_density(self, X, member=None, bandwidth=0.0, **params):
        """Return the log density of validated rows in standardised units, and standard errors.

        Of all models together, or of one; blurred by a bandwidth in standardised units, but for
        constant columns. The parameters are those of :func:`log_density`.
        """
        draws, n_first = self._draws_of_each()
        own = slice(None) if member is None else slice(member, member + 1)
        bandwidths = np.where(self._units.standard.is_constant, 0.0, bandwidth)

        def density(modules, x):
            v1, v2, known = self._cells(x)
            modules = modules[own]
            if bandwidth:
                own_bandwidths = torch.from_numpy(bandwidths).to(x)
                modules = [widened(module, own_bandwidths) for module in modules]
            return log_density(modules, v1, v2, draws[own], n_first, known, **params)

        def answer(X):
            return self._answer(density, X, forwards=[self._units.forward])

        return self._answer_each(answer, answer, X)

    def _kinds_of(self, chosen):
        """Return the kinds of some of the columns that are in the model, by name."""
        names = np.delete(self._all_names(), self._unknown_columns).tolist()
        pairs = zip(names, self._units.columns, strict=True)
        return {name: kind for (name, kind), own in zip(pairs, chosen, strict=True) if own}

    def score(self, X, y=None, sample_weight=None):
        """Return the mean of :meth:`score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : Ignored
            Not used, present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Nats a row, comparable with ``score`` of PCA, FactorAnalysis and GaussianMixture.
        """
        log_prob = self.score_samples(X)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return float(np.average(log_prob, weights=sample_weight))

    def elbo(self, X):
        """Return the evidence lower bound of log p(x) for each row, with KL weight one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, for a density in the units of X. The gap to :meth:`score_samples` is the
            divergence of q(z | x) from the exact posterior. Of several models the bound is the
            logarithm of the mean of their bounds' exponentials, and the gap holds all of theirs.
        """
        check_is_fitted(self)
        X, draws = self._validate_rows(X), self._draws()
        self._warn_of_unsupported(X)

        def bound(modules, x):
            v1, v2, known = self._cells(x)
            return (lower_bound(modules, v1, v2, draws, known),)

        def answer(X):
            return self._answer(bound, X, forwards=[self._units.forward])

        (bounds,) = self._answer_each(answer, answer, X)
        return self._in_units(bounds, X)

    def _in_units(self, log_prob, X):
        """Return log densities in the units of X: -inf for a value that a column cannot have."""
        found = (log_prob - self._units.log_abs_det(X)).astype(log_prob.dtype, copy=False)
        if not self._units.is_plain:
            found[self._units.unsupported(X).any(1)] = -np.inf
        return found

    def _warn_of_unsupported(self, X):
        if self._units.is_plain:
            return
        unsupported = self._units.unsupported(X)
        if unsupported.any():
            kinds = self._kinds_of(unsupported.any(0))
            warnings.warn(
                f"{np.sum(unsupported.any(1))} rows have values that their columns cannot have, "
                f"and so a density of zero: {kinds}.",
                UserWarning,
                stacklevel=3,
            )

    def sample(self, n_samples=1, random_state=None, *, given=None):
        """Draw rows: z from the prior, then x from the decoder, its noise included.

        Of several models each row has one, by chance. With ``given`` z comes from
        p(z | given cells): proposed draws of z are weighted by how well they explain these cells,
        up to 16 times as many as a first round has, and each row has one of them by its weight.
        A warning says where that was not enough.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed; None draws afresh at each call.
        given : dict, Series or array-like of shape (n_features,), default=None
            Values that all rows have: by name or position of the column, or a row in which the
            cells that are not given are NaN.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Rows in the units of X.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skgvae import GaussianVAE
        >>> X, _ = load_iris(return_X_y=True)
        >>> vae = GaussianVAE(max_epochs=5, random_state=0).fit(X)
        >>> vae.sample(2, given={0: 5.0}, random_state=0)[:, 0]
        array([5., 5.])
        """
        check_is_fitted(self)
        n_samples = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        (seed,) = draw_seeds(random_state, 1)
        if given is not None:
            return self._sample_given(given, n_samples, seed)
        generator = torch.Generator(self.device_).manual_seed(seed)
        dtype, rng = np.dtype(self._dtype), np.random.default_rng(seed)
        noise = rng.standard_normal((n_samples, self._module_spec["out_features"]), dtype)
        chosen = rng.integers(len(self.modules_), size=n_samples)
        z = np.empty((n_samples, self.n_components_), dtype)
        modules = self._for_inference(dtype)
        for i, count in zip(*np.unique(chosen, return_counts=True), strict=True):
            z[chosen == i] = modules[i].prior.sample(int(count), generator).cpu().numpy()

        def drawn(modules, z, noise, chosen):
            return (drawn_by(modules, z, chosen, noise),)

        (rows,) = self._answer(drawn, z, noise, chosen, inverses=[self._target_units.inverse])
        return self._to_table(rows, True)

    def impute(self, X, n_imputations=None, statistic="auto", random_state=None):
        """Return rows with their unknown cells (NaN) filled in, given the known ones.

        p(unknown | known cells) is a mixture over z and the models. The mean or median of each
        cell is the best guess of that cell, not a possible row: the mean of two clusters lies
        between them, and the cells of one row know nothing of each other. Draws are possible
        rows, with the noise of the decoder. To estimate something together with its error,
        estimate it from each of several imputations and combine the results by Rubin's rules
        [1]_. The draws of z are chosen among at most 16 ``n_draws`` for each row: for thousands
        of draws of one row take ``sample(given=...)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN where a cell is unknown. Also rows of which no cell is known.
        n_imputations : int, default=None
            Number of independent draws. None returns one table of ``statistic``.
        statistic : {"auto", "mean", "median"}, default="auto"
            What to fill in where ``n_imputations`` is None. The mean has the least squared error,
            the median the least absolute error. "auto" is the mean, and in a column on a grid the
            median, which is on the grid. In a category it is the most probable level.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws; None draws afresh at each call.

        Returns
        -------
        ndarray of shape (n_samples, n_features) or (n_imputations, n_samples, n_features)
            Known cells are as they were. The models take turns, and the seed chooses the first: so
            the imputations differ by what is not known of the model too. Columns that were
            unknown throughout in ``fit`` hold what X holds.

        References
        ----------
        .. [1] Rubin, "Multiple Imputation for Nonresponse in Surveys", 1987.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from skgvae import GaussianVAE
        >>> X, _ = load_iris(return_X_y=True)
        >>> X[::3, 2] = np.nan
        >>> vae = GaussianVAE(max_epochs=5, random_state=0).fit(X)
        >>> vae.impute(X).shape, vae.impute(X, n_imputations=5, random_state=0).shape
        ((150, 4), (5, 150, 4))
        """
        check_is_fitted(self)
        if statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {STATISTICS}, got {statistic!r}.")
        table, n, index = self._check_rows(X, reset=False), 1, _index_of(X)
        if n_imputations is not None:
            n = check_scalar(n_imputations, "n_imputations", Integral, min_val=1)
        X = self._with_known_columns(table)
        filled, has_holes = np.repeat(X[None], n, 0), rows_with_holes(X)
        if has_holes.any():
            rows = X[has_holes].astype(np.float64)
            if n_imputations is not None:
                (seed,) = draw_seeds(random_state, 1)
                found = self._draw_incomplete(rows, n, np.random.default_rng(seed))
            else:
                found = self._summary_of_incomplete(rows, statistic)[0]
            filled[:, has_holes] = np.where(np.isnan(rows), found, rows)
        whole = np.broadcast_to(table, (n, *table.shape)).copy()
        whole[..., np.setdiff1d(np.arange(table.shape[1]), self._unknown_columns)] = filled
        return self._with_names(whole[0] if n_imputations is None else whole, True, index)

    # Answers for rows with unknown cells

    def _answer_each(self, complete, incomplete, X):
        """Answer for complete rows and for others, each by a function that returns arrays."""
        has_holes = rows_with_holes(X)
        if not has_holes.any():
            return complete(X)
        found = [part.astype(X.dtype) for part in incomplete(X[has_holes].astype(np.float64))]
        if has_holes.all():
            return found
        whole = []
        for part, other in zip(complete(X[~has_holes]), found, strict=True):
            both = np.empty((len(X), *part.shape[1:]), part.dtype)
            both[~has_holes], both[has_holes] = part, other
            whole.append(both)
        return whole

    def _cells(self, x):
        """Return rows as the encoder sees them, as the decoder gives them, and what is known."""
        v1, known = seen_by_encoder(x, self._sees_holes), ~x.isnan()
        return v1, v1[:, : x.shape[1]], None if known.all() else known

    def _draws_of_each(self):
        """Return draws of z for each model, all that a row can have, and those it has first."""
        n_first = max(MIN_DRAWS, self._n_draws_per_module())
        seeds = [self._draws_seed + m for m in range(len(self.modules_))]
        n_all = ROUNDS[-1] * n_first
        return [cached_draws(n_all, self.n_components_, seed) for seed in seeds], n_first

    def _posterior(self, modules, x, position=None, **params):
        """Return draws of z given the known cells of standardised rows."""
        draws, n_first = self._draws_of_each()
        if position is None:
            n = self._get_valid("n_draws")
            position = ((torch.arange(n, device=x.device) + 0.5) / n).expand(len(x), -1)
        v1, v2, known = self._cells(x)
        draws = draws[: len(modules)]
        return posterior_draws(modules, v1, v2, known, draws, n_first, position, **params)

    def _answer_incomplete(self, function, *arrays, **params):
        # With as many draws as the parameter says of all cells.
        n_numbers = self._get_valid("n_draws") * (self.n_components_ + self._units.n_cells)
        forwards = [self._units.forward, *[np.asarray] * (len(arrays) - 1)]
        return self._answer(function, *arrays, forwards=forwards, size=n_numbers, **params)

    def _encode(self, X, return_std):
        latents = self._latents

        def moments(modules, x):
            z = latents.from_module(self._posterior(modules, x).z)
            return (z.mean(1), z.std(1, correction=0)) if return_std else (z.mean(1),)

        def given(X):
            return self._answer_incomplete(moments, X, n_modules=1)

        return self._answer_each(partial(super()._encode, return_std=return_std), given, X)

    def _summary_of_incomplete(self, X, statistic, with_std=False):
        """Return what stands for each cell, given those that are known, and its deviation."""

        def summary(modules, x):
            found = self._posterior(modules, x)
            loc, log_scale = decoded_by(modules, found.z.transpose(0, 1), found.model.T)
            return self._summary(modules, loc, log_scale.exp(), statistic, with_std)

        return self._answer_incomplete(summary, X)

    def _cells_given_others(self, X, coverage):
        """Return what each cell is expected to be given the other known cells of its row.

        By draws given the whole row, weighed for each cell by one over its density: few of them
        explain the others of a cell that has pulled the row elsewhere.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Validated rows, without the columns that are left out.
        coverage : float
            Of an interval.

        Returns
        -------
        expected, lower, upper, log_prob : ndarray of shape (n_samples, n_features)
            The last in nats, in the units of X.
        """
        units = self._units
        places = torch.from_numpy(units.column_of_cell).to(self.device_)
        tails = (1 - coverage) / 2, (1 + coverage) / 2

        def answers(modules, x):
            found = self._posterior(modules, x)
            loc, log_scale = decoded_by(modules, found.z.transpose(0, 1), found.model.T)
            family, known = modules[0].decoder.family, ~x.isnan()
            log_prob = family.log_prob(x.nan_to_num(), loc, log_scale).where(known, 0.0)
            log_prob = units.by_column(log_prob)
            chosen = given_others(log_prob)
            log_mean = log_prob.gather(0, chosen).logsumexp(0) - math.log(len(chosen))
            loc, log_scale = (a.gather(0, chosen[..., places]) for a in (loc, log_scale))
            expected, _ = self._summary(modules, loc, log_scale.exp(), self._statistic, False)
            ends = (units.quantiles(p, family, loc, log_scale) for p in tails)
            return expected, *map(torch.from_numpy, ends), log_mean

        *moments, log_prob = self._answer_incomplete(answers, X.astype(np.float64))
        return *moments, log_prob - units.log_slopes(X)

    def _draw_incomplete(self, X, n, rng, shared=False):
        """Return n draws of rows given their known cells, of each model in turn.

        With ``shared`` all rows have the same random numbers, n / 2 and their mirror images: what
        a row gets depends on the row alone then, and on average the noise is zero.
        """
        first, n_models = int(rng.integers(len(self.modules_))), len(self.modules_)
        model = (torch.arange(n, device=self.device_) + first) % n_models

        def drawn(modules, x, position, noise):
            found = self._posterior(modules, x, position, model=model)
            return (drawn_by(modules, found.z, found.model, noise),)

        shape = (1, n // 2) if shared else (len(X), n)
        position = rng.uniform(size=shape)
        noise = rng.standard_normal((*shape, self._units.n_cells))
        if shared:
            position = np.tile(np.concatenate([position, 1 - position], 1), (len(X), 1))
            noise = np.tile(np.concatenate([noise, -noise], 1), (len(X), 1, 1))
        own = {"inverses": [self._units.inverse]}
        (rows,) = self._answer_incomplete(drawn, X, position, noise, **own)
        return rows.transpose(1, 0, 2)

    def _sample_given(self, given, n_samples, seed):
        names = getattr(self, "feature_names_in_", ())
        cells = check_given(given, self.n_features_in_, names, self._levels)
        in_vain = self._unknown_columns[~np.isnan(cells[0, self._unknown_columns])]
        if len(in_vain):
            raise ValueError(
                f"given has columns {self._names_of(in_vain)}, of which no cell was known in fit: "
                "they are not in the model."
            )
        known_columns = self._with_known_columns(cells)
        if self._units.unsupported(known_columns).any():
            kinds = self._kinds_of(self._units.unsupported(known_columns)[0])
            raise ValueError(f"given has values that their columns cannot have: {kinds}.")
        row = self._units.forward(known_columns)
        x = torch.from_numpy(row).to(self.device_)
        modules = self._for_inference(np.float64)
        (v1, v2, known), rng = self._cells(x), np.random.default_rng(seed)
        if known is None:
            known = torch.ones_like(v2, dtype=torch.bool)
        generator = torch.Generator(self.device_).manual_seed(seed)
        parts, n_effective = [], 0.0
        for batch in gen_batches(n_samples, MAX_SAMPLES):
            n = batch.stop - batch.start
            n_first = max(self._n_draws_per_module(), MIN_DRAWS, -(-2 * n // len(modules)))
            shape = ROUNDS[-1] * n_first, self.n_components_
            like = {"dtype": torch.float64, "device": self.device_, "generator": generator}
            draws = [torch.randn(shape, **like) for _ in modules]
            position = torch.from_numpy(rng.permutation(n) + rng.uniform(size=n)) / n
            with torch.no_grad():
                found = posterior_draws(
                    modules,
                    v1,
                    v2,
                    known,
                    draws,
                    n_first,
                    position[None].to(v2),
                    n_needed=max(100, -(-n // len(modules))),
                )
                noise = torch.from_numpy(rng.standard_normal((n, v2.shape[1]))).to(v2)
                drawn = drawn_by(modules, found.z[0], found.model[0], noise)
                parts.append(drawn.cpu().numpy())
            n_effective += float(found.n_effective[0])
        if n_effective < max(n_samples / 4, 10):
            warnings.warn(
                f"The rows are worth {n_effective:.0f} independent ones: few draws agree with the "
                "given cells, which are perhaps unlike the training rows, or so many that they "
                "leave little open.",
                UserWarning,
                stacklevel=3,
            )
        rows = self._units.inverse(np.concatenate(parts)).astype(self._dtype)
        rows = self._with_all_columns(rows)
        rows[:, ~np.isnan(cells[0])] = cells[0, ~np.isnan(cells[0])]
        return self._with_names(rows, True)

    def _get_structure(self):
        return super()._get_structure() | {"prior": self.prior, "columns": self.columns}

    def _find_columns(self, X):
        names = np.delete(self._all_names(), self._unknown_columns).tolist()
        said = specs_by_place(self.columns, self._all_names())
        places = np.delete(np.arange(self.n_features_in_), self._unknown_columns)
        found = []
        for name, place, values in zip(names, places.tolist(), X.T, strict=True):
            if place in self._levels:
                if said.get(place, "categorical") != "categorical":
                    raise ValueError(f"Column {name!r} holds names: it can only be categorical.")
                found.append(Column("categorical", levels=self._levels[place]))
            elif place in said:
                found.append(column_as(said[place], values, name))
            else:
                found.append(column_of(values) if self.columns != "continuous" else Column())
        self.columns_ = dict(zip(names, found, strict=True))
        return found

    def _may_bend(self):
        # Student's t on a logarithmic scale has no mean.
        is_normal = NOISE_MODELS[self.noise].family is GaussianNoise
        return self.columns != "continuous" and is_normal

    def _said_to_be_categories(self):
        said = specs_by_place(self.columns, self._all_names())
        return [place for place, spec in said.items() if spec == "categorical"]

    def _set_up(self, table, recipe):
        super()._set_up(table, recipe)
        self._start_floors = self._units.start_floors(self._module_spec["min_noise"])
        if "prior" in self._module_spec or self.prior == "standard":
            return
        if isinstance(self.prior, str) and self.prior != "mixture":
            self._module_spec["prior"] = self.prior
        else:
            n = N_PRIOR_COMPONENTS if self.prior == "mixture" else self.prior
            self._module_spec["n_prior_components"] = int(n)

    def _choose_habits(self, table):
        return INCOMPLETE if rows_with_holes(table.X).any() else self._habits

    def _auto_min_noise(self, target):
        return self._units.noise_floors(target, self._min_noise)

    def _choose_max_noise(self, target, min_noise):
        # No more than the training rows reach: far from them noise that went on growing would
        # make what is farther more likely.
        widest = super()._choose_max_noise(target, min_noise)
        farthest = np.minimum(self._units.farthest(target), widest)
        return np.maximum(farthest, 2 * np.maximum(min_noise, 0.5))

    def _criterion_params(self):
        is_one = self._net_params.get("criterion__n_draws") == 1
        return {"criterion__bound": elbo if is_one else importance_weighted_bound}

    def _new_modules(self, rows):
        self._choice = {}
        modules = super()._new_modules(rows)
        del self._choice
        if "n_prior_components" in self._module_spec:  # the most that any has
            self._module_spec["n_prior_components"] = modules[0].prior.n_components
        self.n_prior_components_ = int(getattr(modules[0].prior, "n_components", 1))
        return modules

    def _start(self, module, rows, i):
        # A classical model of the rows, which a network without linear paths cannot be. The second
        # model starts at random: where the classical one is a trap, it finds what others miss.
        if i == 1 or not self._module_spec.get("linear", True):
            return
        step = -(-len(rows) // MAX_ROWS)
        part = rows.subset(slice(None, None, step)) if step > 1 else rows
        generator = torch.Generator().manual_seed(self._draws_seed)
        cells = module.decoder.family.dithered(part.v2, generator)
        X, weight, known = (
            a if a is None else a.numpy() for a in (cells, part.weight, part.known)
        )
        isotropic = NOISE_MODELS[self._module_spec["noise"]].tied
        floor = self._start_floors**2
        if len(X) < FEW_ROWS:  # which say little of how columns depend on each other
            floor = np.maximum(floor, X.var(0, dtype=np.float64) / len(X))
        own = {"weight": weight, "isotropic": isotropic}
        if "n_prior_components" not in self._module_spec:
            if known is None:
                model = compute_once(factor_analysis, X, self.n_components_, weight, isotropic)
            else:
                model = compute_once(factors_of_known, X, known, self.n_components_, floor, **own)
            if len(X) < FEW_ROWS:
                model = model[0], np.maximum(model[1], floor), model[2]
            module.start_at_factor_analysis(*map(torch.from_numpy, model))
            return
        own |= {
            "floor": np.full_like(floor, floor.max()) if isotropic else floor,
            "seed": self._draws_seed,
            "n_components": None if self.prior == "mixture" else self.prior,
            **self._choice,  # of the first
        }
        if known is None:
            *model, kind = compute_once(mixture_of_rows, X, self.n_components_, **own)
        else:
            *model, kind = compute_once(mixture_of_known, X, known, self.n_components_, **own)
        module.start_at_mixture(*map(torch.from_numpy, model))
        self._choice = {"n_components": module.prior.n_components, "kinds": (kind,)}
        self._module_spec["n_prior_components"] = module.prior.n_components  # of random ones too


def _index_of(table):
    """Return the index of a table of pandas, None of anything else."""
    return getattr(table, "index", None) if hasattr(table, "iloc") else None

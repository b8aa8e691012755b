"""GaussianVAEOutlierDetector: rows that do not belong, and which of their cells make them so."""

import warnings
from numbers import Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.utils import Bunch, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ._fit import DOC_LINK
from ._random import draw_seeds
from ._recipe import Recipe
from ._scaling import rows_with_holes
from ._vae import GaussianVAE

# Chosen by benchmarks/anomaly.py.
N_PRIOR_COMPONENTS = 2  # of the default model: none to spare for a cluster of anomalies
BANDWIDTH = 0.6
TOLERANCE = 0.2  # nats: ranks need no more
# What outliers bend least.
COARSE = {"max_epochs": 0, "prior": "standard", "min_noise": 1.0, "n_estimators": 1, "verbose": 0}
AUTO_P_VALUE = 0.05
SURPRISING = 4.0  # nats more than is typical of a column
SUSPICIOUS = 3.0  # at first sight, which is too low for some
MAX_BLAMED = 3  # cells of a row
N_TYPICAL = 512  # training rows that say what surprise is typical of a column
N_COMPARED = 256  # rows of a model, at most, that a row with unknown cells is compared with
N_COMPLETIONS = 8  # of a row with unknown cells, for its score
N_AT_ONCE = 4096  # rows with a cell hidden


class GaussianVAEOutlierDetector(OutlierMixin, BaseEstimator):
    r"""Find rows that are unlike the training rows, and the cells that make them so.

    The score of a row is its log density under a :class:`GaussianVAE`, blurred a little. The
    detector takes the place of :class:`~sklearn.ensemble.IsolationForest` or
    :class:`~sklearn.neighbors.LocalOutlierFactor`. It takes what the model takes: rows with
    unknown cells (NaN), integers, amounts, names.
    :meth:`explain` says of each cell what was to be expected given the others of its row.

    Parameters
    ----------
    estimator : GaussianVAE, default=None
        The model of the rows. The detector fits a copy. None is ``GaussianVAE(prior=2)``: of more
        Gaussians one might become a cluster of anomalies. A model whose ``random_state`` is None
        takes the detector's.
    bandwidth : float, default=0.6
        Standard deviation of normal noise by which columns of numbers are blurred in the density
        that ranks rows, as a kernel density is, in standard deviations of the column (of its map
        where amounts are mapped). A sharp density is no better at telling anomalies. Constant
        columns and categories are not blurred. 0 ranks by the density of the model. It has no part
        in :meth:`explain`. A change has no effect before the next ``fit``.
    contamination : "auto" or float, default="auto"
        "auto": all rows are trained on, and a row is an outlier if its score is among the lowest
        5 % of scores that models give rows that they have not seen. A number in (0, 0.5] is the
        share of the training rows that ``predict`` calls outliers; fewer are so where scores are
        equal. As large a share has no part in the training of the model then: the rows that
        probabilistic PCA finds least likely, which need not be the same.
    random_state : int, RandomState instance or None, default=None
        Seed of the model, if it has none.

    Attributes
    ----------
    estimator_ : GaussianVAE
        The fitted model.
    offset_ : float
        The score below which a row is an outlier. With a number for ``contamination`` it is a
        quantile of the scores that the training rows have by all models.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string names.

    See Also
    --------
    GaussianVAE : The model.
    sklearn.ensemble.IsolationForest : Outliers are isolated by few random splits.
    sklearn.neighbors.LocalOutlierFactor : Outliers are less dense than their neighbours.

    Notes
    -----
    A cluster of anomalies among the training rows is learned like any other cluster. Say with
    ``contamination`` that there may be such.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE, GaussianVAEOutlierDetector
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = GaussianVAE(max_epochs=5)
    >>> detector = GaussianVAEOutlierDetector(model, random_state=0).fit(X)
    >>> row = X[:1].copy()
    >>> row[0, 1] = 9.0
    >>> detector.predict(row)
    array([-1])
    >>> int(detector.explain(row).surprise.argmax())
    1
    """

    _parameter_constraints: dict = {
        "estimator": [GaussianVAE, None],
        "bandwidth": [Interval(Real, 0, None, closed="left")],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    def __init__(
        self, estimator=None, *, bandwidth=BANDWIDTH, contamination="auto", random_state=None
    ):
        self.estimator = estimator
        self.bandwidth = bandwidth
        self.contamination = contamination
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "offset_")

    @property
    def n_features_in_(self):
        """Return the number of features."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):
        """Return the names of the features."""
        return self.estimator_.feature_names_in_

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, groups=None, sample_weight=None):
        """Train the model, and learn which scores are low.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two.
        y : Ignored
            Not used, present for API consistency.
        groups : array-like of shape (n_samples,), default=None
            The object that each row was measured on, as for :meth:`GaussianVAE.fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : GaussianVAEOutlierDetector
            The fitted detector.
        """
        model = self.estimator
        model = GaussianVAE(prior=N_PRIOR_COMPONENTS) if model is None else clone(model)
        if model.random_state is None:
            model.set_params(random_state=draw_seeds(self.random_state, 1)[0])
        trained_on, is_left_out = sample_weight, None
        if self.contamination != "auto":
            coarse = clone(model).set_params(**COARSE)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the model says the same
                coarse.fit(X, groups=groups, sample_weight=sample_weight)
            scores = _scores(coarse, coarse._validate_rows(X), self.bandwidth)
            weight = _check_sample_weight(sample_weight, scores, dtype=np.float64)
            is_left_out = scores < _quantile(self.contamination, scores, weight)
            trained_on = np.where(is_left_out, 0.0, weight)
            if (n := np.count_nonzero(trained_on)) < 2:
                raise ValueError(
                    f"contamination={self.contamination} leaves {n} row to train on, two are "
                    "needed."
                )
        model.fit(X, groups=groups, sample_weight=trained_on)
        table = model._training_table(X, groups, trained_on, reset=False)
        if is_left_out is None:
            unseen = _unseen_rows(model, table, self.bandwidth)
            _, weight, scores = map(np.concatenate, zip(*unseen, strict=True))
            offset = _quantile(AUTO_P_VALUE, scores, weight)
        else:
            rows = model._validate_rows(X)
            left_out = rows[is_left_out], weight[is_left_out] / trained_on.sum()
            unseen = _unseen_rows(model, table, self.bandwidth, *left_out)
            scores = _scores(model, rows, self.bandwidth)
            offset = _quantile(self.contamination, scores, weight)
        limits, typical = model._units.limited_to(table.X), _typical_surprise(model, table)
        self.estimator_, self.offset_, self._bandwidth = model, offset, self.bandwidth
        self._unseen, self._limits, self._typical = unseen, limits, typical
        return self

    def score_samples(self, X):
        """Return the blurred log density of each row, in nats: the lower, the more abnormal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. A row with unknown cells (NaN) has the mean over eight completions, draws given
            its known cells: so it can be ranked among complete rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            With a standard error of 0.2 nats or less for most complete rows, as ranks need no
            more.
        """
        check_is_fitted(self)
        return _scores(self.estimator_, self._checked(X), self._bandwidth)

    def decision_function(self, X):
        """Return ``score_samples(X) - offset_``: outliers are below zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Return -1 for outliers and 1 for other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of int, of shape (n_samples,)
            -1 where the score is below ``offset_``.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X):
        r"""Return how often a row from the training distribution has a density as low.

        .. math:: p(x) = \frac{1 + \sum_i \#\{j \in \text{fold } i: s_i(x_j) \le s_i(x)\}}{n + 1}

        with the blurred log density s of model i, and n rows in the folds. Each model compares the
        row with the training rows that it has not seen (cross-conformal prediction [1]_), and with
        its part of the rows that ``contamination`` has left out. Rows with unknown cells are
        compared with at most 256 rows of each model, in which the same cells are hidden; what was
        unknown in training rows is filled with draws of the model. Where complete rows are like
        complete training rows, p ≤ α has a probability of about α. The least p-value is one over
        one more than the rows compared with, of which each counts with its weight.

        By default these are all training rows, but for those of a fold beyond 4096; fewer models
        have fewer folds. Where nothing was held out (few rows, ``max_epochs=0`` or
        ``validation_fraction=None``), all models have seen all rows, and fresh rows have p-values
        that are too small.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. Each pattern of unknown cells takes as long as about a thousand rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Numbers in (0, 1].

        References
        ----------
        .. [1] Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial
           Intelligence 74, 2015, arXiv:1208.0806.
        """
        check_is_fitted(self)
        rows = self._checked(X)
        patterns, own_pattern = np.unique(np.isnan(rows), axis=0, return_inverse=True)
        found = np.empty(len(rows))
        for k, hidden in enumerate(patterns):
            own = own_pattern == k
            found[own] = self._p_values(rows[own], hidden)
        return found

    def _p_values(self, rows, hidden):
        model, below, total = self.estimator_, np.ones(len(rows)), 1.0
        for i, (unseen, weight, scores) in enumerate(self._unseen):
            if hidden.any():
                step = max(1, -(-len(unseen) // N_COMPARED))
                weight = weight[::step]
                alike = np.where(hidden, np.nan, unseen[::step])
                scores = _density(model, alike, self._bandwidth, i)
            order, own = np.argsort(scores), _density(model, rows, self._bandwidth, i)
            up_to = np.concatenate([[0.0], np.cumsum(weight[order])])
            place = np.searchsorted(scores[order], own, side="right")
            below, total = below + up_to[place], total + up_to[-1]
        return below / total

    def explain(self, X, coverage=0.9):
        r"""Return what each cell was expected to be given the others of its row.

        .. math:: \text{surprise}_j = \log p(x_{-j}) - \log p(x) - \text{typical}_j

        A wrong cell makes right ones look wrong. So cells further outside the range of the
        training rows than that is wide count as unknown for the others; then, where the surprise
        of a cell is above 4 nats, the most surprising one, three at most. Of rows with a cell that
        is surprising at first sight all densities are computed, one for each cell and cell to
        blame, a few milliseconds each. Of other rows, and for what was expected, draws of the
        latents given the whole row are weighed so that they are draws given all cells but one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Probability of an interval, in (0, 1).

        Returns
        -------
        sklearn.utils.Bunch
            ``expected``, ``lower`` and ``upper``, arrays of shape (n_samples, n_features) in the
            units of X: the mean (on a grid the median, of a category the most probable level)
            and a central interval, NaN for categories. ``surprise``, of the same shape, in nats:
            -log p(cell given the others) less the median of that over the training rows; NaN for
            unknown cells, infinite for values that a column cannot have. All are NaN in columns
            that were unknown throughout in ``fit``. ``frame``: where pandas is there, a table of
            cells with a surprise above 4, the largest first, with ``row`` (its index in a table of
            pandas, else its position), ``column``, ``value`` and the above; else None.

        Raises
        ------
        ValueError
            If ``coverage`` is not in (0, 1).
        """
        check_is_fitted(self)
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be in (0, 1), got {coverage!r}.")
        model = self.estimator_
        table = model._check_rows(X, reset=False)
        rows = model._with_known_columns(table).astype(np.float64)
        is_possible = ~model._units.unsupported(rows)
        rows[~is_possible] = np.nan
        *moments, log_prob = model._cells_given_others(rows, coverage)
        surprise = np.where(np.isnan(rows), np.nan, -log_prob - self._typical)
        is_far = self._are_far(rows)
        is_odd = ((surprise > SUSPICIOUS) | is_far).any(1)
        if is_odd.any():
            surprise[is_odd], seen = self._blame(rows[is_odd], is_far[is_odd])
            *again, _ = model._cells_given_others(seen, coverage)
            for whole, part in zip(moments, again, strict=True):
                whole[is_odd] = part
        surprise[~is_possible] = np.inf
        expected, lower, upper, surprise = map(model._with_all_columns, (*moments, surprise))
        found = Bunch(
            expected=model._with_names(expected), lower=lower, upper=upper, surprise=surprise
        )
        found.frame = _surprising_cells(X, model._with_names(table), model._all_names(), **found)
        return found

    def _checked(self, X):
        rows = self.estimator_._validate_rows(X)
        self.estimator_._warn_of_unsupported(rows)
        return rows

    def _are_far(self, rows):
        """Say which cells lie beyond the range of the training rows, widened by itself."""
        units = self.estimator_._units
        is_far = (units.forward(rows) != self._limits.forward(rows)).astype(np.float64)
        return (units.by_column(torch.from_numpy(is_far)).numpy() > 0) & ~np.isnan(rows)

    def _blame(self, rows, is_far):
        """Return the surprise of each cell, and the rows without the cells that are to blame."""
        seen, surprise = np.where(is_far, np.nan, rows), np.empty(rows.shape)
        todo = np.arange(len(rows))
        for n_blamed in range(MAX_BLAMED + 1):
            surprise[todo] = self._surprise(rows[todo], seen[todo])
            left = np.where(np.isnan(seen[todo]), -np.inf, surprise[todo])
            is_wrong = (left > SURPRISING).any(1)
            todo, worst = todo[is_wrong], left[is_wrong].argmax(1)
            if n_blamed == MAX_BLAMED or not len(todo):
                break
            seen[todo, worst] = np.nan
        return surprise, seen

    def _surprise(self, rows, seen):
        """Return log p(others) - log p(others and the cell) for each known cell, less the typical.

        The others are cells that are seen. A cell to blame is not seen, and has a surprise too.
        """
        model, found = self.estimator_, np.full(rows.shape, np.nan)

        # Of several wrong cells each should count: so there is nothing that bounds the density.
        params = {"tolerance": TOLERANCE, "has_background": False}

        def log_density(rows):
            return model._in_units(model._log_density(rows, **params)[0], rows)

        for part in gen_batches(len(rows), max(1, N_AT_ONCE // rows.shape[1])):
            with_others = log_density(seen[part])
            i, j = np.nonzero(~np.isnan(rows[part]))
            is_seen, other = ~np.isnan(seen[part][i, j]), seen[part][i]
            other[np.arange(len(i)), j] = np.where(is_seen, np.nan, rows[part][i, j])
            gain = np.where(is_seen, 1, -1) * (log_density(other) - with_others[i])
            found[part][i, j] = gain - self._typical[j]
        return found


def _density(model, rows, bandwidth, member=None):
    """Return the blurred log density of the known cells of rows, by all models or by one."""
    log_prob, _ = model._log_density(rows, member, bandwidth, tolerance=TOLERANCE)
    return model._in_units(log_prob, rows)


def _scores(model, rows, bandwidth):
    """Return the blurred log density of rows; of those with unknown cells what is expected."""
    has_holes = rows_with_holes(rows)
    scores = np.empty(len(rows), rows.dtype)
    if not has_holes.all():
        scores[~has_holes] = _density(model, rows[~has_holes], bandwidth)
    places = np.flatnonzero(has_holes)
    for start in range(0, len(places), N_AT_ONCE):
        own = places[start : start + N_AT_ONCE]
        whole = _completed(model, rows[own], N_COMPLETIONS, shared=True)
        scores[own] = np.mean([_density(model, one, bandwidth) for one in whole], 0)
    return scores


def _completed(model, rows, n, shared):
    """Return rows n times, their unknown cells drawn given the known ones."""
    rows, rng = rows.astype(np.float64), np.random.default_rng(model._draws_seed)
    drawn = model._draw_incomplete(rows, n, rng, shared=shared)
    return np.where(np.isnan(rows), drawn, rows)


def _unseen_rows(model, table, bandwidth, left_out=None, left_out_share=None):
    """Return for each model rows that it has not seen, their weights and their scores.

    They are complete, to be compared with any row: unknown cells are drawn. Rows that were left
    out, of a weight relative to that of all others, are dealt out to the models.
    """
    recipe, n_models = Recipe(**model._recipe), len(model.modules_)
    folds = model._folds_of(table, recipe)
    rows, weight = table.X, np.ones(len(table.X)) if table.weight is None else table.weight
    n_parts = n_models if folds is None else min(n_models, recipe.n_folds)
    if folds is None:  # all models have seen all rows
        rows, weight = np.tile(rows, (n_models, 1)), np.tile(weight / n_models, n_models)
        folds = np.repeat(np.arange(n_models), len(table.X))
    if left_out is not None:
        total = weight[(folds >= 0) & (folds < n_parts)].sum()
        rows, weight = np.vstack([rows, left_out]), np.append(weight, total * left_out_share)
        folds = np.append(folds, np.arange(len(left_out)) % n_parts)
    found = []
    for i in range(n_parts):
        own = folds == i
        whole, has_holes = rows[own], rows_with_holes(rows[own])
        if has_holes.any():
            (whole[has_holes],) = _completed(model, whole[has_holes], 1, shared=False)
        found.append((whole, weight[own], _density(model, whole, bandwidth, i)))
    return found


def _typical_surprise(model, table):
    """Return the median surprise of each column in some of the training rows."""
    n = min(len(table.X), N_TYPICAL)
    chosen = np.random.default_rng(model._draws_seed).choice(len(table.X), n, replace=False)
    rows, weight = table.X[chosen], np.ones(n) if table.weight is None else table.weight[chosen]
    surprise, typical = -model._cells_given_others(rows, 0.5)[-1], np.zeros(rows.shape[1])
    for j, is_known in enumerate(~np.isnan(rows).T):
        if is_known.any():
            typical[j] = _quantile(0.5, surprise[is_known, j], weight[is_known])
    return typical


def _quantile(share, scores, weight):
    """Return the score below which rows have such a share of all weight, as nearly as can be."""
    order = np.argsort(scores)
    total = np.cumsum(weight[order])
    place = np.searchsorted(total, share * total[-1] * (1 + 1e-12), side="right")
    return float(scores[order[min(place, len(order) - 1)]])


def _surprising_cells(X, table, names, surprise, **others):
    try:
        import pandas
    except ImportError:
        return None
    i, j = np.nonzero(np.nan_to_num(surprise) > SURPRISING)
    order = np.argsort(-surprise[i, j], kind="stable")
    i, j = i[order], j[order]
    index = X.index if hasattr(X, "iloc") else np.arange(len(table))
    columns = {"row": index[i], "column": np.asarray(names, dtype=object)[j], "value": table[i, j]}
    columns |= {name: cells[i, j] for name, cells in others.items()}
    return pandas.DataFrame(columns | {"surprise": surprise[i, j]})

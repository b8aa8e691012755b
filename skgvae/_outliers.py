"""GaussianVAEOutlierDetector: rows that do not belong, and which of their cells make them so."""

from numbers import Real

import numpy as np
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
        in :meth:`explain`.
    contamination : "auto" or float, default="auto"
        "auto": all rows are trained on, and a row is an outlier if its score is among the lowest
        5 % of scores that models give rows that they have not seen. A number in (0, 0.5] is the
        share of the training rows that ``predict`` calls outliers. As large a share has no part in
        the training of the model then: the rows that probabilistic PCA finds least likely, which
        need not be the same.
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
        trained_on = sample_weight
        if self.contamination != "auto":
            coarse = clone(model).set_params(**COARSE)
            coarse.fit(X, groups=groups, sample_weight=sample_weight)
            scores = self._scores(coarse, coarse._validate_rows(X))
            weight = _check_sample_weight(sample_weight, scores, dtype=np.float64)
            trained_on = weight * (scores >= _quantile(self.contamination, scores, weight))
            if np.count_nonzero(trained_on) < 2:
                raise ValueError(
                    f"contamination={self.contamination} leaves "
                    f"{np.count_nonzero(trained_on)} row to train on, two are needed."
                )
        model.fit(X, groups=groups, sample_weight=trained_on)
        table = model._training_table(X, groups, trained_on, reset=False)
        unseen = self._unseen_rows(model, table)
        if self.contamination == "auto":
            _, own_weight, own_scores = (
                np.concatenate(part) for part in zip(*unseen, strict=True)
            )
            offset = _quantile(AUTO_P_VALUE, own_scores, own_weight)
        else:
            scores = self._scores(model, model._validate_rows(X))
            offset = _quantile(self.contamination, scores, weight)
        typical = _typical_surprise(model, table)
        self.estimator_, self.offset_ = model, offset
        self._unseen, self._typical = unseen, typical
        return self

    def _unseen_rows(self, model, table):
        """Return for each model rows that it has not seen, their weights and their scores.

        Their unknown cells are filled by a draw: so they can be compared with any row.
        """
        rows = table.X.copy()
        has_holes = rows_with_holes(rows)
        if has_holes.any():
            holes, rng = (
                rows[has_holes].astype(np.float64),
                np.random.default_rng(model._draws_seed),
            )
            (drawn,) = model._draw_incomplete(holes, 1, rng)
            rows[has_holes] = np.where(np.isnan(holes), drawn, holes)
        weight = np.ones(len(rows)) if table.weight is None else table.weight
        folds, n_models = model._folds_of(table, Recipe(**model._recipe)), len(model.modules_)
        if folds is None:  # all models have seen all rows
            weight, chosen = weight / n_models, [np.ones(len(rows), bool)] * n_models
        else:
            chosen = [folds == i for i in range(n_models)]
        return [
            (rows[own], weight[own], self._density(model, rows[own], i))
            for i, own in enumerate(chosen)
        ]

    def _density(self, model, rows, member=None):
        """Return the blurred log density of the known cells of rows, by all models or by one."""
        log_prob, _ = model._log_density(rows, member, self.bandwidth, tolerance=TOLERANCE)
        return model._in_units(log_prob, rows)

    def _scores(self, model, rows):
        """Return the blurred log density of rows; of those with unknown cells what is expected."""
        has_holes = rows_with_holes(rows)
        scores = np.empty(len(rows), rows.dtype)
        if not has_holes.all():
            scores[~has_holes] = self._density(model, rows[~has_holes])
        for part in np.array_split(
            np.flatnonzero(has_holes), -(-has_holes.sum() // N_AT_ONCE) or 1
        ):
            if len(part):
                holes, rng = (
                    rows[part].astype(np.float64),
                    np.random.default_rng(model._draws_seed),
                )
                drawn = model._draw_incomplete(holes, N_COMPLETIONS, rng, shared=True)
                whole = np.where(np.isnan(holes), drawn, holes)
                scores[part] = np.mean([self._density(model, own) for own in whole], 0)
        return scores

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
        rows = self.estimator_._validate_rows(X)
        self.estimator_._warn_of_unsupported(rows)
        return self._scores(self.estimator_, rows)

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
        row with the training rows that it has not seen (cross-conformal prediction [1]_). Rows
        with unknown cells are compared with at most 256 rows of each model, in which the same
        cells are hidden; what was unknown in training rows is filled with draws of the model.
        Where complete rows are like complete training rows, p ≤ α has a probability of about α.
        The least p-value is 1 / (n + 1). By default all rows are in the folds of the five models;
        fewer models have fewer folds. Where nothing was held out (few rows, or
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
        rows = self.estimator_._validate_rows(X)
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
                scores = self._density(model, np.where(hidden, np.nan, unseen[::step]), i)
            order = np.argsort(scores)
            up_to = np.concatenate([[0.0], np.cumsum(weight[order])])
            place = np.searchsorted(scores[order], self._density(model, rows, i), side="right")
            below, total = below + up_to[place], total + up_to[-1]
        return below / total

    def explain(self, X, coverage=0.9):
        r"""Return what each cell was expected to be given the others of its row.

        .. math:: \text{surprise}_j = \log p(x_{-j}) - \log p(x) - \text{typical}_j

        Of outliers, and of rows with a cell that is surprising at first sight, the most surprising
        cell is to blame if its surprise is above 4 nats. It counts as unknown for the others, as a
        wrong cell makes right ones look wrong. So do at most three cells of a row, one after the
        other. Of such rows all densities are computed, one for each cell and cell to blame, a few
        milliseconds each. Of other rows, and for what was expected, draws of the latents given the
        whole row are weighed so that they are draws given all cells but one.

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
        seen = np.where(model._units.unsupported(rows), np.nan, rows)
        *moments, log_prob = model._cells_given_others(seen, coverage)
        surprise = np.where(np.isnan(seen), np.nan, -log_prob - self._typical)
        is_odd = (surprise > SURPRISING).any(1) | (self._scores(model, rows) < self.offset_)
        if is_odd.any():
            surprise[is_odd], seen[is_odd] = self._blame(seen[is_odd])
        changed = (np.isnan(seen) & ~np.isnan(rows)).any(1)
        if changed.any():
            *again, _ = model._cells_given_others(seen[changed], coverage)
            for whole, part in zip(moments, again, strict=True):
                whole[changed] = part
        surprise[model._units.unsupported(rows)] = np.inf
        expected, lower, upper, surprise = map(model._with_all_columns, (*moments, surprise))
        found = Bunch(
            expected=model._with_names(expected), lower=lower, upper=upper, surprise=surprise
        )
        found.frame = _surprising_cells(X, model._with_names(table), model._all_names(), **found)
        return found

    def _blame(self, rows):
        """Return the surprise of each cell, and the rows without the cells that are to blame."""
        seen, found, todo = rows.copy(), np.full(rows.shape, np.nan), np.arange(len(rows))
        for n_blamed in range(MAX_BLAMED + 1):
            surprise = self._surprise(seen[todo])
            # A cell that is blamed keeps the surprise that it was blamed for.
            found[todo] = np.where(np.isnan(surprise), found[todo], surprise)
            surprise = np.nan_to_num(surprise, nan=-np.inf)
            worst, is_wrong = surprise.argmax(1), (surprise > SURPRISING).any(1)
            todo, worst = todo[is_wrong], worst[is_wrong]
            if n_blamed == MAX_BLAMED or not len(todo):
                break
            seen[todo, worst] = np.nan
        return found, seen

    def _surprise(self, rows):
        """Return log p(row without the cell) - log p(row) of each known cell, less the typical."""
        model, found = self.estimator_, np.full(rows.shape, np.nan)

        # Of several wrong cells each should count: so there is nothing that bounds the density.
        params = {"tolerance": TOLERANCE, "has_background": False}

        def log_density(rows):
            return model._in_units(model._log_density(rows, **params)[0], rows)

        for part in gen_batches(len(rows), max(1, N_AT_ONCE // rows.shape[1])):
            whole = log_density(rows[part])
            i, j = np.nonzero(~np.isnan(rows[part]))
            less = rows[part][i]
            less[np.arange(len(i)), j] = np.nan
            found[part][i, j] = log_density(less) - whole[i] - self._typical[j]
        return found


def _typical_surprise(model, table):
    """Return the median surprise of each column in some of the training rows."""
    n = min(len(table.X), N_TYPICAL)
    share = None if table.weight is None else table.weight / table.weight.sum()
    rng = np.random.default_rng(model._draws_seed)
    rows = table.X[rng.choice(len(table.X), n, replace=False, p=share)]
    surprise = np.ma.masked_array(-model._cells_given_others(rows, 0.5)[-1], np.isnan(rows))
    return np.ma.median(surprise, axis=0).filled(0.0)


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

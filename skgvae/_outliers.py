"""GaussianVAEOutlierDetector: rows that do not belong, and which of their cells make them so."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.utils import Bunch, check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ._fit import DOC_LINK
from ._random import draw_seeds
from ._recipe import Recipe
from ._vae import GaussianVAE

# Chosen by benchmarks/anomaly.py.
N_PRIOR_COMPONENTS = 2  # of the default model: none to spare for a cluster of anomalies
BANDWIDTH = 0.6
TOLERANCE = 0.2  # nats: ranks need no more
COARSE = {"max_epochs": 0, "prior": "standard", "min_noise": 1.0}  # what outliers bend least
AUTO_P_VALUE = 0.05
SURPRISING = 4.0  # nats more than is typical of a column
MAX_BLAMED = 3  # cells of a row
N_TYPICAL = 256  # training rows that say what surprise is typical of a column
MIN_COMPARED = 20  # rows that a p-value of an incomplete row needs


class GaussianVAEOutlierDetector(OutlierMixin, BaseEstimator):
    r"""Find rows that are unlike the training rows, and the cells that make them so.

    The score of a row is its log density under a :class:`GaussianVAE`, blurred a little. It takes
    the place of
    :class:`~sklearn.ensemble.IsolationForest` or :class:`~sklearn.neighbors.LocalOutlierFactor`,
    and takes what the model takes: rows with unknown cells (NaN), integers, amounts, names.
    :meth:`explain` says of each cell what was to be expected given the others of its row.

    Parameters
    ----------
    estimator : GaussianVAE, default=None
        The model of the rows. The detector fits a copy. None is ``GaussianVAE(prior=2)``: of more
        Gaussians one might become a cluster of anomalies. A model whose ``random_state`` is None
        takes the detector's.
    bandwidth : float, default=0.6
        Standard deviation of normal noise by which each column is blurred in the density that
        ranks rows, as a kernel density is, in standard deviations of the column. A sharp density
        is no better at telling anomalies. 0 ranks by the log density of the model. It has no part
        in :meth:`explain`.
    contamination : "auto" or float, default="auto"
        The share of the training rows that are outliers, in (0, 0.5]. So many rows, those that
        probabilistic PCA finds least likely, have no part in the training of the model then.
        "auto": all rows are trained on, and a row is an outlier if its score is among the lowest
        5 % of scores of rows that a model has not seen.
    random_state : int, RandomState instance or None, default=None
        Seed of the model, if it has none.

    Attributes
    ----------
    estimator_ : GaussianVAE
        The fitted model.
    offset_ : float
        The score below which a row is an outlier.
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
            scores = coarse.fit(X, groups=groups, sample_weight=sample_weight).score_samples(X)
            all_weight = _check_sample_weight(sample_weight, scores, dtype=np.float64)
            is_likely = scores >= _quantile(self.contamination, scores, all_weight)
            trained_on = all_weight * is_likely
        model.fit(X, groups=groups, sample_weight=trained_on)
        table = model._training_table(X, groups, trained_on, reset=False)
        weight = np.ones(len(table.X)) if table.weight is None else table.weight
        folds = model._folds_of(table, Recipe(**model._recipe))
        self._unseen = []
        for i in range(len(model.modules_)):
            own = slice(None) if folds is None else folds == i
            self._unseen.append((table.X[own], weight[own], self._scores(model, table.X[own], i)))
        if self.contamination == "auto":
            _, weight, scores = (np.concatenate(part) for part in zip(*self._unseen, strict=True))
            offset = _quantile(AUTO_P_VALUE, scores, weight)
        else:
            scores = self._scores(model, model._validate_rows(X))
            offset = _quantile(self.contamination, scores, all_weight)
        rows = table.X[:: -(-len(table.X) // N_TYPICAL)]
        surprise = np.ma.masked_array(-model._cells_given_others(rows, 0.5)[-1], np.isnan(rows))
        self._typical = np.ma.median(surprise, axis=0).filled(0.0)
        self.estimator_, self.offset_ = model, offset
        return self

    def _scores(self, model, rows, member=None):
        """Return the blurred log density of validated rows, of all models or of one."""
        log_prob, _ = model._log_density(rows, member, self.bandwidth, TOLERANCE)
        return model._in_units(log_prob, rows)

    def score_samples(self, X):
        """Return the blurred log density of each row, in nats: the lower, the more abnormal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. Of a row with unknown cells (NaN) it is that of the known ones, which is no
            measure beside complete rows: :meth:`p_values` compares with the like.

        Returns
        -------
        ndarray of shape (n_samples,)
            With a standard error of 0.2 nats or less for most rows, as ranks need no more.
        """
        check_is_fitted(self)
        return self._scores(self.estimator_, self.estimator_._validate_rows(X))

    def decision_function(self, X):
        """Return ``score_samples(X) - offset_``: outliers are below zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
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
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X):
        r"""Return how often a row from the training distribution has a score as low.

        .. math:: p(x) = \frac{1 + \sum_i \#\{j \in \text{fold } i: s_i(x_j) \le s_i(x)\}}{n + 1}

        Each model compares the row with the training rows that it has not seen (cross-conformal
        prediction [1]_). Rows with unknown cells are compared with training rows in which the
        same cells are hidden. Where the rows are like the training rows, a p-value below α has a
        probability of about α: a cut at 0.001 flags one clean row in a thousand, if there are
        thousands of training rows. Where nothing was held out (few rows, or
        ``validation_fraction=None``), p-values are too large.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

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
        knows = [~np.isnan(unseen[:, ~hidden]).any(1) for unseen, _, _ in self._unseen]
        has_few = sum(np.count_nonzero(k) for k in knows) < MIN_COMPARED
        for i, (unseen, weight, scores) in enumerate(self._unseen):
            own = slice(None) if has_few else knows[i]
            unseen, weight, scores = unseen[own], weight[own], scores[own]
            if hidden.any() and len(unseen):
                scores = self._scores(model, np.where(hidden, np.nan, unseen), i)
            order = np.argsort(scores)
            total_of = np.concatenate([[0.0], np.cumsum(weight[order])])
            place = np.searchsorted(scores[order], self._scores(model, rows, i), side="right")
            below, total = below + total_of[place], total + total_of[-1]
        return below / total

    def explain(self, X, coverage=0.9):
        """Return what each cell was expected to be given the others of its row.

        For rows that are no outliers, from draws of the latents given the whole row, weighed for
        each cell so that they are draws given all others. Of outliers, and of rows with a cell
        that is surprising then, each cell is hidden in turn and draws are taken given the others:
        this takes milliseconds a cell. The most surprising cell of a row, if its surprise is above
        4, counts as unknown for the others, as a wrong cell makes right ones look wrong; so do at
        most three cells of a row.

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
            and a central interval, NaN for categories. ``surprise``, of the same shape:
            -log p(cell given the others) less the median of that over the training rows, in
            nats; NaN for unknown cells. ``frame``: where pandas is there, a table of cells with a
            surprise above 4, the largest first, with ``row`` (its index in a table of pandas,
            else its position), ``column``, ``value`` and the above; else None.
        """
        check_is_fitted(self)
        check_scalar(
            coverage, "coverage", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        model = self.estimator_
        table = model._check_rows(X, reset=False)
        rows = model._with_known_columns(table).astype(np.float64)

        seen, todo = rows.copy(), np.arange(len(rows))
        is_odd = self._scores(model, rows) < self.offset_
        found = [np.empty(rows.shape) for _ in range(4)]
        for _ in range(MAX_BLAMED + 1):
            own = model._cells_given_others(seen[todo], coverage)
            is_odd |= (-own[-1] - self._typical > SURPRISING).any(1)
            i, j = np.nonzero(is_odd[:, None] & ~np.isnan(seen[todo]))
            if len(i):
                hidden = model._cells_given_others(seen[todo][i], coverage, hidden=j)
                for whole, part in zip(own, hidden, strict=True):
                    whole[i, j] = part[np.arange(len(i)), j]
            # What is blamed already keeps what the others said of it.
            is_blamed = np.isnan(seen[todo]) & ~np.isnan(rows[todo])
            for whole, part in zip(found, own, strict=True):
                whole[todo] = np.where(is_blamed, whole[todo], part)
            surprise = np.where(np.isnan(seen[todo]), -np.inf, -own[-1] - self._typical)
            worst = surprise.argmax(1)
            blamed = np.flatnonzero(surprise[np.arange(len(todo)), worst] > SURPRISING)
            if not len(blamed):
                break
            todo, worst = todo[blamed], worst[blamed]
            seen[todo, worst] = np.nan
            is_odd = np.zeros(len(todo), bool)
        surprise = np.where(np.isnan(rows), np.nan, -found[-1] - self._typical)
        expected, lower, upper, surprise = (
            model._with_all_columns(part) for part in (*found[:3], surprise)
        )
        named = Bunch(expected=model._with_names(expected), lower=lower, upper=upper,
                      surprise=surprise)  # fmt: skip
        named.frame = _surprising_cells(X, model._with_names(table), model._all_names(), **named)
        return named


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

"""GaussianVAEImputer: a GaussianVAE in the place of scikit-learn's imputers."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.impute import MissingIndicator
from sklearn.utils import check_array
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils._param_validation import MissingValues, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from ._columns import are_equal, are_unknown, columns_of_table, dtypes_of, objects_of, with_dtypes
from ._fit import DOC_LINK, DTYPES
from ._vae import STATISTICS, GaussianVAE
from ._validation import drop_unweighted, refuse_dates, with_nan


class GaussianVAEImputer(TransformerMixin, BaseEstimator):
    """Fill in missing values with what a GaussianVAE expects, given the known cells of a row.

    It takes the place of :class:`~sklearn.impute.SimpleImputer`,
    :class:`~sklearn.impute.KNNImputer` or :class:`~sklearn.impute.IterativeImputer`.

    The mean of a cell is the best guess of that cell, and a row of such means is no possible row.
    To do an analysis with several possible tables (multiple imputation), use
    :meth:`GaussianVAE.impute <skgvae.GaussianVAE.impute>` with ``n_imputations``.

    Parameters
    ----------
    estimator : GaussianVAE, default=None
        The model of the rows. The imputer fits a copy. None is ``GaussianVAE()``. A model whose
        ``random_state`` is None takes the imputer's.
    missing_values : int, float, np.nan or pandas.NA, default=np.nan
        The value that marks a missing cell. NaN in X is an error if the marker is a number.
    statistic : {"auto", "mean", "median"}, default="auto"
        What fills a missing cell. The mean has the least squared error, the median the least
        absolute error. "auto" is the mean, and in a column on a grid the median, which is on the
        grid. A category gets its most probable level. It is not used if
        ``sample_posterior=True``.
    sample_posterior : bool, default=False
        Whether ``transform`` fills the missing cells of a row with one random draw. Draws are
        possible values, with the noise of the data; their errors are larger than those of the
        mean.
    add_indicator : bool, default=False
        Whether ``transform`` appends a column of zeros and ones for each feature that has missing
        values in ``fit``. One marks a cell that was missing.
    keep_empty_features : bool, default=False
        Whether to return features that have no known cell in ``fit``. Their missing cells are
        filled with 0. By default ``transform`` drops these features, with a warning.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws, and of the model if the model has none. An int gives the same draws at
        each call of ``transform``, None other draws.

    Attributes
    ----------
    estimator_ : GaussianVAE
        The fitted model of the features that have known cells. It takes arrays of these features,
        with NaN in missing cells.
    indicator_ : MissingIndicator or None
        What appends the indicators. None if ``add_indicator=False``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string names.

    See Also
    --------
    GaussianVAE : The model. Its method ``impute`` returns several draws of a table too.
    sklearn.impute.SimpleImputer : One number for each column.
    sklearn.impute.KNNImputer : Averages over the most similar rows.
    sklearn.impute.IterativeImputer : A regression of each column on the others.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE, GaussianVAEImputer
    >>> X, _ = load_iris(return_X_y=True)
    >>> X[::3, 2] = np.nan
    >>> imputer = GaussianVAEImputer(GaussianVAE(max_epochs=5), random_state=0)
    >>> X_filled = imputer.fit_transform(X)
    >>> X_filled.shape, bool(np.isnan(X_filled).any())
    ((150, 4), False)
    """

    _parameter_constraints: dict = {
        "estimator": [GaussianVAE, None],
        "missing_values": [MissingValues(numeric_only=True)],
        "statistic": [StrOptions(set(STATISTICS))],
        "sample_posterior": ["boolean"],
        "add_indicator": ["boolean"],
        "keep_empty_features": ["boolean"],
        "random_state": ["random_state"],
    }

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    def __init__(
        self,
        estimator=None,
        *,
        missing_values=np.nan,
        statistic="auto",
        sample_posterior=False,
        add_indicator=False,
        keep_empty_features=False,
        random_state=None,
    ):
        self.estimator = estimator
        self.missing_values = missing_values
        self.statistic = statistic
        self.sample_posterior = sample_posterior
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(np.isnan(self._marker()))
        tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __sklearn_is_fitted__(self):
        # A fit that was interrupted leaves a fitted model, a fit that failed leaves none.
        return hasattr(self, "estimator_") and self.estimator_.__sklearn_is_fitted__()

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, sample_weight=None, groups=None):
        """Fit the model to the known cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, at least two.
        y : Ignored
            Not used, present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        groups : array-like of shape (n_samples,), default=None
            The object that each row was measured on. Rows of one object are held out together,
            or not at all.

        Returns
        -------
        self : GaussianVAEImputer
            The fitted imputer.
        """
        table, dtypes = X, dtypes_of(X)
        X = self._validate(X, reset=True, ensure_min_samples=2)
        names = getattr(self, "feature_names_in_", ())
        self._dtypes = dict(zip(names, dtypes or (), strict=False))
        _, counted = drop_unweighted(sample_weight, X)
        is_empty = self._is_missing(counted).all(0)
        if is_empty.all():
            raise ValueError(
                f"No cell of X is known: all are {self.missing_values!r}, which marks missing "
                "values. Give rows with known cells, or another missing_values."
            )
        indicator = None
        if self.add_indicator:
            indicator = MissingIndicator(missing_values=self._marker(), error_on_new=False)
            indicator = indicator.set_output(transform="default").fit(self._flags(counted))
        model = GaussianVAE() if self.estimator is None else clone(self.estimator)
        if model.random_state is None:
            model.set_params(random_state=self.random_state)
        self._is_empty, self.indicator_, self.estimator_ = is_empty, indicator, model
        model.fit(self._for_model(X, table), sample_weight=sample_weight, groups=groups)
        self._warn_of_dropped()
        return self

    def transform(self, X):
        """Fill in the missing cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, also rows of which no cell is known.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            The rows. Known cells are as they were. Indicators are the last columns if
            ``add_indicator=True``.
        """
        check_is_fitted(self)
        table, X = X, self._validate(X)
        self._warn_of_dropped()
        rows, model = self._for_model(X, table), self.estimator_
        if self.sample_posterior:
            (guess,) = model.impute(rows, n_imputations=1, random_state=self.random_state)
        else:
            guess = model.impute(rows, statistic=self.statistic)
        found = np.zeros_like(X)
        found[:, ~self._is_empty] = np.asarray(guess, dtype=X.dtype)
        filled = np.where(self._is_missing(X), found, X)[:, self._kept()]
        if self.indicator_ is not None:
            flags = self.indicator_.transform(self._flags(X)).astype(X.dtype)
            filled = np.hstack([filled, flags])
        if X.dtype != object or _get_output_config("transform", self)["dense"] != "pandas":
            return filled
        import pandas

        names = self.get_feature_names_out()
        filled = pandas.DataFrame(filled, columns=names, index=getattr(table, "index", None))
        return with_dtypes(filled, self._dtypes)

    def inverse_transform(self, X):
        """Put the missing values back.

        This works for features that have an indicator. Other features stay as ``transform``
        returned them, with the cells that it filled in. Features that were dropped are missing
        throughout.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_out)
            Rows and indicators, as ``transform`` returns them with ``add_indicator=True``.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            The rows, with ``missing_values`` where they were.
        """
        check_is_fitted(self)
        if self.indicator_ is None:
            raise ValueError(
                "inverse_transform needs the indicators of missing values, but the imputer was "
                "fitted with add_indicator=False. Set add_indicator=True and fit again."
            )
        X = check_array(X, dtype=DTYPES if columns_of_table(X) is None else object)
        kept, features = self._kept(), self.indicator_.features_
        n_kept = np.count_nonzero(kept)
        if X.shape[1] != n_kept + len(features):
            raise ValueError(
                f"X has {X.shape[1]} columns, but transform returns {n_kept} features and "
                f"{len(features)} indicators."
            )
        rows = np.full((len(X), len(kept)), self._marker(), dtype=X.dtype)
        rows[:, kept] = X[:, :n_kept]
        was_missing = np.zeros(rows.shape, dtype=bool)
        was_missing[:, features] = X[:, n_kept:] != 0
        rows[was_missing] = self._marker()
        return rows

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns that ``transform`` returns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the features. None: ``feature_names_in_``, or ``x0``, ``x1`` and so on if
            there are none.

        Returns
        -------
        ndarray of str objects
            Names of the features that are not dropped, then ``missingindicator_`` and the name of
            the feature for each indicator.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        kept = names[self._kept()]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def _validate(self, X, reset=False, **params):
        refuse_dates(X)
        raw = columns_of_table(X)
        if raw is not None:
            X = X if hasattr(X, "shape") else np.array(X, dtype=object)
            validate_data(self, X, reset=reset, skip_check_array=True)
            found = objects_of(raw)
            if not np.isnan(self._marker()) and are_unknown(found).any():
                raise ValueError(f"X contains NaN, and {self.missing_values!r} marks what misses.")
            return found
        finite = "allow-nan" if np.isnan(self._marker()) else True
        params |= {"dtype": DTYPES, "reset": reset, "ensure_all_finite": finite}
        return validate_data(self, with_nan(X), **params)

    def _marker(self):
        """Return the marker of missing cells in an array of floats."""
        value = self.missing_values
        return np.nan if is_scalar_nan(value) or is_pandas_na(value) else float(value)

    def _is_missing(self, X):
        marker = self._marker()
        if X.dtype == object:
            return are_unknown(X) if np.isnan(marker) else are_equal(X, marker)
        return np.isnan(X) if np.isnan(marker) else marker == X

    def _flags(self, X):
        """Return numbers, in which missing cells are marked as they are in X."""
        if X.dtype != object:
            return X
        marker = self._marker()
        return np.where(self._is_missing(X), marker, 1.0 if marker == 0 else 0.0)

    def _for_model(self, X, table):
        """Return the features that have known cells, with NaN in their missing cells."""
        missing, kept = self._is_missing(X), np.flatnonzero(~self._is_empty)
        if X.dtype == object and hasattr(table, "iloc"):  # with names, and levels of categories
            return table.iloc[:, kept].mask(missing[:, kept])
        return np.where(missing, np.nan, X).astype(X.dtype)[:, kept]

    def _kept(self):
        """Say which features transform returns."""
        return np.full_like(self._is_empty, True) if self.keep_empty_features else ~self._is_empty

    def _warn_of_dropped(self):
        if self._kept().all():
            return
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        warnings.warn(
            f"Features {names[~self._kept()].tolist()} have no known cell in the rows of fit: "
            "they are dropped. keep_empty_features=True keeps them.",
            UserWarning,
            stacklevel=1,  # one place, so that fit_transform shows it once
        )

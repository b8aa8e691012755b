"""The rows that fit least, with what was expected of their cells."""

from numbers import Integral

import numpy as np
from sklearn.utils import _safe_indexing, check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._columns import are_unknown
from .._last_step import model_with
from .axes import one_axes

MAX_ROWS = 30
MAX_COLUMNS = 12
LARGE = 20  # nats of surprise: more is drawn alike


class OutlierDisplay:
    """The rows of the lowest scores: each cell with what was expected of it.

    The colour of a cell is its surprise; below its value stand what was expected and an interval.
    Of many columns those with the most surprising cells are drawn. Use :meth:`from_estimator` to
    make one.

    Parameters
    ----------
    values, expected, lower, upper, surprise : ndarray of shape (n_rows, n_features)
        The cells, and what :meth:`GaussianVAEOutlierDetector.explain
        <skgvae.GaussianVAEOutlierDetector.explain>` says of them.
    row_names, column_names : sequence
        Names of the rows and columns.

    Attributes
    ----------
    ax_ : Axes
        The axes.
    figure_ : Figure
        The figure of the axes.
    rows_, columns_ : ndarray of int
        Positions of what is drawn: of rows in the X of ``from_estimator``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE, GaussianVAEOutlierDetector
    >>> from skgvae.display import OutlierDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = GaussianVAE(max_epochs=5)
    >>> detector = GaussianVAEOutlierDetector(model, random_state=0).fit(X)
    >>> OutlierDisplay.from_estimator(detector, X, n_rows=3).surprise.shape
    (3, 4)
    """

    def __init__(self, *, values, expected, lower, upper, surprise, row_names, column_names):
        self.values = values
        self.expected = expected
        self.lower = lower
        self.upper = upper
        self.surprise = surprise
        self.row_names = row_names
        self.column_names = column_names

    @classmethod
    def from_estimator(cls, estimator, X, *, n_rows=5, coverage=0.9, ax=None):
        """Explain and plot the rows of the lowest scores.

        Parameters
        ----------
        estimator : GaussianVAEOutlierDetector
            A fitted detector, or a Pipeline that ends in one. Rows are drawn as the detector sees
            them, after the other steps of the pipeline.
        X : array-like of shape (n_samples, n_features)
            Rows.
        n_rows : int, default=5
            How many of them are drawn, the lowest scores first; at most 30.
        coverage : float, default=0.9
            Probability of the intervals.
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        OutlierDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        such_as = "GaussianVAEOutlierDetector"
        estimator, X = model_with("explain", cls.__name__, estimator, X, such_as)
        n_rows = check_scalar(n_rows, "n_rows", Integral, min_val=1, max_val=MAX_ROWS)
        rows = np.argsort(estimator.score_samples(X), kind="stable")[:n_rows]
        chosen = _safe_indexing(X, rows)
        found = estimator.explain(chosen, coverage=coverage)
        names = getattr(estimator, "feature_names_in_", np.arange(chosen.shape[1]))
        display = cls(
            values=np.asarray(chosen, dtype=object),
            expected=found.expected,
            lower=found.lower,
            upper=found.upper,
            surprise=found.surprise,
            row_names=list(chosen.index) if hasattr(chosen, "index") else rows.tolist(),
            column_names=list(names),
        )
        display.rows_ = rows
        return display.plot(ax)

    def plot(self, ax=None):
        """Draw the cells as a table.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Returns
        -------
        OutlierDisplay
            The display.
        """
        surprise = np.nan_to_num(np.minimum(self.surprise, 2 * LARGE))  # finite, to have a colour
        columns = np.argsort(-surprise.max(0), kind="stable")[:MAX_COLUMNS]
        self.columns_ = np.sort(columns)
        n_rows, n_columns = len(surprise), len(self.columns_)
        self.ax_ = one_axes(ax, (1.1 * n_columns + 2.5, 0.6 * n_rows + 1.5))
        self.figure_ = self.ax_.figure
        shown = np.ma.masked_array(surprise, np.isnan(self.surprise))[:, self.columns_]
        image = self.ax_.imshow(shown, cmap="YlOrRd", vmin=0, vmax=LARGE, aspect="auto")
        for i, place in np.ndindex(n_rows, n_columns):
            j = self.columns_[place]
            is_dark = surprise[i, j] > 0.6 * LARGE
            self.ax_.text(
                place, i, self._label(i, j), ha="center", va="center", fontsize="x-small",
                color="white" if is_dark else "black",
            )  # fmt: skip
        names = [self.column_names[j] for j in self.columns_]
        self.ax_.set_xticks(range(n_columns), names, rotation=45, ha="right")
        self.ax_.set_yticks(range(n_rows), self.row_names)
        self.ax_.set_ylabel("row")
        self.figure_.colorbar(image, ax=self.ax_, label="surprise, nats", extend="max")
        return self

    def _label(self, i, j):
        value, expected = self.values[i, j], self.expected[i, j]
        ends = self.lower[i, j], self.upper[i, j]
        is_unknown = are_unknown(self.values[i : i + 1, j]).any()
        lines = ["unknown" if is_unknown else _short(value), f"exp. {_short(expected)}"]
        if not np.isnan(ends).any():
            lines.append(f"{_short(ends[0])} … {_short(ends[1])}")
        return "\n".join(lines)


def _short(value):
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return f"{value:.3g}" if is_number else str(value)

"""The model at the end of a pipeline or a search, and the rows as it sees them."""

from sklearn.pipeline import Pipeline


def last_step(estimator, X):
    """Return the last step, and X as the steps before it transform it.

    A pipeline's own score_samples knows no y, and its predict no components.
    """
    while True:
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1 and X is not None:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):  # a search
            estimator = estimator.best_estimator_
        else:
            return estimator, X

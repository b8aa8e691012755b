"""The model inside a pipeline or a search, and the rows as the model sees them."""

from inspect import signature

from sklearn.base import MetaEstimatorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


def last_step(estimator, X):
    """Return the last step, and X as the steps before it transform X.

    A pipeline's own score_samples knows no y, and its predict knows no components.
    """
    while True:
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1 and X is not None:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):  # a search
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "cv_results_"):
            raise ValueError(
                f"{type(estimator).__name__} was fitted with refit=False and holds no fitted "
                "model. Set refit=True and fit again."
            )
        else:
            return estimator, X


def model_with(needs, display, estimator, X, such_as="GaussianVAE"):
    """Return the fitted model that a display needs, and X as the model sees X."""
    model, X = last_step(estimator, X)
    check_is_fitted(model)
    if not hasattr(model, needs):
        raise TypeError(
            f"{display} needs a model with {needs!r}, such as {such_as}, got "
            f"{type(model).__name__}. If the model is not the last step of a pipeline, pass the "
            "steps up to the model, for example pipeline[:-1]."
        )
    return model, X


def check_decodes_numbers(model, display):
    """Raise an error if the model decodes names, which a display of numbers cannot show."""
    if getattr(model, "_levels", None) and model._decodes_input():
        names = [model._all_names()[j] for j in model._levels]
        raise TypeError(f"{display} shows numbers, and columns {names} of the model hold names.")


def check_predicts_std(estimator):
    """Raise an error unless predict can return a standard deviation for each row."""
    predict = getattr(estimator, "predict", None)
    if predict is not None and "return_std" in signature(predict).parameters:
        return
    if isinstance(estimator, MetaEstimatorMixin):
        check_is_fitted(estimator)  # a search holds no model before fit
    raise TypeError(
        f"{type(estimator).__name__} gives no predictive distribution: it must be a "
        "GaussianVAERegressor, or its predict must have the parameter return_std."
    )

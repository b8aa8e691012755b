import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgvae import (
    GaussianVAE,
    GaussianVAEClassifier,
    GaussianVAEImputer,
    GaussianVAEOutlierDetector,
    GaussianVAERegressor,
)

# Some checks fit rows without any structure: then the warning is right.
pytestmark = pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")

FAST = {"max_epochs": 3, "hidden_layer_sizes": (8,), "n_draws": 16}
# A model that keeps its start passes it: that has seen no rows.
MAY_FAIL = "check_sample_weight_equivalence_on_dense_data"
STOCHASTIC = (
    "weights equal repeated rows in expectation only: rows are shuffled and z is drawn "
    "(test_weights_equal_repeated_rows_in_expectation)"
)


def run(check, estimator):
    try:
        check(estimator)
    except AssertionError as error:
        if check.func.__name__ != MAY_FAIL or "not equivalent to fitting" not in str(error):
            raise
        pytest.xfail(STOCHASTIC)


@parametrize_with_checks(
    [
        GaussianVAE(**FAST),
        GaussianVAERegressor(**{**FAST, "max_epochs": 30}),
        GaussianVAEClassifier(**{**FAST, "max_epochs": 15}),
        GaussianVAEImputer(GaussianVAE(**FAST)),
        GaussianVAEOutlierDetector(GaussianVAE(**FAST)),
    ]
)
def test_scikit_learn_contract(estimator, check):
    run(check, estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        GaussianVAE(),
        GaussianVAERegressor(),
        GaussianVAEClassifier(),
        GaussianVAEImputer(),
        GaussianVAEOutlierDetector(),
    ]
)
def test_scikit_learn_contract_at_the_defaults(estimator, check):
    run(check, estimator)

"""What "auto" means: no jumps, time that grows with the rows, and given parameters as given."""

from dataclasses import FrozenInstanceError, asdict
from itertools import pairwise

import numpy as np
import pytest

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._recipe import (
    CLASSIFICATION,
    DENSITY,
    INCOMPLETE,
    MANY_ROWS,
    MIN_BATCH,
    MIN_TRAINING_ROWS,
    REGRESSION,
    Recipe,
    recipe_for,
)

AUTO = {
    "n_components": None,
    "n_estimators": 5,
    "validation_fraction": "auto",
    "max_epochs": "auto",
    "batch_size": "auto",
    "lr": "auto",
}
HABITS = {
    "density": DENSITY,
    "incomplete": INCOMPLETE,
    "regression": REGRESSION,
    "classification": CLASSIFICATION,
}
GRID = sorted({*range(2, 300), *np.geomspace(2, 10**7, 1500).astype(int).tolist()})
ENOUGH = [n for n in GRID if n >= MIN_TRAINING_ROWS]


@pytest.fixture(params=HABITS)
def habits(request):
    return HABITS[request.param]


@pytest.fixture(params=[1, 5, 10])
def n_estimators(request):
    return request.param


def work(n_rows, recipe):
    """Return the rows that one model passes in all its steps, as large as a batch may be."""
    n_training = n_rows - n_rows // recipe.n_folds if recipe.n_folds > 1 else n_rows
    return recipe.max_epochs * -(-n_training // recipe.batch_size) * recipe.batch_size


def test_it_is_a_function_of_its_arguments(habits):
    params = dict(AUTO)
    first = recipe_for(500, 20, params, habits)
    assert first == recipe_for(500, 20, dict(reversed(params.items())), habits)
    assert first == recipe_for(500, 20, params | {"random_state": 3, "verbose": 1}, habits)
    assert params == AUTO
    assert hash(first) == hash(Recipe(**asdict(first)))
    with pytest.raises(FrozenInstanceError):
        first.lr = 1.0


def test_time_grows_with_the_rows(habits, n_estimators):
    # Of more rows there are fewer epochs, and these are whole: where their number falls by one,
    # from e, time falls by a share of 1 / e at most.
    params = AUTO | {"n_estimators": n_estimators}
    recipes = [recipe_for(n, 20, params, habits) for n in ENOUGH]
    times = [work(n, recipe) for n, recipe in zip(ENOUGH, recipes, strict=True)]
    for (before, after), (time, later) in zip(pairwise(recipes), pairwise(times), strict=True):
        assert after.max_epochs <= before.max_epochs
        assert later * before.max_epochs >= time * after.max_epochs
    for n, time in zip(ENOUGH, times, strict=True):
        more = 4 * n + MIN_BATCH  # rows: one batch more at least
        assert work(more, recipe_for(more, 20, params, habits)) > time
    falls = [n for n, (time, later) in zip(ENOUGH, pairwise(times), strict=False) if later < time]
    assert all(n >= MANY_ROWS for n in falls)


@pytest.mark.parametrize("n_columns", [1, 20, 500])
def test_neighbours_differ_by_a_factor_of_two_at_most(n_columns, habits, n_estimators):
    params = AUTO | {"n_estimators": n_estimators}
    for n in ENOUGH:
        own, next_rows, next_columns = (
            asdict(recipe_for(n + i, n_columns + j, params, habits))
            for i, j in ((0, 0), (1, 0), (0, 1))
        )
        for neighbour in next_rows, next_columns:
            for name, value in own.items():
                other = neighbour[name]
                if name == "orthogonal":  # from some size on
                    assert value <= other
                elif value is None or other is None:
                    assert value is other, name
                else:
                    assert value <= 2 * other, (n, name)
                    assert other <= 2 * value, (n, name)


@pytest.mark.parametrize("n_rows", [4, 50, 3000, 10**6])
@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"n_components": 7}, {"n_components": 7}),
        ({"max_epochs": 11}, {"max_epochs": 11}),
        ({"batch_size": 13}, {"batch_size": 13}),
        ({"lr": 0.5}, {"lr": 0.5}),
        ({"n_estimators": 3}, {"n_members": 3}),
        ({"validation_fraction": None}, {"n_folds": 1, "patience": None}),
        ({"max_epochs": 0}, {"max_epochs": 0, "n_folds": 1, "n_members": 1}),
    ],
    ids=lambda params: "-".join(params),
)
def test_given_parameters_are_as_given(given, found, n_rows, habits):
    recipe = asdict(recipe_for(n_rows, 20, AUTO | given, habits))
    assert {name: recipe[name] for name in found} == found
    if "max_epochs" not in given:  # one parameter leaves the others
        auto = asdict(recipe_for(n_rows, 20, AUTO, habits))
        follow = {"batch_size": ["orthogonal"], "n_estimators": ["n_folds"]}
        follow["validation_fraction"] = ["n_valid_draws", "batch_size", "max_epochs", "n_cycles"]
        follow["validation_fraction"].append("orthogonal")
        own = {*found, *follow.get(next(iter(given)), [])}
        assert {k: v for k, v in recipe.items() if k not in own} == {
            k: v for k, v in auto.items() if k not in own
        }


def test_what_follows_from_given_parameters():
    for habits in HABITS.values():
        for n_rows in (50, 10**5):
            small, large = (
                recipe_for(n_rows, 20, AUTO | {"batch_size": size}, habits) for size in (1, 4096)
            )
            assert not small.orthogonal
            assert large.orthogonal == (habits.orthogonal_from <= 4096)
            short, long = (
                recipe_for(n_rows, 20, AUTO | {"max_epochs": n}, habits) for n in (100, 1000)
            )
            if habits.patience is None:
                assert short.patience is long.patience is None
            else:
                assert 10 * short.patience == pytest.approx(long.patience, abs=10)


def test_another_cycle_needs_a_judge_and_a_free_number_of_epochs(habits):
    auto = recipe_for(500, 20, AUTO, habits)
    assert auto.n_cycles == habits.n_cycles
    growth = habits.cycle_growth
    assert auto.max_epochs == habits.n_epochs * sum(growth**i for i in range(habits.n_cycles))
    for given in {"max_epochs": 9}, {"validation_fraction": None}:
        assert recipe_for(500, 20, AUTO | given, habits).n_cycles == 1
    unjudged = recipe_for(500, 20, AUTO | {"validation_fraction": None}, habits)
    assert unjudged.max_epochs == habits.n_epochs


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.2, 0.1, 0.05])
def test_a_fraction_is_that_of_a_fold(fraction, habits, n_estimators):
    params = AUTO | {"validation_fraction": fraction, "n_estimators": n_estimators}
    assert recipe_for(1000, 20, params, habits).n_folds == round(1 / fraction)
    assert recipe_for(6, 20, params, habits).n_folds <= 6


def test_fewer_rows_have_fewer_folds(habits, n_estimators):
    recipes = {n: recipe_for(n, 20, AUTO | {"n_estimators": n_estimators}, habits) for n in GRID}
    for n, recipe in recipes.items():
        if n < MIN_TRAINING_ROWS:
            assert recipe.n_folds == 1
            assert (recipe.max_epochs == 0) == habits.needs_judge
            continue
        assert 2 <= recipe.n_folds <= n // (2 if n_estimators == 1 else 1)
        assert n - n // recipe.n_folds >= 2  # train, and
        assert max(1, n // recipe.n_folds) * n_estimators >= 2  # judge
    folds = [recipe.n_folds for recipe in recipes.values()]
    assert folds == sorted(folds)
    assert folds[-1] >= n_estimators  # each model has its own


def test_many_rows_are_judged_by_few_draws(habits):
    draws = [recipe_for(n, 20, AUTO, habits).n_valid_draws for n in ENOUGH]
    assert draws == sorted(draws, reverse=True)
    assert draws[-1] == habits.n_draws


def test_latents_are_few_where_rows_or_columns_are(habits):
    widths = [recipe_for(n, 1000, AUTO, habits).n_components for n in GRID]
    assert widths == sorted(widths)
    by_columns = [recipe_for(10**4, d, AUTO, habits).n_components for d in range(1, 100)]
    assert by_columns == sorted(by_columns)
    assert by_columns[0] == habits.min_latents
    assert by_columns[-1] == widths[-1] < 100


@pytest.mark.parametrize("n_rows", [2, 5, 500])
def test_numbers_are_pythons_own(n_rows, habits):
    params = AUTO | {"n_estimators": np.int64(3), "batch_size": np.int64(8)}
    params |= {"max_epochs": np.int64(5), "n_components": np.int32(2), "lr": np.float32(0.1)}
    for given in AUTO, params, params | {"validation_fraction": np.float64(0.2)}:
        recipe = recipe_for(n_rows, 3, given, habits)
        types = {name: type(value) for name, value in asdict(recipe).items()}
        assert set(types.values()) <= {int, float, bool, type(None)}, types


@pytest.mark.parametrize(
    ("kind", "habits"),
    [
        (GaussianVAE, DENSITY),
        (GaussianVAERegressor, REGRESSION),
        (GaussianVAEClassifier, CLASSIFICATION),
    ],
)
@pytest.mark.parametrize("n_rows", [3, 30, 100])
@pytest.mark.filterwarnings("ignore:.*too few to judge")
@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_estimators_follow_it(n_rows, kind, habits):
    X = np.random.default_rng(0).standard_normal((n_rows, 5))
    y = np.arange(n_rows) % 2
    model = kind(max_epochs=2, random_state=0).fit(X, y)
    n_columns = 1 if kind is GaussianVAERegressor else 5
    recipe = recipe_for(n_rows, n_columns, model.get_params(deep=False), habits)
    net = model.net_
    assert net.batch_size == recipe.batch_size
    assert net.max_epochs == recipe.max_epochs
    assert net.patience == recipe.patience
    assert net.lr == recipe.lr
    assert net.n_valid_draws == recipe.n_valid_draws
    assert net.criterion_.n_draws == recipe.n_draws
    assert net.optimizer_.orthogonal == recipe.orthogonal
    assert len(model.modules_) == recipe.n_members
    assert model.n_components_ == recipe.n_components
    assert ("valid_loss" in net.history[-1] if net.history else False) == (recipe.n_folds > 1)
    assert model.n_epochs_ == recipe.max_epochs

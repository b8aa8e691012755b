"""What a failure in training leaves behind: nothing, or a model at its best epoch."""

import _thread
import threading
import time

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._recipe import recipe_for
from skgvae.objectives import JointLoss, NegativeBound

pytestmark = pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")

FAST = {"hidden_layer_sizes": (4,), "n_draws": 4, "max_epochs": 4, "batch_size": 16}
MAKERS = {
    "vae": lambda **params: GaussianVAE(2, random_state=0, **{**FAST, **params}),
    "regressor": lambda **params: GaussianVAERegressor(
        2, random_state=0, **{**FAST, "n_estimators": 2, **params}
    ),
    "classifier": lambda **params: GaussianVAEClassifier(
        2, random_state=0, **{**FAST, "n_estimators": 2, **params}
    ),
}
N_ROWS = 100


def n_batches(model):
    """Return how many batches of training rows an epoch has."""
    n_folds = recipe_for(N_ROWS, 3, model.get_params(deep=False)).n_folds
    n_training = N_ROWS - N_ROWS // n_folds if n_folds > 1 else N_ROWS
    return -(-n_training // FAST["batch_size"])


N_BATCHES = n_batches(MAKERS["vae"]())


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, 3)) @ rng.standard_normal((3, 3))
    return X, (X[:, 0] > 0).astype(int)


def answers(model, X):
    return [
        getattr(model, name)(X)
        for name in ("transform", "score_samples", "predict", "predict_proba")
        if hasattr(model, name) and not (name == "score_samples" and hasattr(model, "predict"))
    ]


def assert_usable(model, X):
    for answer in [*answers(model, X), model.kl_per_component_, model.noise_variance_]:
        assert np.isfinite(answer).all()


def assert_same(model, before, X):
    for answer, known in zip(answers(model, X), before, strict=True):
        np.testing.assert_array_equal(answer, known)


class AtBatch(Callback):
    """Does something to one batch of training."""

    def __init__(self, at, action):
        self.at, self.action = at, action

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.n_seen_ = 0

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.n_seen_ += 1
        if self.n_seen_ == self.at:
            self.action(named_parameters)


def spoil_gradients(named_parameters):
    for _, parameter in named_parameters:
        parameter.grad[:] = torch.nan


def spoil_gradients_of_the_second(named_parameters):
    for _, parameter in named_parameters:
        parameter.grad[1] = torch.nan


def spoiled(criterion, at, value):
    """Return a criterion of which one loss in training is not finite."""

    class Spoiled(criterion):
        n_seen = 0

        def by_rows(self, *args, **params):
            terms = super().by_rows(*args, **params)
            self.n_seen += torch.is_grad_enabled()
            if torch.is_grad_enabled() and self.n_seen == at:
                return terms._replace(loss=terms.loss * value)
            return terms

    return Spoiled


def raiser(error):
    def action(named_parameters):
        raise error

    return action


# The first batch, the last of an epoch, and some in between.
BATCHES = [1, N_BATCHES, *np.random.default_rng(0).integers(2, 4 * N_BATCHES, 2).tolist()]


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_huge_learning_rate_leaves_a_finite_model(lr, make, rows, recwarn):
    model = make(lr=lr).fit(*rows)
    assert_usable(model, rows[0])
    assert len(recwarn) <= 1
    assert all("smaller lr" in str(w.message) for w in recwarn)


@pytest.mark.parametrize("at", BATCHES)
@pytest.mark.parametrize("fraction", ["auto", None])
def test_a_step_that_is_not_finite_ends_training_at_the_best_epoch(at, fraction, make, rows):
    callbacks = [AtBatch(at, spoil_gradients)]
    model = make(validation_fraction=fraction, net_params={"callbacks": callbacks})
    with pytest.warns(RuntimeWarning, match="was not finite in epoch") as record:
        model.fit(*rows)
    assert len(record) == 1
    assert_usable(model, rows[0])
    assert model.n_epochs_ == 1 + (at - 1) // n_batches(model)
    assert model.best_epoch_ < model.n_epochs_


@pytest.mark.parametrize("at", BATCHES)
@pytest.mark.parametrize("fraction", ["auto", None])
def test_a_model_that_diverges_goes_on_from_its_best_weights(at, fraction, make, rows):
    params = {"validation_fraction": fraction, "n_estimators": 3}
    model, plain = make(**params), make(**params).fit(*rows)
    model.set_params(net_params={"callbacks": [AtBatch(at, spoil_gradients_of_the_second)]})
    with pytest.warns(RuntimeWarning, match="was not finite in epoch .* for 1 of 3") as record:
        model.fit(*rows)
    assert len(record) == 1
    assert_usable(model, rows[0])
    assert model.n_epochs_ == 4
    if fraction is None:  # all keep the last epoch
        for i, (module, known) in enumerate(zip(model.modules_, plain.modules_, strict=True)):
            weight, known = module.encoder.loc.weight, known.encoder.loc.weight
            assert torch.equal(weight, known) == (i != 1)


@pytest.mark.parametrize("at", BATCHES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_training_at_the_best_epoch(value, at, make, rows):
    own = JointLoss if isinstance(make(), GaussianVAEClassifier) else NegativeBound
    model = make(net_params={"criterion": spoiled(own, at, value)})
    with pytest.warns(RuntimeWarning, match="was not finite in epoch") as record:
        model.fit(*rows)
    assert len(record) == 1
    assert_usable(model, rows[0])
    assert model.best_epoch_ < model.n_epochs_ == 1 + (at - 1) // N_BATCHES


@pytest.mark.parametrize("at", BATCHES)
def test_an_interrupt_keeps_the_best_epoch(at, make, rows):
    model = make(net_params={"callbacks": [AtBatch(at, raiser(KeyboardInterrupt()))]})
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch"):
        model.fit(*rows)
    assert_usable(model, rows[0])
    n_whole = (at - 1) // N_BATCHES
    assert model.n_epochs_ <= n_whole + 1
    assert 0 <= model.best_epoch_ <= n_whole


@pytest.mark.slow
@pytest.mark.filterwarnings(  # it may come while a file is open, or in a finalizer
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_at_any_moment_leaves_no_half_state(make, rows):
    start = time.perf_counter()
    make().fit(*rows)
    duration = time.perf_counter() - start
    for delay in np.random.default_rng(0).uniform(0, 1.2 * duration, 100):
        model = make()
        timer = threading.Timer(delay, _thread.interrupt_main)
        try:
            timer.start()
            model.fit(*rows)
            timer.cancel()
            timer.join()  # where it is not raised in the fit, it is here
        except KeyboardInterrupt:
            pass
        timer.cancel()
        timer.join()
        if hasattr(model, "net_"):
            assert_usable(model, rows[0])
        else:
            assert set(vars(model)) == set(model.get_params(deep=False))


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), torch.OutOfMemoryError("CUDA out of memory"), MemoryError()]
)
@pytest.mark.parametrize("at", BATCHES[:2])
def test_an_error_leaves_the_estimator_unfitted(error, at, make, rows):
    model = make(net_params={"callbacks": [AtBatch(at, raiser(error))]})
    with pytest.raises(type(error)) as raised:
        model.fit(*rows)
    assert raised.value is error
    assert set(vars(model)) == set(model.get_params(deep=False))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("warm_start", [True, False])
def test_a_failed_refit_keeps_the_fitted_model(method, warm_start, make, rows):
    error = torch.OutOfMemoryError("CUDA")
    fault = AtBatch(0, raiser(error))
    model = make(warm_start=warm_start, net_params={"callbacks": [fault]}).fit(*rows)
    before, history = answers(model, rows[0]), list(model.history_)
    fault.at = 3
    with pytest.raises(type(error)):
        getattr(model, method)(*rows)
    assert_same(model, before, rows[0])
    assert model.history_ == history
    fault.at = 0
    getattr(model, method)(*rows)  # it can still be trained
    assert_usable(model, rows[0])


@pytest.mark.parametrize("value", [-1, 0, 2.5, "many"])
def test_a_number_of_draws_that_is_wrong_is_refused_after_fitting_too(value, make, rows):
    X, y = rows
    model = make(max_epochs=1)
    with pytest.raises(ValueError, match=f"'n_draws' parameter .* Got {value!r}") as in_fit:
        make(n_draws=value).fit(X, y)
    before = answers(model.fit(X, y), X)
    with pytest.raises(ValueError, match="'n_draws' parameter") as in_answers:
        answers(model.set_params(n_draws=value), X)
    assert str(in_answers.value) == str(in_fit.value)
    assert_same(model.set_params(n_draws=4), before, X)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_rows_that_are_refused_keep_the_fitted_model(method, make, rows):
    X, y = rows
    model = make().fit(X, y)
    before = answers(model, X)
    too_large = "too large" if method == "fit" else "standard deviations from the mean"
    refused = {np.inf: "infinity", 1e300: too_large}
    for value, message in refused.items():
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(np.where(X[0, 0] == X, value, X), y)
        assert_same(model, before, X)

"""A model that is saved and read again is the same model, and nothing else is in the file."""

import copy
import io
import pickle
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

pytestmark = pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")

FAST = {"hidden_layer_sizes": (8,), "n_draws": 8, "max_epochs": 2, "random_state": 0}
MAKERS = {
    "vae": lambda: GaussianVAE(2, **FAST),
    "standard": lambda: GaussianVAE(2, prior="standard", **FAST),
    "regressor": lambda: GaussianVAERegressor(2, n_estimators=2, **FAST),
    "classifier": lambda: GaussianVAEClassifier(2, n_estimators=2, **FAST),
}


def make_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 3)) + np.pi
    return X, (X[:, 0] > np.pi).astype(int)


def answers(model, X):
    names = ("transform", "predict", "predict_proba", "predict_interval", "reconstruct")
    return {name: getattr(model, name)(X) for name in names if hasattr(model, name)}


def assert_same(model, known, X):
    found = answers(model, X)
    assert found.keys() == known.keys()
    for name, answer in known.items():
        np.testing.assert_array_equal(found[name], answer, err_msg=name)


def in_joblib(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model):
    return joblib.load(io.BytesIO(in_joblib(model)))


def by_skops(model):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    assert all(name.split(".")[0] == "skgvae" for name in untrusted)
    return skops.loads(data, trusted=untrusted)


ROUND_TRIPS = [by_pickle, by_joblib, by_skops]


def in_skops(model):
    with zipfile.ZipFile(io.BytesIO(pytest.importorskip("skops.io").dumps(model))) as file:
        return b"".join(map(file.read, file.namelist()))


FORMATS = [pickle.dumps, in_joblib, in_skops]


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module", params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture(scope="module", params=["fit", "partial_fit", "fit, partial_fit"])
def fitted(request, make, rows):
    model = make()
    for method in request.param.split(", "):
        getattr(model, method)(*rows)
    return model, answers(model, rows[0])


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_unfitted_estimators(round_trip, make):
    model = make()
    loaded = round_trip(model)
    assert loaded.get_params() == model.get_params()
    assert set(vars(loaded)) == set(vars(model))


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_fitted_models(round_trip, fitted, rows):
    model, known = fitted
    loaded = round_trip(model)
    assert_same(loaded, known, rows[0])
    assert loaded.history_ == model.history_
    assert loaded.get_params() == model.get_params()
    assert_same(round_trip(loaded), known, rows[0])
    # It goes on as the model would.
    assert_same(loaded.partial_fit(*rows), answers(by_pickle(model).partial_fit(*rows), rows[0]),
                rows[0])  # fmt: skip


def test_another_process_gives_the_same_answers(tmp_path, rows):
    models = [make().fit(*rows) for make in MAKERS.values()]
    joblib.dump((rows[0], [(m, answers(m, rows[0])) for m in models]), tmp_path / "models")
    code = (
        "import sys, joblib, numpy as np; X, pairs = joblib.load(sys.argv[1])\n"
        "for model, known in pairs:\n"
        "    for name, answer in known.items():\n"
        "        np.testing.assert_allclose(getattr(model, name)(X), answer, rtol=1e-12)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "models")], check=True)


@pytest.mark.parametrize(
    "sizes", [(8,), (64, 64), pytest.param((512, 512), marks=pytest.mark.slow)]
)
def test_a_file_is_hardly_larger_than_the_weights(sizes, make, rows):
    model = make().set_params(hidden_layer_sizes=sizes, max_epochs=1).fit(*rows)
    n_bytes = sum(p.nbytes for module in model.modules_ for p in module.state_dict().values())
    assert len(pickle.dumps(model)) < 2 * n_bytes + 20_000


def test_a_long_history_is_saved_in_little_space(make, rows):
    model = make().set_params(max_epochs=1).fit(*rows)
    n_bytes = len(pickle.dumps(model))
    model.history_ = 300 * model.history_  # as of the longest fit by default
    known = list(model.history_)
    assert by_pickle(model).history_ == known
    assert len(pickle.dumps(model)) < n_bytes + 15_000
    # Not all epochs have the same entries, and what callbacks record may be anything.
    model.history_ += [
        {"epoch": 301, "r2": 0.1},
        {"epoch": 302, "r2": 1},
        {"name": "x", "no": None},
    ]
    for round_trip in ROUND_TRIPS:
        assert round_trip(model).history_ == model.history_


@pytest.mark.parametrize("save", FORMATS)
def test_no_rows_are_saved(save, make, rows):
    X, y = rows
    y = X[:, 0] if make().__class__ is GaussianVAERegressor else y
    model = make().fit(X, y)
    data = save(model.partial_fit(X, y))
    weights = next(model.modules_[0].parameters()).detach().numpy()
    assert weights.tobytes() in data  # what is saved can be found
    scaled = model._units.forward(X)
    for row in np.concatenate([X, scaled]):
        for dtype in (np.float64, np.float32):
            assert row.astype(dtype).tobytes() not in data
    for column in (*X.T, *scaled.T):  # eight numbers in a row
        assert column[:8].tobytes() not in data
        assert column[:8].astype(np.float32).tobytes() not in data


@pytest.mark.parametrize("save", FORMATS)
def test_nothing_of_torch_is_saved(save, make, rows):
    assert b"torch" not in save(make().fit(*rows))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would go to CUDA")
def test_a_model_for_cuda_is_read_without_it(make, rows):
    model = make().fit(*rows)
    known = answers(model, rows[0])
    model.device_ = torch.device("cuda", 0)  # as if it had been trained there
    loaded = by_pickle(model.set_params(device="cuda"))
    assert loaded.device == "cuda"
    assert loaded.device_ == "cpu"
    assert_same(loaded, known, rows[0])
    with pytest.raises(ValueError, match="finds no CUDA device"):
        loaded.fit(*rows)
    with pytest.raises(ValueError, match="device='nowhere' is no torch device"):
        loaded.set_params(device="nowhere").fit(*rows)


def test_a_clone_has_no_state(make, rows):
    model = make().fit(*rows)
    assert set(vars(clone(model))) == set(model.get_params(deep=False))


def test_other_versions_are_refused(make, rows):
    state = make().fit(*rows).__getstate__()
    own = state.pop("_state_version")
    for form in (own - 1, own + 1, None):
        changed = state if form is None else {**state, "_state_version": form}
        loaded = make()
        message = f"another version of skgvae, in form {form}, where this one reads form {own}"
        with pytest.raises(ValueError, match=message):
            loaded.__setstate__(changed)
        assert not loaded.__sklearn_is_fitted__()


@pytest.mark.parametrize("how", ["add_", "data", "load_state_dict", "replace"])
def test_an_answer_is_that_of_the_weights_of_now(how):
    X = load_iris().data
    model = GaussianVAE(2, max_epochs=2, n_estimators=2, random_state=0).fit(X)
    before = model.transform(X)
    np.testing.assert_array_equal(model.transform(X), before)
    bias, layer = model.module_.encoder.loc.bias, model.module_.encoder.loc
    with torch.no_grad():
        if how == "add_":
            bias.add_(1)
        elif how == "data":
            bias.data[:] = bias.data + 1
        elif how == "replace":
            layer.bias = torch.nn.Parameter(bias + 1)
        else:
            state = model.module_.state_dict()
            state["encoder.loc.bias"] = bias + 1
            model.module_.load_state_dict(state)
    np.testing.assert_allclose(np.abs(model.transform(X) - before), 1, rtol=1e-6)


def test_copies_in_float64_are_no_state():
    X = load_iris().data
    model = GaussianVAE(2, max_epochs=2, random_state=0).fit(X)
    size = len(pickle.dumps(model))
    scores = model.score_samples(X)
    assert len(pickle.dumps(model)) == size
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.score_samples(X), scores)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.module_.decoder.loc.bias.add_(1)
    assert not np.allclose(copied.score_samples(X), scores)
    np.testing.assert_array_equal(model.score_samples(X), scores)

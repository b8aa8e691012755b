"""One measurement of cost.py in a process of its own: a job in, a result out, both in JSON.

It runs on any version of the package: ``random_state``, ``fit`` and the answers are all that it
asks for, and steps are measured with the ``speed_peers`` of that version. The module itself
imports only the standard library, because imports are measured too.
"""

import json
import math
import pickle
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path

DEPENDENCIES = ("numpy", "scipy", "sklearn", "torch", "skorch")
ANSWERS = ("transform", "predict", "predict_proba", "score_samples")


def timed(function, *args):
    """Return what a call returns, its processor seconds and its wall seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    result = function(*args)
    return result, time.process_time() - processor, time.perf_counter() - wall


def import_package(one_thread):
    """Return the package, and the processor seconds of its dependencies and of itself."""
    _, dependencies, _ = timed(lambda: [import_module(name) for name in DEPENDENCIES])
    if one_thread:
        import_module("torch").set_num_threads(1)
    package, own, _ = timed(import_module, "skgvae")
    return package, dependencies, own


def estimator(module, name, **params):
    """Return a function that fits an estimator."""

    def fit_estimator(X, y, seed):
        return getattr(import_module(module), name)(random_state=seed, **params).fit(X, y)

    return fit_estimator


def density(name):
    """Return a function that fits a model of density.py and returns its log density."""
    return lambda X, groups, seed: import_module("density_models").MODELS[name](X, groups, seed)[0]


def scaled_mlp(X, y, seed):
    """Fit MLPClassifier to standardised columns, as classification.py does."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)).fit(X, y)


PEERS = {
    "GaussianVAE": {"GaussianMixture": density("GaussianMixture"), "flow": density("flow")},
    "GaussianVAERegressor": {
        "HistGradientBoosting": estimator("sklearn.ensemble", "HistGradientBoostingRegressor"),
        "NGBoost": estimator("ngboost", "NGBRegressor", verbose=False),
    },
    "GaussianVAEClassifier": {
        "HistGradientBoosting": estimator("sklearn.ensemble", "HistGradientBoostingClassifier"),
        "MLPClassifier": scaled_mlp,
    },
}


def fit(job):
    """Fit a model and return what it cost, its scores and the time of its answers.

    A few rows are fitted before, so that what happens once in a process does not count.
    """
    package, _, _ = import_package(job["one_thread"])
    np = import_module("numpy")
    kind, rows = job["estimator"], np.load(job["rows"])
    X, y, X_test, y_test = (rows.get(name) for name in ("X", "y", "X_test", "y_test"))
    brief = {"max_epochs": 1} if "max_epochs" in getattr(package, kind)().get_params() else {}
    peer = PEERS[kind].get(job["model"])
    warm_up = peer or estimator("skgvae", kind, **brief)
    few = np.random.default_rng(0).standard_normal((20, 5))
    warm_up(few, np.arange(20) % (2 if kind == "GaussianVAEClassifier" else 20), 0)
    fit_model = peer or estimator("skgvae", kind)
    model, processor, wall = timed(fit_model, X, y, job["seed"])
    result = {"processor": processor, "wall": wall, "n_epochs": getattr(model, "n_epochs_", None)}
    result |= scores(kind, model, X_test, y_test)
    return (
        result if peer else result | answers(model, X_test, y_test, job["n_rows"], job["n_calls"])
    )


def scores(kind, model, X, y):
    """Return the negative log-likelihood in nats a row, and RMSE or share of wrong classes."""
    if kind == "GaussianVAE":
        log_density = getattr(model, "score_samples", model)
        return {"nll": -float(log_density(X).mean())}
    if kind == "GaussianVAEClassifier":
        accuracy, loss = import_module("classification").scores(model, X, y)
        return {"nll": float(loss), "error": 1 - float(accuracy)}
    result = {"error": float(((model.predict(X) - y) ** 2).mean() ** 0.5)}
    if hasattr(model, "pred_dist"):  # NGBoost
        result["nll"] = -float(model.pred_dist(X).logpdf(y).mean())
    elif hasattr(model, "score_samples"):
        result["nll"] = -float(model.score_samples(X, y).mean())
    return result


def answers(model, X, y, n_rows, n_calls):
    """Return the median milliseconds of each answer for ``n_rows`` rows of float64."""
    np = import_module("numpy")
    X, milliseconds = np.resize(X, (n_rows, X.shape[1])).astype(float), {}
    for name in filter(lambda name: hasattr(model, name), ANSWERS):
        conditional = name == "score_samples" and y is not None  # log p(y | x)
        args = (X, np.resize(y, n_rows)) if conditional else (X,)
        getattr(model, name)(*(a[:1] for a in args))
        seconds = [timed(getattr(model, name), *args)[2] for _ in range(n_calls)]
        milliseconds[name] = 1000 * statistics.median(seconds)
    return milliseconds


def steps(job):
    """Return steps per second of a fit and of the hand-written loop of speed.py."""
    package, _, _ = import_package(job["one_thread"])
    sys.path.insert(0, str(Path(package.__file__).parents[1] / "benchmarks"))
    peers = import_module("speed_peers")
    X = import_module("numpy").load(job["rows"])["X"]
    setting = peers.Setting(job["epochs"], job["batch_size"])
    n_steps = setting.epochs * math.ceil(peers.n_training_rows(X) / setting.batch_size)
    fits = {"loop": peers.hand_written, "ours": peers.ours}
    for fit_model in fits.values():
        fit_model(X[:1000], setting._replace(epochs=1))
    return {name: n_steps / timed(fit_model, X, setting)[2] for name, fit_model in fits.items()}


def first(job):
    """Return processor seconds of the imports and of the first two fits in this process."""
    package, dependencies, own = import_package(job["one_thread"])
    X = import_module("numpy").load(job["rows"])["X"]
    model = package.GaussianVAE(random_state=0)
    result = {"dependencies": dependencies, "skgvae": own}
    for name in ("first", "second"):
        _, result[name], _ = timed(model.fit, X)
    result["dynamo"] = int("torch._dynamo" in sys.modules)
    Path(job["pickle"]).write_bytes(pickle.dumps(model))
    return result


def load(job):
    """Return processor seconds of loading a fitted model, imports left out."""
    import_package(job["one_thread"])
    _, seconds, _ = timed(pickle.loads, Path(job["pickle"]).read_bytes())
    return {"load": seconds}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    result = {"fit": fit, "steps": steps, "first": first, "load": load}[job["part"]](job)
    print(json.dumps({**result, "package": sys.modules["skgvae"].__file__}))

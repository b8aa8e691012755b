"""What belongs to the whole process is left as it was, also by threads and in forked children."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.utils.fixes import parse_version
from threadpoolctl import threadpool_info, threadpool_limits

from skgvae import GaussianVAE, GaussianVAERegressor

FAST = {"max_epochs": 1, "hidden_layer_sizes": (8,), "n_estimators": 1}


@pytest.fixture(scope="module", name="X")
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((600, 2)) @ rng.standard_normal((2, 5)) + rng.standard_normal(
        (600, 5)
    )


def state_of_the_process():
    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    silenced = [f for f in warnings.filters if f[2] is ConvergenceWarning]
    return blas, silenced


@pytest.mark.parametrize("how", ["threads", "joblib"])
def test_fits_side_by_side_leave_the_process_as_it_was(how, X):
    with threadpool_limits(2, user_api="blas"):
        before = state_of_the_process()
        for _ in range(3):  # it depends on which of them ends first
            _fit_three(how, X)
        assert state_of_the_process() == before


def _fit_three(how, X):
    if how == "joblib":
        with joblib.parallel_config("threading", n_jobs=3):
            cross_val_score(GaussianVAE(random_state=0, **FAST), X, cv=3)
        return
    fits = [GaussianVAE(random_state=i, **FAST).fit for i in range(3)]
    threads = [threading.Thread(target=fit, args=(X,)) for fit in fits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_answers_as_its_parent():
    # In a process of its own, with two threads: torch's pool does not survive the fork.
    code = """
        import multiprocessing, joblib, numpy as np, torch
        from sklearn.model_selection import cross_val_score
        from skgvae import GaussianVAERegressor
        torch.set_num_threads(2)
        X = np.random.default_rng(0).standard_normal((300, 20))
        model = GaussianVAERegressor(max_epochs=2, n_estimators=1, batch_size=300,
                                     hidden_layer_sizes=(256,), random_state=0).fit(X, X[:, 0])
        known = model.predict(X), cross_val_score(model, X, X[:, 0], cv=2)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.map(model.predict, [X])[0]
        assert np.allclose(known[0], found)
        with joblib.parallel_backend("multiprocessing", n_jobs=2):
            found = cross_val_score(model, X, X[:, 0], cv=2)
        assert np.allclose(known[1], found, atol=1e-3)
    """
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        check=True,
        timeout=120,
        env=environment,
    )


def test_classical_start_works_under_array_api_dispatch():
    if parse_version(sklearn.__version__) < parse_version("1.7"):  # which does not bring it along
        pytest.importorskip("array_api_compat")
    code = """
        import numpy as np, sklearn
        from skgvae import GaussianVAE
        X = np.random.default_rng(0).standard_normal((60, 3))
        with sklearn.config_context(array_api_dispatch=True):
            vae = GaussianVAE(max_epochs=1, hidden_layer_sizes=(8,), random_state=0).fit(X)
        assert np.isfinite(vae.score(X))
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=120,
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
    )


def _predict(model, X):
    return model.predict(X)


@pytest.mark.skipif("spawn" not in multiprocessing.get_all_start_methods(), reason="no spawn")
def test_a_spawned_child_answers_as_its_parent(X):
    model = GaussianVAERegressor(random_state=0, **FAST).fit(X, X[:, 0])
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(_predict)(model, X) for _ in range(2))
    for predicted in found:
        np.testing.assert_allclose(predicted, model.predict(X))


@pytest.mark.parametrize("method", ["score_samples", "transform", "reconstruct"])
def test_the_number_of_threads_changes_no_bit(method, X):
    model, X = GaussianVAE(random_state=0, **FAST).fit(X), np.tile(X, (4, 1))
    before, answers = torch.get_num_threads(), []
    try:
        for n_threads in 1, 2, 3:
            torch.set_num_threads(n_threads)
            answers.append(getattr(model, method)(X))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(answers[0], answer) for answer in answers)


def test_each_thread_of_an_answer_works_alone(X, monkeypatch):
    model, numbers = GaussianVAE(random_state=0, **FAST).fit(X), set()
    function = model._units.forward

    def forward(*args):
        numbers.add((threading.get_ident(), torch.get_num_threads()))
        return function(*args)

    monkeypatch.setattr(model._units, "forward", forward)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        model.transform(np.tile(X, (20, 1)))
    finally:
        torch.set_num_threads(before)
    assert {number for _, number in numbers} == {1}
    assert len(numbers) > 1


def threads_of_an_answer(model, X):
    """Return how many threads work on an answer, and the answer."""
    seen, function = set(), model._units.forward

    def forward(*args):
        seen.add(threading.get_ident())
        return function(*args)

    model._units.forward = forward
    answer = model.transform(X)
    del model._units.forward
    return len(seen), answer


def test_a_worker_of_joblib_keeps_to_its_threads(X):
    model, X = GaussianVAE(random_state=0, **FAST).fit(X), np.tile(X, (20, 1))
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        calls = [joblib.delayed(threads_of_an_answer)(model, X) for _ in range(2)]
        for n_threads, answer in joblib.Parallel()(calls):
            assert n_threads == 1
            np.testing.assert_array_equal(answer, model.transform(X))

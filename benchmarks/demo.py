"""Held-out log density and latent features of GaussianVAE on data that scikit-learn brings.

    python benchmarks/demo.py

Default settings, beside classical models each tuned by cross-validation; one split. Training of
GaussianVAE differs between seeds, and in the last digits between processors, which may lead it
elsewhere: so there are five seeds, and the smallest and the largest result.
"""

import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

SEEDS = range(5)


def classical(n_features):
    """Return grid searches over the models that GaussianVAE is compared with."""
    widths = [k for k in (2, 4, 8, 16, 24, 32, 48) if k < n_features]
    mixture = GaussianMixture(reg_covar=1e-3, random_state=0)
    grid = {"n_components": [1, 2, 3, 5, 10, 20], "covariance_type": ["full", "diag"]}
    factors = FactorAnalysis(max_iter=100)
    searches = {
        "PCA": GridSearchCV(PCA(), {"n_components": widths}, cv=3),
        "FactorAnalysis": GridSearchCV(factors, {"n_components": widths[:5]}, cv=3, n_jobs=2),
        "GaussianMixture": GridSearchCV(mixture, grid, cv=3, n_jobs=2),
    }
    return {name: make_pipeline(StandardScaler(), s) for name, s in searches.items()}


def density(model, X_train, X_test):
    """Return held-out nats a row in standardised units, and the seconds of the fit."""
    start = time.perf_counter()
    model.fit(X_train)
    seconds = time.perf_counter() - start
    score = model.score(X_test)
    if isinstance(model, GaussianVAE):  # which answers in the units of X
        score += np.log(X_train.std(axis=0)[X_train.std(axis=0) > 0]).sum()
    return score, seconds


def print_densities(name, X, y):
    X_train, X_test = train_test_split(X, stratify=y, random_state=0)
    models = {"GaussianVAE": [GaussianVAE(random_state=seed) for seed in SEEDS]}
    models |= {model_name: [model] for model_name, model in classical(X.shape[1]).items()}
    for model_name, of_seeds in models.items():
        scores, seconds = np.transpose([density(model, X_train, X_test) for model in of_seeds])
        print(f"{model_name:<24}{name:<15}{describe(scores, 2):>28}{np.mean(seconds):>8.1f}")


def print_accuracies(X, y):
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    for of_seeds in ([GaussianVAE(5, random_state=seed) for seed in SEEDS], [PCA(5)]):
        accuracies = []
        for reduction in of_seeds:
            pipeline = make_pipeline(
                StandardScaler(), reduction, LogisticRegression(max_iter=2000)
            )
            accuracies.append(pipeline.fit(X_train, y_train).score(X_test, y_test))
        print(f"StandardScaler -> {type(reduction).__name__:<21}{describe(accuracies, 3):>28}")


def describe(values, digits):
    """Return the mean, and the range of several."""
    mean, lowest, highest = (f"{f(values):.{digits}f}" for f in (np.mean, np.min, np.max))
    return f"{mean} ({lowest} to {highest})" if len(values) > 1 else mean


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the classical models
    cancer, digits = load_breast_cancer(), load_digits()
    # The digits are counts; noise of one unit makes them continuous, without which a density
    # can grow without limit on their grid.
    continuous = digits.data + np.random.default_rng(0).uniform(size=digits.data.shape)
    print(f"{'held-out log-likelihood':<24}{'data':<15}{'nats a row':>28}{'fit, s':>8}")
    print_densities("breast cancer", cancer.data, cancer.target)
    print_densities("digits", continuous, digits.target)
    print(f"\n{'logistic regression of digits on 5 components':<45}{'accuracy':>22}")
    print_accuracies(digits.data, digits.target)

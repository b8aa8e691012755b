"""Held-out log density, a search and latent features of GaussianVAE on data of scikit-learn.

    python benchmarks/demo.py

GaussianVAE has its default settings; each classical model is tuned by cross-validation. There is
one split. Results of GaussianVAE differ between seeds, and slightly between processors, so five
seeds are fitted and the table has their mean, smallest and largest result. The search is over
latent size and KL weight, with one model and 20 epochs for each candidate and fold.

Everything runs on one thread, so processor time means the same on every machine: it is the time on
the clock if no other program needs the core.
"""

import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skgvae import GaussianVAE
from skgvae.model_selection import StackedGridSearchCV

SEEDS = range(5)
TIMES = f"{'CPU, s':>10}{'clock, s':>10}"  # of one fit


def classical(n_features):
    """Return grid searches over the models that GaussianVAE is compared with."""
    widths = [k for k in (2, 4, 8, 16, 24, 32, 48) if k < n_features]
    mixture = GaussianMixture(reg_covar=1e-3, random_state=0)
    grid = {"n_components": [1, 2, 3, 5, 10, 20], "covariance_type": ["full", "diag"]}
    factors = FactorAnalysis(max_iter=100)
    searches = {
        "PCA": GridSearchCV(PCA(), {"n_components": widths}, cv=3),
        "FactorAnalysis": GridSearchCV(factors, {"n_components": widths[:5]}, cv=3),
        "GaussianMixture": GridSearchCV(mixture, grid, cv=3),
    }
    return {name: make_pipeline(StandardScaler(), s) for name, s in searches.items()}


def clocks():
    """Return the processor time of this process and the time on the clock, in seconds."""
    return np.array([time.process_time(), time.perf_counter()])


def density(model, X_train, X_test):
    """Return held-out nats a row in standardised units, and the seconds of the fit."""
    start = clocks()
    model.fit(X_train)
    seconds = clocks() - start
    score = model.score(X_test)
    if isinstance(model, (GaussianVAE, StackedGridSearchCV)):  # which answer in the units of X
        score += np.log(X_train.std(axis=0)[X_train.std(axis=0) > 0]).sum()
    return score, *seconds


def accuracy(reduction, X_train, X_test, y_train, y_test):
    """Return the held-out accuracy after a reduction, and the seconds of the fit."""
    pipeline = make_pipeline(StandardScaler(), reduction, LogisticRegression(max_iter=2000))
    start = clocks()
    pipeline.fit(X_train, y_train)
    seconds = clocks() - start
    return pipeline.score(X_test, y_test), *seconds


def print_densities(name, X, y):
    X_train, X_test = train_test_split(X, stratify=y, random_state=0)
    models = {"GaussianVAE": [GaussianVAE(random_state=seed) for seed in SEEDS]}
    models |= {model_name: [model] for model_name, model in classical(X.shape[1]).items()}
    for model_name, of_seeds in models.items():
        results = [density(model, X_train, X_test) for model in of_seeds]
        print_row(f"{model_name:<24}{name}", *np.transpose(results), digits=2)


def print_accuracies(X, y):
    split = train_test_split(X, y, stratify=y, random_state=0)
    for of_seeds in ([GaussianVAE(5, random_state=seed) for seed in SEEDS], [PCA(5)]):
        results = [accuracy(reduction, *split) for reduction in of_seeds]
        name = f"StandardScaler -> {type(of_seeds[0]).__name__}"
        print_row(name, *np.transpose(results), digits=3)


def print_search(X, y):
    X_train, X_test = train_test_split(X, stratify=y, random_state=0)
    grid = {"n_components": [2, 4, 8, 16], "kl_weight": [0.5, 1.0, 2.0, 4.0]}
    model = GaussianVAE(n_estimators=1, max_epochs=20, random_state=0)
    search = StackedGridSearchCV(model, grid, cv=KFold(3, shuffle=True, random_state=0))
    score, *seconds = density(search, X_train, X_test)
    print_row("StackedGridSearchCV, 48 fits", [score], *np.transpose([seconds]), digits=2)
    print(f"    its choice: {search.best_params_}")


def print_row(name, values, processor, clock, digits):
    """Print a row at once: the next one may take minutes."""
    times = f"{np.mean(processor):>10.1f}{np.mean(clock):>10.1f}"
    print(f"{name:<39}{describe(values, digits):>28}{times}", flush=True)


def describe(values, digits):
    """Return the mean, and the range of several."""
    mean, lowest, highest = (f"{f(values):.{digits}f}" for f in (np.mean, np.min, np.max))
    return f"{mean} ({lowest} to {highest})" if len(values) > 1 else mean


def main():
    cancer, digits = load_breast_cancer(), load_digits()
    # The digits are counts; noise of one unit makes them continuous, without which a density
    # can grow without limit on their grid.
    continuous = digits.data + np.random.default_rng(0).uniform(size=digits.data.shape)
    print(f"{'held-out log-likelihood':<24}{'data':<15}{'nats a row':>28}{TIMES}")
    print_densities("breast cancer", cancer.data, cancer.target)
    print_search(cancer.data, cancer.target)
    print_densities("digits", continuous, digits.target)
    print(f"\n{'logistic regression of digits on 5 components':<45}{'accuracy':>22}{TIMES}")
    print_accuracies(digits.data, digits.target)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the classical models
    torch.set_num_threads(1)
    print("This takes about 3 minutes on one free core, longer if other programs need the core.")
    print("Both times in a row are means over its fits.\n")
    start = clocks()
    with threadpool_limits(1):
        main()
    processor, clock = (clocks() - start) / 60
    print(f"\nIn all {processor:.0f} min of processor time, {clock:.0f} min on the clock")

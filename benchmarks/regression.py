"""Predictive distributions of GaussianVAERegressor and others on public regression sets.

    python benchmarks/regression.py DATA [--splits 5] [--sets concrete energy ...] [--models ...]

DATA is a folder of ``reg_<name>.npz`` files with arrays X, y and splits (one row of test
indices a split, padded with -1): the standard splits of Hernández-Lobato & Adams, 2015,
arXiv:1502.05336. All models have their default settings; ours sees raw columns. A table for each
set has means over its splits: NLL in nats with its standard error, CRPS, RMSE and the interval
score of 90 % intervals in the units of y, the coverage of intervals in percent, and the processor
time of fit and predictions on one thread. "HistGradientBoosting" predicts 21 quantiles, moved by
what a held-out fifth of the training rows says (split conformal prediction); quantile forests and
it have no density. NGBoost ends early by a held-out tenth. NGBoost and quantile-forest are there
where they are installed. Published NLL are means over all twenty splits (protein: five).
"""

import argparse
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor

COVERAGES = 0.5, 0.8, 0.9, 0.95
LEVELS = np.arange(0.025, 0.99, 0.025)  # of quantiles, which hold the ends of all intervals
LOWER = 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45
CONFORMAL_LEVELS = np.array([*LOWER, 0.5, *(1 - level for level in reversed(LOWER))])
MOST_ROWS = 1500  # of a Gaussian process
# Published NLL, the best of Deep Ensembles, NGBoost, WGBoost and CARD first. Those of TabResFlow
# and TabPFN, which is pre-trained: https://github.com/ayhamo/Probabilistic_Point_Estimations.
PUBLISHED = {
    "concrete": "best of four 2.83, TabResFlow 2.89, TabPFN 2.21",
    "energy": "best of four 0.53, TabResFlow 0.64, TabPFN 0.15",
    "kin8nm": "best of four -1.31, TabResFlow -1.28, TabPFN -1.27",
    "protein": "best of four 2.47, TabResFlow 1.93, TabPFN 1.73",
    "wine_red": "best of four 0.87, TabResFlow -1.16, TabPFN -2.72 (spikes on integers)",
    "yacht": "best of four 0.16, TabResFlow 0.56, TabPFN -0.73",
}


def load(path, k):
    """Return training and test rows of split k."""
    data = np.load(path)
    X, y = data["X"].astype(float), data["y"].astype(float).ravel()
    test = data["splits"][k]
    test = test[test >= 0]
    train = np.setdiff1d(np.arange(len(X)), test)
    return X[train], y[train], X[test], y[test]


# Each returns mean, quantiles at LEVELS (n, L) and log densities (None if there are none).


def ours(X, y, X_test, y_test, seed):
    model = GaussianVAERegressor(random_state=seed).fit(X, y)
    quantiles = model.predict_quantiles(X_test, LEVELS)
    return model.predict(X_test), quantiles, model.score_samples(X_test, y_test)


def normal(mean, std, y_test):
    log_prob = stats.norm.logpdf(y_test, mean, std)
    return mean, mean[:, None] + std[:, None] * stats.norm.ppf(LEVELS), log_prob


def ngboost(X, y, X_test, y_test, seed):
    from ngboost import NGBRegressor

    X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.1, random_state=seed)
    model = NGBRegressor(n_estimators=2000, verbose=False, random_state=seed)
    model.fit(X, y, X_val=X_valid, Y_val=y_valid, early_stopping_rounds=50)
    found = model.pred_dist(X_test, max_iter=model.best_val_loss_itr).params
    return normal(found["loc"], found["scale"], y_test)


def forest(X, y, X_test, y_test, seed):
    from quantile_forest import RandomForestQuantileRegressor

    model = RandomForestQuantileRegressor(random_state=seed).fit(X, y)
    return model.predict(X_test, "mean"), model.predict(X_test, list(LEVELS)), None


def gaussian_process(X, y, X_test, y_test, seed):
    if len(X) > MOST_ROWS:
        return None
    kernel = ConstantKernel() * RBF(np.ones(X.shape[1])) + WhiteKernel()
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    model = make_pipeline(StandardScaler(), process).fit(X, y)
    return normal(*model.predict(X_test, return_std=True), y_test)


def ridge(X, y, X_test, y_test, seed):
    model = make_pipeline(StandardScaler(), BayesianRidge()).fit(X, y)
    return normal(*model.predict(X_test, return_std=True), y_test)


def boosting(X, y, X_test, y_test, seed):
    X, X_held, y, y_held = train_test_split(X, y, test_size=0.2, random_state=seed)
    mean = HistGradientBoostingRegressor(random_state=seed).fit(X, y).predict(X_test)
    found = []
    for level in CONFORMAL_LEVELS:
        model = HistGradientBoostingRegressor(loss="quantile", quantile=level, random_state=seed)
        miss = np.sort(y_held - model.fit(X, y).predict(X_held))
        place = min(int(np.ceil(level * (len(miss) + 1))), len(miss)) - 1
        found.append(model.predict(X_test) + miss[place])
    found = np.sort(found, 0)
    rows = [np.interp(LEVELS, CONFORMAL_LEVELS, row) for row in found.T]
    return mean, np.array(rows), None


MODELS = {
    "ours": ours,
    "NGBoost": ngboost,
    "quantile forest": forest,
    "GaussianProcess": gaussian_process,
    "HistGradientBoosting": boosting,
    "BayesianRidge": ridge,
}
NEEDED = {"NGBoost": "ngboost", "quantile forest": "quantile_forest"}


def evaluate(path, k, model):
    """Return NLL, CRPS, RMSE, interval score, four coverages and processor time."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y, X_test, y_test = load(path, k)
    start = time.process_time()
    found = MODELS[model](X, y, X_test, y_test, k)
    seconds = time.process_time() - start
    if found is None:
        return None
    mean, quantiles, log_prob = found
    miss = y_test[:, None] - quantiles
    crps = 2 * np.maximum(LEVELS * miss, (LEVELS - 1) * miss).mean()
    place = {round(level, 3): i for i, level in enumerate(LEVELS)}
    ends = [quantiles[:, [place[round(0.5 - c / 2, 3)], place[round(0.5 + c / 2, 3)]]]
            for c in COVERAGES]  # fmt: skip
    held = [np.mean((y_test >= low) & (y_test <= high)) for low, high in (e.T for e in ends)]
    low, high = ends[2].T
    outside = np.maximum(low - y_test, 0) + np.maximum(y_test - high, 0)
    nll = np.nan if log_prob is None else -log_prob.mean()
    rmse = np.sqrt(np.mean((mean - y_test) ** 2))
    return nll, crps, rmse, np.mean(high - low + outside / 0.05), *held, seconds


def main(args):
    models = args.models or [m for m in MODELS if m not in NEEDED or find_spec(NEEDED[m])]
    for name in args.sets:
        print(f"\n{name}; published NLL: {PUBLISHED[name]}\n")
        names = "NLL", "CRPS", "RMSE", "interval score", *(f"{100 * c:g} %" for c in COVERAGES)
        print(f"| model | {' | '.join(names)} | processor, s |\n" + "|---" * 10 + "|")
        for model in models:
            jobs = [delayed(evaluate)(args.data / f"reg_{name}.npz", k, model)
                    for k in range(args.splits)]  # fmt: skip
            rows = Parallel(n_jobs=args.jobs)(jobs)
            if rows[0] is None:
                continue
            rows = np.array(rows)
            nll, crps, rmse, score, *held = rows.mean(0)[:-1]
            error = rows[:, 0].std(ddof=1) / len(rows) ** 0.5
            nll = "" if np.isnan(nll) else f"{nll:.2f} ± {error:.2f}"
            held = " | ".join(f"{100 * share:.0f}" for share in held)
            seconds = np.median(rows[:, -1])
            print(f"| {model} | {nll} | {crps:.3g} | {rmse:.3g} | {score:.3g} | {held} "
                  f"| {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--models", nargs="*", choices=list(MODELS))
    parser.add_argument("--jobs", type=int, default=2)
    main(parser.parse_args())

"""
Prediction intervals, and whether they hold
===========================================

What does a regressor know about its own errors? On the diabetes data a mean-only regressor
can be given one width for all rows; ``GaussianVAERegressor`` predicts a distribution for each.
"""

# %%
# Fit both to three quarters of the rows. The mean-only regressor gets intervals from its
# residuals on held-back rows, the best that can be done with one number.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split

from skgvae import GaussianVAERegressor
from skgvae.display import PITDisplay, PredictiveIntervalDisplay
from skgvae.metrics import calibration_summary, neg_crps_score

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)

model = GaussianVAERegressor(random_state=0).fit(X_train, y_train)
low, high = model.predict_interval(X_test, coverage=0.9).T

X_mean, X_held, y_mean, y_held = train_test_split(X_train, y_train, random_state=0)
trees = HistGradientBoostingRegressor(random_state=0).fit(X_mean, y_mean)
half_width = np.quantile(np.abs(y_held - trees.predict(X_held)), 0.9)
centre = trees.predict(X_test)

# %%
# Coverage and width on rows that neither has seen
# ------------------------------------------------
bounds = {
    "GaussianVAERegressor": (low, high),
    "HistGradientBoosting, one width": (centre - half_width, centre + half_width),
}
print(f"{'90 % intervals on held-out rows':<34}{'coverage':>9}{'mean width':>12}")
for name, (lower, upper) in bounds.items():
    inside = (lower <= y_test) & (y_test <= upper)
    print(f"{name:<34}{inside.mean():>9.2f}{(upper - lower).mean():>12.1f}")
print(f"\nCRPS of GaussianVAERegressor: {-neg_crps_score(model, X_test, y_test):.1f}")
for name, value in calibration_summary(model, X_test, y_test).items():
    print(f"{name:<14}{value:>6.2f}")

# %%
# The intervals follow the rows: they are wide where the outcome is uncertain.
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
PredictiveIntervalDisplay.from_estimator(model, X_test, y_test, ax=axis)
axis.set(ylabel="disease progression after a year")

# %%
# The transform of y by its own predictive distribution function is uniform where these are right:
# a flat histogram, and a curve along the diagonal, up to what so few rows can tell.
PITDisplay.from_estimator(model, X_test, y_test)
plt.show()

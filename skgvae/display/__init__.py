"""What does one look at? Figures, in the manner of scikit-learn's displays.

``from_estimator`` asks a fitted estimator (or a Pipeline or search that ends in one) by its
public methods, ``from_predictions`` takes arrays; both plot, and return a display that holds the
arrays and plots them again: ``plot(ax=None)``. Displays of one panel leave it in ``ax_``, those
of several in ``axes_``; the figure is ``figure_``. They need matplotlib: ``skgvae[plot]``.
"""

from .latent import LatentDirectionsDisplay, LatentSpaceDisplay
from .predictive import PITDisplay, PredictiveIntervalDisplay
from .reconstruction import ReconstructionDisplay
from .training import KLPerComponentDisplay, TrainingCurveDisplay
from .traversal import LatentTraversalDisplay

__all__ = [
    "KLPerComponentDisplay",
    "LatentDirectionsDisplay",
    "LatentSpaceDisplay",
    "LatentTraversalDisplay",
    "PITDisplay",
    "PredictiveIntervalDisplay",
    "ReconstructionDisplay",
    "TrainingCurveDisplay",
]

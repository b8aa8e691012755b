"""Labels: which rows have one, what classes there are, what each row weighs."""

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets


def find_labeled(y, unlabeled):
    """Return a mask of the rows with a label: not the marker. The marker None marks no row."""
    if unlabeled is None:
        return np.ones(len(y), bool)
    if y.dtype.kind != "O" and (y.dtype.kind in "US") != isinstance(unlabeled, str):
        raise ValueError(
            f"unlabeled={unlabeled!r} can equal no label in y, whose type is {y.dtype}."
        )
    return y != unlabeled


def distinct(labels):
    """Return the different labels, sorted."""
    try:
        return np.unique(labels)
    except TypeError:
        types = ", ".join(sorted({type(label).__name__ for label in labels}))
        raise ValueError(
            f"Labels of {types} cannot be sorted. Let all be numbers, or all strings; rows "
            "without a label have one more such value, which unlabeled names."
        ) from None


def check_any_labeled(is_labeled, unlabeled):
    """Raise where no row has a label."""
    if not is_labeled.any():
        raise ValueError(
            f"No row has a label: unlabeled={unlabeled!r} marks rows without one. Give the class "
            "of at least one row of positive weight in y."
        )


def check_classes(classes, unlabeled):
    """Return the classes that a user names, sorted, without the marker."""
    classes = distinct(column_or_1d(classes))
    return classes[find_labeled(classes, unlabeled)]


def choose_classes(y, classes=None):
    """Return the classes, sorted: those found in the labels y unless given."""
    found = distinct(y)
    if len(y):
        with np.errstate(invalid="ignore"):  # it casts floats to integers, to see if they are
            check_classification_targets(y)
    if classes is None:
        return found
    unknown = np.setdiff1d(found, classes)
    if len(unknown):
        raise ValueError(
            f"y holds {unknown.tolist()}, which are not among the classes {classes.tolist()}. "
            "Name all classes in the first call of partial_fit: partial_fit(X, y, classes=...)."
        )
    return classes


def weigh_labels(label, weight, classes, class_weight):
    """Return the weight of each row in the cross-entropy, with mean one.

    Parameters
    ----------
    label : ndarray of shape (n_samples,)
        Indices of classes.
    weight : ndarray of shape (n_samples,)
        Weights of the rows, zero where there is no label.
    classes : ndarray of shape (n_classes,)
        Classes.
    class_weight : dict, "balanced" or None
        As in scikit-learn; "balanced" makes the weights of all classes add up to the same.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    per_class = np.ones(len(classes))
    if class_weight == "balanced":
        total = np.bincount(label, weight, minlength=len(classes))
        found = total > 0
        per_class[found] = total.sum() / (found.sum() * total[found])
    elif class_weight is not None:
        per_class = compute_class_weight(class_weight, classes=classes, y=classes)
    if not (np.isfinite(per_class).all() and (per_class >= 0).all()):
        raise ValueError(f"class_weight={class_weight!r} must be finite and not negative.")
    label_weight = weight * per_class[label]
    if weight.any() and not label_weight.any():
        raise ValueError(f"class_weight={class_weight!r} leaves no row with a weight.")
    return label_weight / label_weight.mean() if label_weight.any() else label_weight

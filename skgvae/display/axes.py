"""What the displays share: where to draw, in which colours, and checks."""

import numpy as np

# Distinct with any colour vision, and in grey: Okabe & Ito, "Color Universal Design", 2008.
BLUE, ORANGE, GREY, BLACK = "#0072b2", "#d55e00", "#999999", "#000000"
# For classes: Petroff, "Accessible Color Sequences for Data Visualization", 2021,
# arXiv:2107.02270.
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
FEW_FEATURES = 16  # the names of more do not fit below one axis


def one_axes(ax, figsize=(4.8, 3.6)):
    """Return the given axes, or those of a new figure."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    return ax


def grid_of_axes(ax, shape, figsize, **kwargs):
    """Return an array of axes of the given shape.

    If ax is None, they belong to a new figure. If ax is one Axes, they take its place. If ax is
    a collection of Axes, they are these Axes. Keyword arguments are those of ``subplots``.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        figure = plt.figure(figsize=figsize, layout="constrained")
        return figure.subplots(*shape, squeeze=False, **kwargs)
    if isinstance(ax, Axes):
        spec = ax.get_subplotspec()
        if spec is None:
            raise ValueError(
                f"ax is no subplot and cannot be divided: pass {np.prod(shape)} axes, or None."
            )
        ax.set_axis_off()
        return spec.subgridspec(*shape).subplots(squeeze=False, **kwargs)
    axes = np.asarray(ax, dtype=object)
    if axes.size != np.prod(shape):
        raise ValueError(f"ax holds {axes.size} axes, but {np.prod(shape)} are needed.")
    return axes.reshape(shape)


def legend_above(ax, n_columns):
    """Put the legend where it hides nothing."""
    ax.legend(
        fontsize="small",
        ncols=n_columns,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def name_features(ax, n_features, names):
    """Put names or numbers of features below an axis."""
    if names is not None and n_features <= FEW_FEATURES:
        ax.set_xticks(range(n_features), names, rotation=45, ha="right")
    else:
        ax.set_xlabel("feature")


def show_image(ax, image, **kwargs):
    """Draw an image without ticks."""
    mappable = ax.imshow(image, **kwargs)
    ax.set(xticks=[], yticks=[])
    return mappable


def check_image_shape(image_shape, n_features):
    """Return the shape of an image as a tuple; each feature must be a pixel."""
    shape = tuple(image_shape)
    if len(shape) != 2 or np.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={image_shape!r} must be the height and width of {n_features} pixels."
        )
    return shape


def check_components(components, width):
    """Return numbers of latent components as an array."""
    components = np.atleast_1d(components)
    if components.dtype.kind not in "iu" or components.min() < 0 or components.max() >= width:
        raise ValueError(
            f"components must be integers from 0 to {width - 1}, got {components.tolist()!r}."
        )
    return components

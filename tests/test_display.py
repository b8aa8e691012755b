"""What the displays hold is what the estimators answer; what they draw is what they hold."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skgvae import (
    GaussianVAE,
    GaussianVAEClassifier,
    GaussianVAEOutlierDetector,
    GaussianVAERegressor,
    display,
)
from skgvae.display import (
    KLPerComponentDisplay,
    LatentDirectionsDisplay,
    LatentSpaceDisplay,
    LatentTraversalDisplay,
    OutlierDisplay,
    PITDisplay,
    PredictiveIntervalDisplay,
    ReconstructionDisplay,
    TrainingCurveDisplay,
)
from skgvae.metrics import probability_integral_transform

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("agg")

FAST = {"max_epochs": 5, "hidden_layer_sizes": (8,), "n_draws": 32, "random_state": 0}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def frame():
    return load_iris(as_frame=True)


@pytest.fixture(scope="module")
def plane(frame):
    return GaussianVAE(2, **FAST).fit(frame.data)


@pytest.fixture(scope="module")
def wide(frame):
    return GaussianVAE(4, **FAST).fit(frame.data)


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def regressor(diabetes):
    X, y = diabetes
    return GaussianVAERegressor(2, **FAST).fit(X[:300], y[:300])


@pytest.fixture(scope="module")
def many_targets(diabetes):
    X, y = diabetes
    Y = np.column_stack([y, X["bmi"]])
    return GaussianVAERegressor(n_estimators=1, **FAST).fit(X, Y), X[:40], Y[:40]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# All of them


def make_detector(frame):
    model = GaussianVAE(max_epochs=3, n_estimators=1)
    return GaussianVAEOutlierDetector(model, random_state=0).fit(frame.data)


def make_all(plane, regressor, frame, diabetes):
    X, y = (part[300:] for part in diabetes)
    return {
        "KLPerComponentDisplay": KLPerComponentDisplay.from_estimator(plane),
        "LatentDirectionsDisplay": LatentDirectionsDisplay.from_estimator(plane, frame.data),
        "LatentSpaceDisplay": LatentSpaceDisplay.from_estimator(
            plane, frame.data, frame.target, background=True, ellipses=True
        ),
        "LatentTraversalDisplay": LatentTraversalDisplay.from_estimator(plane),
        "OutlierDisplay": OutlierDisplay.from_estimator(make_detector(frame), frame.data),
        "PITDisplay": PITDisplay.from_estimator(regressor, X, y),
        "PredictiveIntervalDisplay": PredictiveIntervalDisplay.from_estimator(regressor, X, y),
        "ReconstructionDisplay": ReconstructionDisplay.from_estimator(plane, frame.data[:2]),
        "TrainingCurveDisplay": TrainingCurveDisplay.from_estimator(plane),
    }


@pytest.fixture
def displays(plane, regressor, frame, diabetes):
    made = make_all(plane, regressor, frame, diabetes)
    assert set(made) == set(display.__all__)
    return made


def panels(made):
    return list(np.ravel(made.axes_)) if hasattr(made, "axes_") else [made.ax_]


@pytest.mark.parametrize("name", display.__all__)
def test_plot_again_on_given_axes(name, displays):
    made = displays[name]
    n_panels, first = len(panels(made)), made.figure_
    figure, axes = plt.subplots(1, n_panels + 1)
    given = axes[0] if n_panels == 1 else axes[:n_panels]
    assert made.plot(given) is made
    assert made.figure_ is figure
    assert panels(made) == list(axes[:n_panels])
    assert not axes[-1].has_data()
    assert first is not figure
    assert all(panel.has_data() for panel in panels(made))
    figure.canvas.draw()


@pytest.mark.parametrize("name", display.__all__)
def test_axes_are_labelled(name, displays):
    axes = panels(displays[name])
    assert all(ax.get_ylabel() for ax in axes)
    assert axes[-1].get_xlabel() or axes[-1].get_xticklabels()[0].get_text()


@pytest.mark.parametrize("name", ["TrainingCurveDisplay", "PITDisplay", "LatentTraversalDisplay"])
def test_one_axes_is_divided(name, displays):
    made = displays[name]
    figure, (left, right) = plt.subplots(1, 2)
    made.plot(left)
    assert made.figure_ is figure
    assert not left.axison
    assert all(ax.get_position().x1 < right.get_position().x0 for ax in panels(made))


def test_axes_that_cannot_be_used(displays):
    with pytest.raises(ValueError, match="ax holds 2 axes, but 3 are needed"):
        displays["TrainingCurveDisplay"].plot(plt.subplots(1, 2)[1])
    with pytest.raises(ValueError, match="no subplot and cannot be divided"):
        displays["PITDisplay"].plot(plt.figure().add_axes((0, 0, 1, 1)))


def make_one(name, model, X, y):
    """Call from_estimator with the rows and targets that this display takes."""
    taken = {
        "TrainingCurveDisplay": (),
        "KLPerComponentDisplay": (),
        "LatentTraversalDisplay": (),
        "PITDisplay": (X, y),
        "PredictiveIntervalDisplay": (X, y),
    }
    return getattr(display, name).from_estimator(model, *taken.get(name, (X[:5],)))


@pytest.mark.parametrize("name", display.__all__)
def test_not_fitted(name, diabetes):
    X, y = diabetes
    for model in (
        GaussianVAERegressor()
        if name in ("PITDisplay", "PredictiveIntervalDisplay")
        else GaussianVAE(),
        GridSearchCV(GaussianVAE(), {}),
        make_pipeline(GridSearchCV(GaussianVAE(), {})),
        make_pipeline(StandardScaler(), GaussianVAERegressor()),
    ):
        with pytest.raises(NotFittedError):
            make_one(name, model, X, y)


@pytest.mark.parametrize("name", display.__all__)
def test_estimators_without_what_a_display_needs(name, diabetes):
    X, y = diabetes
    vae = GaussianVAE(2, **FAST)
    probabilistic = name in ("PITDisplay", "PredictiveIntervalDisplay")
    needs = "gives no predictive distribution" if probabilistic else f"{name} needs a model with"
    for model in (Ridge(), make_pipeline(StandardScaler(), vae, Ridge())):
        with pytest.raises(TypeError, match=needs) as error:
            make_one(name, model.fit(X, y), X, y)
        assert "Ridge" in str(error.value)
    if not probabilistic and name != "OutlierDisplay":
        assert make_one(name, model[:-1], X, y).figure_  # as the error says


def test_a_regressor_has_no_reconstruction(regressor, diabetes):
    with pytest.raises(TypeError, match=r"'reconstruct', .* got GaussianVAERegressor"):
        ReconstructionDisplay.from_estimator(regressor, diabetes[0][:3])


def test_a_pipeline_is_looked_into(frame, wide):
    X, y = frame.data.to_numpy(), frame.target
    pipeline = make_pipeline(MinMaxScaler(), GaussianVAE(2, **FAST)).fit(X)
    vae, inside = pipeline[-1], pipeline[:-1].transform(X)
    space = LatentSpaceDisplay.from_estimator(pipeline, X, y)
    np.testing.assert_array_equal(space.points, vae.transform(inside))
    rows = ReconstructionDisplay.from_estimator(pipeline, X[:3])
    np.testing.assert_array_equal(rows.original, inside[:3])
    np.testing.assert_array_equal(rows.mean, vae.reconstruct(inside[:3]))
    assert len(TrainingCurveDisplay.from_estimator(pipeline).train) == vae.n_epochs_
    kl = KLPerComponentDisplay.from_estimator(pipeline, sort=False).kl
    np.testing.assert_array_equal(kl, vae.kl_per_component_)


# Training


def test_training_curve(plane):
    made = TrainingCurveDisplay.from_estimator(plane)
    for values, prefix in ((made.train, "train"), (made.valid, "valid")):
        for j, part in enumerate(("loss", "reconstruction", "kl")):
            expected = [record[f"{prefix}_{part}"] for record in plane.history_]
            np.testing.assert_array_equal(values[:, j], expected)
    train, valid, best = made.axes_[0].lines
    np.testing.assert_array_equal(train.get_ydata(), made.train[:, 0])
    np.testing.assert_array_equal(valid.get_ydata(), made.valid[:, 0])
    assert best.get_xdata()[0] == plane.best_epoch_ == made.best_epoch
    # With kl_weight=1 the loss of one draw is the sum of the others; several are tighter.
    assert (made.train[:, 0] < made.train[:, 1:].sum(1)).all()


def test_training_curve_is_an_average_over_models(frame):
    vae = GaussianVAE(2, **FAST | {"n_estimators": 3}).fit(frame.data)
    curve = TrainingCurveDisplay.from_estimator(vae).valid[:, 0]
    of_models = np.array([record["valid_loss"] for record in vae.net_.result_.records])
    assert of_models.shape == (5, 3)
    np.testing.assert_allclose(curve, of_models.mean(1), rtol=1e-5)


def test_training_curve_without_held_out_rows(frame):
    vae = GaussianVAE(2, validation_fraction=None, **FAST).fit(frame.data)
    made = TrainingCurveDisplay.from_estimator(vae)
    assert made.valid is None
    assert labels(made.axes_[0]) == ["training rows", "epoch kept, 5"]


def test_training_curve_of_a_fit_and_a_partial_fit(frame):
    vae = GaussianVAE(2, **FAST).fit(frame.data).partial_fit(frame.data)
    made = TrainingCurveDisplay.from_estimator(vae)
    assert np.isfinite(made.train).all()
    assert np.isfinite(made.valid).all(1).tolist() == [True] * 5 + [False]
    assert "epoch kept, 6" in labels(made.axes_[0])


def test_training_curve_of_no_epoch(frame):
    vae = GaussianVAE(2, max_epochs=0).fit(frame.data)
    with pytest.raises(ValueError, match="no epoch"):
        TrainingCurveDisplay.from_estimator(vae)


def test_kl_per_component():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((500, 1))
    X = factor * [1, -1, 1] + 0.1 * rng.standard_normal((500, 3))
    vae = GaussianVAE(3, prior="standard", **FAST).fit(X)
    made = KLPerComponentDisplay.from_estimator(vae)
    np.testing.assert_array_equal(made.kl, np.sort(vae.kl_per_component_)[::-1])
    np.testing.assert_array_equal(vae.kl_per_component_[made.components], made.kl)
    n_active = vae.n_active_components_
    assert 1 <= n_active < 3
    assert labels(made.ax_) == [f"active, over 0.01 nats: {n_active}", f"unused: {3 - n_active}"]
    heights = [bar.get_height() for bar in made.ax_.patches]
    np.testing.assert_array_equal(heights, made.kl)


# The latent space


def test_latent_space_and_its_noise(plane, frame):
    made = LatentSpaceDisplay.from_estimator(
        plane, frame.data, frame.target_names[frame.target], background=True, grid_resolution=9
    )
    mean, std = plane.encode(frame.data, return_std=True)
    np.testing.assert_array_equal(made.points, mean)
    np.testing.assert_allclose(made.covariances, [np.diag(s**2) for s in std], rtol=1e-12)
    assert labels(made.ax_) == ["setosa", "versicolor", "virginica"]
    setosa = made.ax_.collections[1].get_offsets()
    np.testing.assert_array_equal(setosa, mean[frame.target == 0])
    # Entropy of p(x | z), up to a constant.
    point = np.array([[made.grid[0][7], made.grid[1][2]]])
    scale = plane.decode(point, return_std=True)[1] / np.sqrt(plane.noise_variance_)
    assert made.noise[2, 7] == pytest.approx(stats.gmean(scale[0]))
    for axis, coordinates in enumerate(made.grid):
        assert coordinates[0] < mean[:, axis].min() < mean[:, axis].max() < coordinates[-1]


def test_latent_space_shows_the_most_informative_components(wide, frame):
    made = LatentSpaceDisplay.from_estimator(wide, frame.data)
    shown = np.sort(np.argsort(wide.kl_per_component_)[-2:])
    np.testing.assert_array_equal(made.points, wide.transform(frame.data)[:, shown])
    assert made.names == tuple(f"component {i}" for i in shown)
    chosen = LatentSpaceDisplay.from_estimator(wide, frame.data, components=(3, 0))
    np.testing.assert_array_equal(chosen.points, wide.transform(frame.data)[:, [3, 0]])


def test_latent_space_in_a_principal_plane(wide, frame):
    made = LatentSpaceDisplay.from_estimator(
        wide, frame.data, components="pca", background=True, grid_resolution=5
    )
    mean, std = wide.encode(frame.data, return_std=True)
    values, vectors = np.linalg.eigh(np.cov(mean.T))
    np.testing.assert_allclose(np.cov(made.points.T), np.diag(values[:-3:-1]), atol=1e-10)
    basis = vectors[:, :-3:-1].T
    basis *= np.sign(np.sum(basis * np.linalg.lstsq(mean, made.points)[0].T, 1))[:, None]
    np.testing.assert_allclose(made.points, mean @ basis.T, atol=1e-8)
    expected = basis @ np.diag(std[7] ** 2) @ basis.T
    np.testing.assert_allclose(made.covariances[7], expected, rtol=1e-6, atol=1e-12)
    # The map passes through the mean of the rows.
    centre = mean.mean(0)
    step = np.array([made.grid[0][4], made.grid[1][1]]) - basis @ centre
    std = wide.decode((centre + step @ basis)[None], return_std=True)[1]
    assert made.noise[1, 4] == pytest.approx(stats.gmean(std[0] / np.sqrt(wide.noise_variance_)))


def test_latent_space_of_regressor_and_classifier(regressor, diabetes, frame):
    X, y = diabetes
    made = LatentSpaceDisplay.from_estimator(regressor, X, y, background=True)
    np.testing.assert_array_equal(made.points, regressor.transform(X))
    assert made.ax_.get_legend() is None  # a colour bar, as y is a number
    assert [ax.get_ylabel() for ax in made.figure_.axes[1:]] == ["σ(z) over its average", "y"]
    model = GaussianVAEClassifier(2, **FAST).fit(frame.data, frame.target)
    made = LatentSpaceDisplay.from_estimator(model, frame.data, frame.target)
    np.testing.assert_array_equal(made.points, model.transform(frame.data))


def test_numbers_and_classes_get_other_colours(plane, frame):
    def has_legend(y):
        return LatentSpaceDisplay.from_estimator(plane, frame.data, y).ax_.get_legend() is not None

    assert has_legend(np.arange(150) % 3)
    assert has_legend(np.arange(150) % 3.0)
    assert has_legend(np.arange(150).astype(str))
    assert not has_legend(np.arange(150))
    assert not has_legend(np.arange(150) % 3 / 2)


def test_ellipses_hold_the_posterior(plane, frame):
    made = LatentSpaceDisplay.from_estimator(plane, frame.data[:5], ellipses=True)
    (ellipses,) = (c for c in made.ax_.collections if hasattr(c, "get_widths"))
    std = plane.encode(frame.data[:5], return_std=True)[1]
    np.testing.assert_allclose(ellipses.get_widths(), 2 * std.max(1), rtol=1e-6)
    np.testing.assert_allclose(ellipses.get_heights(), 2 * std.min(1), rtol=1e-6)
    along = np.abs(np.cos(np.radians(ellipses.get_angles())))
    np.testing.assert_allclose(along, std.argmax(1) == 0, atol=1e-6)


def test_latent_space_errors(plane, frame):
    def draw(model=plane, y=None, **kwargs):
        LatentSpaceDisplay.from_estimator(model, frame.data, y, **kwargs)

    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        draw(y=[0, 1])
    with pytest.raises(ValueError, match=r"integers from 0 to 1, got \[0, 2\]"):
        draw(components=[0, 2])
    with pytest.raises(ValueError, match="must be two"):
        draw(components=[0])
    with pytest.raises(ValueError, match="two numbers or 'pca', got 'umap'"):
        draw(components="umap")
    with pytest.raises(ValueError, match="two components at least"):
        draw(GaussianVAE(1, **FAST).fit(frame.data))


def test_traversal(wide, frame):
    start = wide.transform(frame.data[:1])[0]
    made = LatentTraversalDisplay.from_estimator(
        wide, start=start, components=[2, 0], span=1.5, n_steps=5
    )
    assert made.mean.shape == (2, 5, 4)
    moved = start.copy()
    moved[2] += 0.75
    np.testing.assert_allclose(made.mean[0, 3], wide.decode(moved[None])[0])
    np.testing.assert_allclose(made.mean[:, 2], np.tile(wide.decode(start[None]), (2, 1)))
    change = (made.mean[0, 3] - made.start) / np.sqrt(wide.noise_variance_)
    np.testing.assert_allclose(made.axes_[0, 0].lines[3].get_ydata(), change)
    names = [text.get_text() for text in made.axes_[-1, 0].get_xticklabels()]
    assert names == list(frame.data.columns)


def test_traversal_shows_active_components_of_any_estimator(regressor, many_targets):
    made = LatentTraversalDisplay.from_estimator(regressor)
    assert made.mean.shape[2] == 1
    order = np.argsort(-regressor.kl_per_component_)[: regressor.n_active_components_]
    np.testing.assert_array_equal(made.components, order)
    assert LatentTraversalDisplay.from_estimator(many_targets[0]).mean.shape[2] == 2


def test_traversal_of_images(wide):
    made = LatentTraversalDisplay.from_estimator(wide, n_steps=3, image_shape=(2, 2))
    assert made.axes_.shape == (len(made.components), 3)
    image = made.axes_[0, 2].images[0].get_array()
    np.testing.assert_array_equal(image, made.mean[0, 2].reshape(2, 2))


def test_traversal_errors(wide):
    with pytest.raises(ValueError, match=r"image_shape=\(3, 2\).* 4 pixels"):
        LatentTraversalDisplay.from_estimator(wide, image_shape=(3, 2))
    with pytest.raises(ValueError, match=r"start must hold 4 numbers, got shape \(2,\)"):
        LatentTraversalDisplay.from_estimator(wide, start=[0, 0])
    with pytest.raises(ValueError, match="integers from 0 to 3"):
        LatentTraversalDisplay.from_estimator(wide, components=[-1])


@pytest.mark.parametrize("grid_resolution", [6, None])
def test_directions_in_a_plane(grid_resolution, plane, frame):
    made = LatentDirectionsDisplay.from_estimator(
        plane, frame.data, grid_resolution=grid_resolution
    )
    if grid_resolution is None:
        np.testing.assert_array_equal(made.Z, plane.transform(frame.data))
    else:
        assert [len(np.unique(column)) for column in made.Z.T] == [6, 6]
    eigenvalues, directions = plane.latent_directions(made.Z)
    np.testing.assert_array_equal(made.eigenvalues, eigenvalues)
    np.testing.assert_array_equal(made.directions, directions)
    (ellipses,) = made.ax_.collections
    np.testing.assert_array_equal(ellipses.get_offsets(), made.Z)
    ratio = ellipses.get_heights() / ellipses.get_widths()
    np.testing.assert_allclose(ratio, np.sqrt(eigenvalues[:, 0] / eigenvalues[:, 1]), rtol=1e-6)
    angle = np.radians(ellipses.get_angles())
    along = np.cos(angle) * directions[:, 0, 0] + np.sin(angle) * directions[:, 0, 1]
    np.testing.assert_allclose(np.abs(along), 1, rtol=1e-6)


def test_directions_of_a_wider_space(wide, frame):
    made = LatentDirectionsDisplay.from_estimator(wide, frame.data)
    np.testing.assert_array_equal(made.Z, wide.transform(frame.data))
    expected = np.median(np.sqrt(wide.latent_directions(made.Z)[0]), 0)
    np.testing.assert_allclose(made.ax_.lines[0].get_ydata(), expected)


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_a_collapsed_plane_can_be_drawn(frame):
    X = np.random.default_rng(0).standard_normal((100, 2))
    vae = GaussianVAE(2, kl_weight=100, noise="homoscedastic", **FAST).fit(X)
    for make in (LatentDirectionsDisplay, LatentSpaceDisplay):
        made = make.from_estimator(vae, X)
        made.figure_.canvas.draw()
        assert made.ax_.has_data()


# Reconstruction


def test_reconstruction(plane, frame):
    X = frame.data[:3]
    made = ReconstructionDisplay.from_estimator(plane, X)
    mean, std = plane.reconstruct(X, return_std=True)
    for held, expected in ((made.original, X), (made.mean, mean), (made.std, std)):
        np.testing.assert_array_equal(held, expected)
    line, points = made.axes_[1, 0].lines
    np.testing.assert_array_equal(line.get_ydata(), mean[1])
    np.testing.assert_array_equal(points.get_ydata(), X.iloc[1])
    made.plot(relative=True)
    deviation = (X.iloc[1] - mean[1]) / std[1]
    np.testing.assert_allclose(made.axes_[1, 0].lines[1].get_ydata(), deviation)
    names = [text.get_text() for text in made.axes_[-1, 0].get_xticklabels()]
    assert names == list(frame.data.columns)


def test_reconstruction_of_a_second_vector(frame):
    X, X_target = frame.data.iloc[:, :2], frame.data.iloc[:, 2:]
    model = GaussianVAEClassifier(2, **FAST).fit(X, frame.target, X_target=X_target)
    mean, std = model.predict_target(X[:2], return_std=True)
    made = ReconstructionDisplay.from_predictions(X_target[:2], mean, std)
    np.testing.assert_array_equal(made.axes_[0, 0].lines[0].get_ydata(), mean[0])


def test_reconstruction_of_images(plane, frame):
    made = ReconstructionDisplay.from_estimator(plane, frame.data[:3], image_shape=(2, 2))
    assert made.axes_.shape == (3, 3)
    for panels_, values in zip(made.axes_, (made.original, made.mean, made.std), strict=True):
        image = panels_[1].images[0].get_array()
        np.testing.assert_array_equal(image, values[1].reshape(2, 2))


def test_reconstruction_errors(plane, frame):
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8\)"):
        ReconstructionDisplay.from_estimator(plane, frame.data[:3], image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"\(1, 2\), \(1, 2\) and \(1, 1\)"):
        ReconstructionDisplay.from_predictions([[1, 2]], [[1, 2]], [[1]])


def test_reconstruction_of_too_many_rows(plane, frame):
    X = frame.data[:51]
    for ax in (None, plt.figure().subplots()):
        with pytest.raises(ValueError, match=r"at most 50 rows can be drawn, got 51. .* X\[:6\]"):
            ReconstructionDisplay.from_estimator(plane, X, ax=ax)
    with pytest.raises(ValueError, match="at most 50 rows"):
        ReconstructionDisplay.from_predictions(X, X, X)
    with pytest.raises(ValueError, match="at most 50 rows"):
        ReconstructionDisplay(original=X, mean=X, std=X).plot()
    axes = plt.figure().subplots(3, 51)
    made = ReconstructionDisplay.from_estimator(plane, X, image_shape=(2, 2), ax=axes)
    assert made.axes_.shape == (3, 51)


# Predictions


def test_intervals(regressor, diabetes):
    X, y = (part[300:] for part in diabetes)
    made = PredictiveIntervalDisplay.from_estimator(regressor, X, y, coverages=[0.9, 0.5])
    np.testing.assert_array_equal(made.y, y)
    np.testing.assert_array_equal(made.mean, regressor.predict(X))
    for i, coverage in enumerate((0.9, 0.5)):
        expected = regressor.predict_interval(X, coverage=coverage)
        np.testing.assert_allclose(made.intervals[:, i], expected, rtol=1e-9)
    shares = [np.mean((low <= y) & (y <= high)) for low, high in made.intervals.transpose(1, 2, 0)]
    assert labels(made.ax_)[:2] == [
        f"0.9 interval, holds {shares[0]:.2f}",
        f"0.5 interval, holds {shares[1]:.2f}",
    ]
    mean, inside, outside = made.ax_.lines
    np.testing.assert_array_equal(mean.get_ydata(), np.sort(made.mean))
    assert len(inside.get_ydata()) == pytest.approx(shares[0] * len(y))
    assert len(outside.get_ydata()) == len(y) - len(inside.get_ydata())


def test_intervals_along_a_feature(regressor, diabetes):
    X, y = (part[300:] for part in diabetes)
    for feature in ("bmi", 2):
        made = PredictiveIntervalDisplay.from_estimator(regressor, X, y, feature=feature)
        np.testing.assert_array_equal(made.x, X["bmi"])
        assert made.ax_.get_xlabel() == "bmi"
    segments = np.array(made.ax_.collections[0].get_segments())  # (n, end, coordinate)
    order = np.argsort(made.x, kind="stable")
    np.testing.assert_array_equal(segments[:, 0, 0], made.x[order])
    np.testing.assert_array_equal(segments[:, :, 1], made.intervals[order, 1])


def test_intervals_of_a_gaussian_and_of_one_target_of_several(many_targets, diabetes):
    X, y = (part.to_numpy() for part in diabetes)
    ridge = make_pipeline(MinMaxScaler(), BayesianRidge()).fit(X, y)
    made = PredictiveIntervalDisplay.from_estimator(ridge, X, y, coverages=0.8, feature=0)
    mean, std = ridge.predict(X, return_std=True)
    expected = np.column_stack(stats.norm.interval(0.8, mean, std))
    np.testing.assert_allclose(made.intervals[:, 0], expected, rtol=1e-9)
    assert made.ax_.get_xlabel() == "feature 0"

    model, X, Y = many_targets
    made = PredictiveIntervalDisplay.from_estimator(model, X, Y, coverages=0.9, target=1)
    np.testing.assert_array_equal(made.y, Y[:, 1])
    expected = model.predict_interval(X, coverage=0.9)[:, 1]
    np.testing.assert_allclose(made.intervals[:, 0], expected, rtol=1e-9)


def test_interval_errors(regressor, many_targets, diabetes):
    X, y = diabetes
    with pytest.raises(ValueError, match=r"coverages must be numbers in \(0, 1\), got \[90.0\]"):
        PredictiveIntervalDisplay.from_estimator(regressor, X, y, coverages=90)
    with pytest.raises(ValueError, match="feature='weight' is no column"):
        PredictiveIntervalDisplay.from_estimator(regressor, X, y, feature="weight")
    for make in (PredictiveIntervalDisplay, PITDisplay):
        with pytest.raises(ValueError, match="one of the 2 columns of y, 0 to 1, got None"):
            make.from_estimator(*many_targets)
    with pytest.raises(ValueError, match="do not fit 2 targets and 1 coverages"):
        PredictiveIntervalDisplay.from_predictions([0, 1], [0, 1], [[0, 1]])


def test_pit(regressor, many_targets, diabetes):
    X, y = (part[300:] for part in diabetes)
    made = PITDisplay.from_estimator(regressor, X, y, n_bins=4)
    np.testing.assert_array_equal(made.pit, probability_integral_transform(regressor, X, y))
    expected = [np.sum((made.pit >= a) & (made.pit < a + 0.25)) for a in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_array_equal(made.counts, expected)
    np.testing.assert_allclose(made.observed, [np.mean(made.pit <= p) for p in made.levels])
    assert made.observed[-1] == 1
    model, X, Y = many_targets
    made = PITDisplay.from_estimator(model, X, Y, target=1)
    expected = probability_integral_transform(model, X, Y)[:, 1]
    np.testing.assert_array_equal(made.pit, expected)


def test_bands_hold_for_uniform_values():
    rng = np.random.default_rng(0)
    inside_counts, inside_shares = [], []
    for _ in range(200):
        made = PITDisplay.from_predictions(rng.uniform(size=80), confidence=0.9)
        plt.close(made.figure_)
        low, high = made.count_band
        inside_counts.append((low <= made.counts) & (made.counts <= high))
        low, high = made.observed_band.T
        inside_shares.append((low <= made.observed) & (made.observed <= high))
    # Counts are integers: a band of 90 % holds a little more.
    assert 0.9 <= np.mean(inside_counts) < 0.97
    assert 0.9 <= np.mean(np.array(inside_shares)[:, 10:91]) < 0.95


def test_pit_errors():
    with pytest.raises(ValueError, match=r"pit must lie in \[0, 1\], got \[0.5, 1.5\]"):
        PITDisplay.from_predictions([0.5, 1.5])
    with pytest.raises(ValueError, match="NaN"):
        PITDisplay.from_predictions([0.5, np.nan])
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 95"):
        PITDisplay.from_predictions([0.5], confidence=95)


def test_rows_of_a_frame_keep_their_order(regressor, diabetes):
    # The index of a shuffled frame is not a position.
    X, y = diabetes
    X, y = X[300:330][::-1], pd.Series(y[300:330][::-1])
    made = PredictiveIntervalDisplay.from_estimator(regressor, X, y)
    np.testing.assert_array_equal(made.y, y.to_numpy())
    np.testing.assert_array_equal(made.mean, regressor.predict(X))


# Outliers


def test_outliers_are_drawn_with_what_was_expected(frame):
    X = frame.data.copy()
    X.iloc[7, 2] = 60.0
    X.iloc[8, 1] = np.nan
    detector = make_detector(frame)
    made = OutlierDisplay.from_estimator(detector, X, n_rows=2)
    assert made.rows_[0] == 7
    assert made.rows_.tolist() == np.argsort(detector.score_samples(X))[:2].tolist()
    found = detector.explain(X.iloc[made.rows_])
    np.testing.assert_array_equal(made.surprise, found.surprise)
    texts = [text.get_text() for text in made.ax_.texts]
    assert len(texts) == 2 * X.shape[1]
    assert texts[2].startswith("60\nexp. ")
    assert made.ax_.get_yticklabels()[0].get_text() == "7"
    again = OutlierDisplay.from_estimator(detector, X.iloc[8:9], n_rows=1)
    assert again.ax_.texts[1].get_text().startswith("unknown\n")
    for n_rows in (0, 31):
        with pytest.raises(ValueError, match="n_rows"):
            OutlierDisplay.from_estimator(detector, X, n_rows=n_rows)
    with pytest.raises(TypeError, match="n_rows"):
        OutlierDisplay.from_estimator(detector, X, n_rows=2.5)


@pytest.mark.filterwarnings("ignore:1 rows have values that their columns cannot have")
def test_impossible_values_have_the_strongest_colour(frame):
    X = np.exp(frame.data)  # amounts: above zero
    X.iloc[3, 0] = -1.0
    detector = make_detector(frame).fit(np.exp(frame.data))
    made = OutlierDisplay.from_estimator(detector, X, n_rows=1)
    assert made.surprise[0, 0] == np.inf
    (image,) = made.ax_.images
    red, green, blue, _ = image.to_rgba(image.get_array())[0, 0]
    assert max(green, blue) < 0.2 < red


def test_names_of_a_polars_table_are_kept(frame, recwarn):
    polars = pytest.importorskip("polars")
    table = polars.from_pandas(frame.data)
    detector = make_detector(frame).fit(table)
    made = OutlierDisplay.from_estimator(detector, table, n_rows=2)
    assert not [w for w in recwarn if "feature names" in str(w.message)]
    names = [label.get_text() for label in made.ax_.get_xticklabels()]
    assert set(names) <= set(frame.data.columns)


def test_of_many_columns_the_most_surprising_are_drawn():
    X = np.random.default_rng(0).standard_normal((60, 20))
    model = GaussianVAE(2, max_epochs=1, n_estimators=1)
    detector = GaussianVAEOutlierDetector(model, random_state=0).fit(X)
    X[5, 17] = 30.0
    made = OutlierDisplay.from_estimator(detector, X, n_rows=1)
    assert len(made.columns_) == 12
    assert 17 in made.columns_

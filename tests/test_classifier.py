import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from torch import nn

from skgvae import GaussianVAEClassifier
from skgvae.net import RowDataset
from skgvae.nn import ClassifierHead

FAST = {
    "max_epochs": 5,
    "hidden_layer_sizes": (8,),
    "n_draws": 32,
    "n_estimators": 1,
    "random_state": 0,
}


class TwoLayers(nn.Module):
    """A user's own classifier."""

    def __init__(self, in_features, target_features, n_classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_features + target_features)
        self.hidden = nn.Linear(in_features + target_features, 16)
        self.out = nn.Linear(16, n_classes)

    def forward(self, v1, v2_estimate):
        return self.out(self.hidden(self.norm(torch.cat([v1, v2_estimate], 1))).tanh())


@pytest.fixture(scope="module")
def wine():
    return load_wine(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(wine):
    return GaussianVAEClassifier(random_state=0, max_epochs=40).fit(*wine)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# What it finds


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer])
def test_classes_are_found(load, seed):
    X, y = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[: len(X) // 2], order[len(X) // 2 :]
    model = GaussianVAEClassifier(max_epochs=60, random_state=seed).fit(X[train], y[train])
    assert model.score(X[test], y[test]) > 0.9
    assert log_loss(y[test], model.predict_proba(X[test])) < 0.3


def test_probabilities_of_overlapping_classes():
    # Two unit Gaussians two apart: log-odds 2 x, Bayes accuracy Φ(1).
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=4000)
    X = (2 * y - 1 + rng.standard_normal(4000))[:, None]
    model = GaussianVAEClassifier(max_epochs=40, random_state=0).fit(X[:2000], y[:2000])
    grid = np.linspace(-2, 2, 9)[:, None]
    truth = 1 / (1 + np.exp(-2 * grid[:, 0]))
    np.testing.assert_allclose(model.predict_proba(grid)[:, 1], truth, atol=0.06)
    assert model.score(X[2000:], y[2000:]) == pytest.approx(0.8413, abs=0.03)


@pytest.mark.slow
def test_the_target_is_predicted_and_carries_the_class():
    # v1 tells v2 up to noise, and v2 tells the class.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 3))
    V = np.column_stack([10 + 5 * X[:, 0] * X[:, 1], X[:, 2] ** 2])
    V += rng.standard_normal(V.shape) * [1, 0.1]
    y = np.where(V[:, 0] > 10, "high", "low")
    model = GaussianVAEClassifier(random_state=0).fit(X[:1000], y[:1000], X_target=V[:1000])
    X, V, y = X[1000:], V[1000:], y[1000:]
    mean, std = model.predict_target(X, return_std=True)
    assert mean.shape == std.shape == V.shape
    residual = V - mean
    assert (residual.var(0) < 0.2 * V.var(0)).all()
    assert np.mean((residual / std) ** 2, 0) == pytest.approx([1, 1], abs=0.5)
    draws = model.sample(X, 2000, random_state=0)
    assert draws.shape == (2000, *V.shape)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.5)
    np.testing.assert_allclose(draws.std(0) / std, 1, atol=0.15)
    assert model.score(X, y) > 0.85
    assert model.decode(model.transform(X)).shape == V.shape


def test_weight_zero_trains_the_classifier_alone(wine):
    X, y = wine
    start = GaussianVAEClassifier(**{**FAST, "max_epochs": 0}).fit(X, y)
    model = GaussianVAEClassifier(**{**FAST, "max_epochs": 40}, vae_weight=0.0).fit(X, y)
    before, after = start.module_.state_dict(), model.module_.state_dict()
    for name, weight in after.items():
        if name.startswith("vae."):
            assert torch.equal(weight, before[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(weight, before[name]), name
    for record in model.history_:
        assert record["valid_loss"] == pytest.approx(record["valid_cross_entropy"])
    assert model.score(X, y) > 0.9


def test_history_holds_the_three_parts(wine):
    model = GaussianVAEClassifier(
        **FAST,
        vae_weight=0.3,
        kl_weight=0.2,
        validation_fraction=None,
        net_params={"criterion__n_draws": 1},
    ).fit(*wine)
    for record in model.history_:
        vae = record["train_reconstruction"] + 0.2 * record["train_kl"]
        expected = record["train_cross_entropy"] + 0.3 * vae + record["train_penalty"]
        assert record["train_loss"] == pytest.approx(expected, rel=1e-5)


# Labels


@pytest.mark.parametrize(
    "labels",
    [["a", "bb", "c"], [-1, 1, 5], [2.0, 3.0, 1.0], np.array(["x", "y", "z"], object),
     [True, False, True]],
    ids=str,
)  # fmt: skip
def test_classes_of_any_type(labels, wine):
    X, y = wine
    labels = np.asarray(labels)
    model = GaussianVAEClassifier(**{**FAST, "max_epochs": 30}).fit(X, labels[y])
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert model.predict(X).dtype == labels.dtype
    assert model.score(X, labels[y]) > 0.9
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (len(X), len(model.classes_))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(probabilities), rtol=1e-6)
    np.testing.assert_array_equal(model.predict(X), model.classes_[probabilities.argmax(1)])


def test_one_class(wine):
    X, _ = wine
    model = GaussianVAEClassifier(**FAST).fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}
    np.testing.assert_allclose(model.predict_proba(X), 1)


class Rows(Callback):
    """Keeps the rows that the first model is trained on, and those that judge it."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.train_ = self.valid_ = None

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train_, self.valid_ = (
            None if rows is None else RowDataset(*self.first(rows))
            for rows in (dataset_train, dataset_valid)
        )

    @staticmethod
    def first(rows):
        places = torch.arange(rows.counts[0]).expand(len(rows.counts), -1)
        return [None if part is None else part[0] for part in rows.take(places)]


def test_what_rows_without_a_label_weigh(wine):
    X, y = wine
    hidden = np.where(np.arange(178) % 3 > 0, y, -1)
    weight, V = np.linspace(1, 3, 178), X[:, :4].copy()
    V[hidden < 0] = np.nan  # the second vector was measured where the label was
    rows = Rows()
    GaussianVAEClassifier(
        unlabeled=-1,
        class_weight={0: 0.0},
        validation_fraction=None,
        net_params={"callbacks": [rows]},
        **FAST,
    ).fit(X, hidden, X_target=V, sample_weight=weight)
    label_weight = rows.train_.label_weight.numpy()
    np.testing.assert_allclose(
        label_weight[hidden < 0], -weight[hidden < 0] / weight.mean(), rtol=1e-6
    )
    assert not label_weight[hidden == 0].any()
    assert label_weight.clip(0).mean() == pytest.approx(1)
    assert not rows.train_.weight[hidden < 0].any()  # nothing is known of their targets


def test_class_weight(wine):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((600, 2)), (rng.uniform(size=600) < 0.1).astype(int)
    short = {"max_epochs": 20, "hidden_layer_sizes": (8,), "n_estimators": 2, "random_state": 0}
    rate = {}
    for class_weight in (None, "balanced", {1: 9.0}):
        model = GaussianVAEClassifier(**short, class_weight=class_weight).fit(X, y)
        rate[str(class_weight)] = model.predict_proba(X)[:, 1].mean()
    assert rate["None"] == pytest.approx(0.1, abs=0.05)
    assert rate["balanced"] == pytest.approx(0.5, abs=0.1)
    assert rate["{1: 9.0}"] == pytest.approx(0.5, abs=0.1)
    # Balanced are the weighted counts.
    weight = np.where(y == 1, 9.0, 1.0)
    model = GaussianVAEClassifier(**short, class_weight="balanced")
    model.fit(X, y, sample_weight=weight)
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(0.5, abs=0.1)
    for wrong in ({0: -1.0}, {0: np.inf}, {0: 0.0, 1: 0.0}):
        with pytest.raises(ValueError, match="class_weight="):
            GaussianVAEClassifier(**FAST, class_weight=wrong).fit(X, y)


def test_weights_move_the_probabilities():
    X = np.random.default_rng(0).standard_normal((400, 1))
    y = np.arange(400) % 2
    weight = np.where(y == 1, 3.0, 1.0)
    model = GaussianVAEClassifier(max_epochs=20, random_state=0).fit(X, y, sample_weight=weight)
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(0.75, abs=0.06)
    dropped = GaussianVAEClassifier(max_epochs=2, random_state=0)
    dropped.fit(X, y, sample_weight=(y == 1).astype(float))
    assert list(dropped.classes_) == [0, 1]  # known, but hardly ever seen
    assert (dropped.predict(X) == 1).all()


# Rows without a label, rows without a target


def test_unlabeled_rows(wine):
    X, y = wine
    hidden = y.copy()
    hidden[::2] = -1
    model = GaussianVAEClassifier(**{**FAST, "max_epochs": 40}, unlabeled=-1).fit(X, hidden)
    assert list(model.classes_) == [0, 1, 2]
    assert model.score(X[::2], y[::2]) > 0.9
    as_class = GaussianVAEClassifier(**FAST).fit(X, hidden)
    assert list(as_class.classes_) == [-1, 0, 1, 2]
    # Their labels do not matter: any value in their place gives the same fit.
    strings = np.where(hidden < 0, "?", np.array(["a", "b", "c"])[y])
    other = GaussianVAEClassifier(**{**FAST, "max_epochs": 40}, unlabeled="?").fit(X, strings)
    np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    # Without a weight on them or on the auto-encoder only labelled rows count.
    losses = []
    for order in (1, -1):  # in which the units of the columns are the same
        moved = X.copy()
        moved[::2] = X[::2][::order]
        alone = GaussianVAEClassifier(
            **FAST,
            unlabeled=-1,
            net_params={"criterion__pseudo_weight": 0.0},
            vae_weight=0.0,
            validation_fraction=None,
        )
        alone.fit(moved, hidden, X_target=X[:, :2])
        losses.append([record["train_cross_entropy"] for record in alone.history_])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_boundaries_move_to_where_there_are_few_rows():
    # Two long clusters, three labels in each, at opposite ends: the boundary half-way between
    # the labelled points cuts through both clusters, the gap does not.
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = np.column_stack([rng.uniform(-2, 2, 400), 3.0 * y + 0.3 * rng.standard_normal(400)])
    X[:6, 0] = np.where(y[:6], 1.0, -1.0) * [1.0, 1.0, 1.3, 1.3, 1.6, 1.6]
    hidden = np.where(np.arange(400) < 6, y, -1)
    accuracy = [
        GaussianVAEClassifier(
            unlabeled=-1, net_params={"criterion__pseudo_weight": weight}, random_state=k
        )
        .fit(X, hidden)
        .score(X, y)
        for weight, k in ((0.0, 0), (3.0, 0), (3.0, 1), (3.0, 2))
    ]
    assert min(accuracy[1:]) > 0.98 > accuracy[0]


def test_the_share_of_labels_is_that_of_the_rows_at_hand_by_weight(wine):
    X, y = wine
    hidden = np.where(np.arange(178) % 4, -1, y)  # 45 labels
    model = GaussianVAEClassifier(**FAST, unlabeled=-1).partial_fit(X, y)
    criterion = model.net_.criterion_
    assert (criterion.label_share, criterion.pseudo_weight) == (1.0, 0.0)
    model.partial_fit(X, hidden)
    assert criterion.label_share == pytest.approx(45 / 178)
    assert criterion.pseudo_weight == 3.0
    model.partial_fit(X, hidden, sample_weight=np.where(hidden < 0, 1.0, 10.0))
    assert criterion.label_share == pytest.approx(450 / (450 + 133))
    model.partial_fit(X, y)
    assert (criterion.label_share, criterion.pseudo_weight) == (1.0, 0.0)


def test_rows_without_a_target_train_the_classifier_only(wine):
    X, y = wine
    V = X[:, :4].copy()
    V[::2] = np.nan
    model = GaussianVAEClassifier(**{**FAST, "max_epochs": 40}).fit(X, y, X_target=V)
    assert model.score(X[::2], y[::2]) > 0.9
    assert model.predict_target(X).shape == V.shape
    assert np.isfinite(model.predict_target(X)).all()
    known = GaussianVAEClassifier(**FAST).fit(X[1::2], y[1::2], X_target=V[1::2])
    np.testing.assert_allclose(model._target_units.scale, known._target_units.scale)
    whole = GaussianVAEClassifier(**FAST).fit(X, y)  # all rows tell the units of X
    np.testing.assert_allclose(model._units.scale, whole._units.scale)
    assert np.isfinite([list(record.values()) for record in model.history_]).all()


def test_the_held_out_rows_have_the_shares_of_the_classes():
    X = np.random.default_rng(0).standard_normal((200, 2))
    y = np.repeat([0, 1, 2], [160, 31, 9])
    rows = Rows()
    model = GaussianVAEClassifier(**FAST, net_params={"callbacks": [rows]}).fit(X, y)
    assert model.net_.criterion_.penalty == 3 / 200
    assert np.bincount(rows.valid_.label, minlength=3).tolist() == [16, 3, 1]
    assert len(rows.train_) == 180


def test_few_labels_are_all_trained_on(wine):
    X, y = wine
    hidden = np.full(178, -1)
    for label in range(3):
        rows = np.flatnonzero(y == label)[:9]
        hidden[rows] = label
    for vae_weight in (0.0, "auto"):
        model = GaussianVAEClassifier(
            unlabeled=-1, vae_weight=vae_weight, n_estimators=2, max_epochs=40, random_state=0
        ).fit(X, hidden)
        assert "valid_loss" in model.history_[-1]
        assert model.score(X, y) > 0.85
    # Within an epoch they are repeated until half of the rows have a label.
    rows = Rows()
    params = {"validation_fraction": None, "net_params": {"callbacks": [rows]}}
    model = GaussianVAEClassifier(unlabeled=-1, **params, **FAST).fit(X, hidden)
    balanced = rows.train_
    assert (balanced.label_weight > 0).float().mean().item() == pytest.approx(0.47, abs=0.01)
    assert balanced.weight.mean().item() == pytest.approx(1)
    of_labeled = balanced.weight[balanced.label_weight > 0].sum().item()
    assert of_labeled / len(balanced) == pytest.approx(27 / 178)
    assert balanced.label_weight.clamp(min=0).mean().item() == pytest.approx(1)
    unlabeled = -balanced.label_weight.clamp(max=0).mean().item()
    assert unlabeled == pytest.approx(151 / 178)  # their share of all rows, as without repetition
    assert model.net_.criterion_.label_share == pytest.approx(27 / 178)


@pytest.mark.parametrize("other", [None, 1])
def test_labels_of_several_types_are_refused(other, wine):
    X, y = wine
    labels = np.array(["a", "b", other], dtype=object)[y]
    message = f"Labels of {type(other).__name__}, str cannot be sorted"
    with pytest.raises(ValueError, match=message):
        GaussianVAEClassifier(**FAST).fit(X, labels)
    classes = np.array([0, other or "a", "b"], dtype=object)
    model = GaussianVAEClassifier(**FAST)
    with pytest.raises(ValueError, match="cannot be sorted"):
        model.partial_fit(X, y, classes=classes)
    model.partial_fit(X, y)
    with pytest.raises(ValueError, match="cannot be sorted"):
        model.partial_fit(X, y, classes=classes)
    with pytest.raises(ValueError, match=message):
        model.score(X, labels)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("labels", [[-1, 1], ["", "a"]])
def test_a_warning_where_the_marker_leaves_one_class(labels, method, wine):
    X, y = wine
    model = GaussianVAEClassifier(**FAST, unlabeled=labels[0])
    with pytest.warns(UserWarning, match=f"Only one class is left, {labels[1]!r}: unlabeled="):
        getattr(model, method)(X, np.array(labels)[y % 2])
    assert model.classes_.tolist() == labels[1:]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_are_given_by_name(method, wine):
    train = getattr(GaussianVAEClassifier(**FAST), method)
    between = [np.unique(wine[1])] if method == "partial_fit" else []
    with pytest.raises(TypeError, match="positional arguments"):
        train(*wine, *between, np.ones(178))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_keys_of_net_params_are_names(method, wine):
    model = GaussianVAEClassifier(**FAST, net_params={1: 2})
    with pytest.raises(ValueError, match=r"names of parameters as keys, got \[1\]"):
        getattr(model, method)(*wine)


def test_score_leaves_out_rows_without_a_label(fitted, wine):
    X, y = wine
    model = clone(fitted).set_params(unlabeled=-1).fit(X, y)
    hidden = np.where(np.arange(178) % 2, y, -1)
    assert model.score(X, hidden) == model.score(X[1::2], y[1::2])
    weight = np.linspace(1, 2, 178)
    assert model.score(X, hidden, weight) == model.score(X[1::2], y[1::2], weight[1::2])
    with pytest.raises(ValueError, match="No row has a label: unlabeled=-1 marks rows without"):
        model.score(X[::2], hidden[::2])
    for wrong in ({"y": y[:-1]}, {"y": y, "sample_weight": weight[:-1]}):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            model.score(X, **wrong)
    with pytest.raises(ValueError, match="unlabeled=nan equals nothing"):
        GaussianVAEClassifier(**FAST, unlabeled=np.nan).fit(X, np.where(y > 1, np.nan, y))
    with pytest.raises(ValueError, match="unlabeled=-1 can equal no label in y"):
        model.fit(X, np.array(["a", "b", "c"])[y])


def test_a_single_target_feature(wine):
    X, y = wine
    model = GaussianVAEClassifier(**FAST).fit(X, y, X_target=pd.Series(X[:, 0]))
    assert model.predict_target(X).shape == (178, 1)


@pytest.mark.parametrize("vae_weight", [1e-3, 0.1, 1.0])
def test_shared_noise_at_any_weight(vae_weight, wine):
    X, y = wine
    model = GaussianVAEClassifier(
        noise="homoscedastic",
        vae_weight=vae_weight,
        max_epochs=40,
        validation_fraction=None,
        random_state=0,
    ).fit(X, y)
    assert len(model.history_) == 40  # no loss that is not finite ended training
    assert model.score(X, y) > 0.95
    if vae_weight >= 0.1:  # with less, v2 is an estimate of whatever helps to classify
        assert (model.noise_variance_ < X.var(0)).all()


def test_extreme_inputs(fitted, wine):
    X, _ = wine
    low, high = X.min(0), X.max(0)
    edge = high + (high - low)
    np.testing.assert_allclose(
        fitted.predict_proba(edge[None]), fitted.predict_proba(1e9 * edge[None])
    )


# The user's own classifier


def test_own_classifier(wine):
    X, y = wine
    torch.manual_seed(1)
    own = TwoLayers(13, 13, 3)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    model = GaussianVAEClassifier(classifier=own, max_epochs=40, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    assert isinstance(model.module_.classifier, TwoLayers)
    assert model.classifier is own
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_own_classifier_with_dropout_and_float32_tensors(wine):
    class Recurrent(nn.Module):
        def __init__(self, in_features, target_features, n_classes):
            super().__init__()
            self.cell = nn.GRUCell(in_features + target_features, 8)
            self.out = nn.Linear(8, n_classes)

        def forward(self, v1, v2_estimate):
            h = self.cell(torch.cat([v1, v2_estimate], 1), torch.zeros(len(v1), 8))
            return self.out(nn.functional.dropout(h, 0.5, self.training))

    X, y = wine
    state = torch.get_rng_state()
    a, b = (GaussianVAEClassifier(classifier=Recurrent, **FAST).fit(X, y) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    np.testing.assert_allclose(a.predict_proba(X).sum(1), 1)


@pytest.mark.parametrize("n_estimators", [1, 2])
def test_own_classifier_that_always_drops_leaves_the_generator_as_it_was(n_estimators, wine):
    class AlwaysDrops(TwoLayers):
        def forward(self, v1, v2_estimate):
            return super().forward(nn.functional.dropout(v1, 0.5, True), v2_estimate)

    model = GaussianVAEClassifier(classifier=AlwaysDrops, **FAST).set_params(
        n_estimators=n_estimators
    )
    state = torch.get_rng_state()
    model.fit(*wine)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("classifier", "error", "message"),
    [
        (ClassifierHead(13, 13, 5), ValueError, r"shape \(2, 5\), but .* it should be \(2, 3\)"),
        (ClassifierHead(2, 2, 3), ValueError, r"failed for matrices of shapes \(2, 13\)"),
        (lambda *widths: nn.Bilinear, TypeError, "must be a module, or return one"),
    ],
)
def test_classifiers_that_do_not_fit(classifier, error, message, fitted, wine):
    X, y = wine
    model = GaussianVAEClassifier(classifier=classifier, **FAST)
    with pytest.raises(error, match=message):
        model.fit(X, y)
    assert not hasattr(model, "classes_")


def test_own_class_of_classifier(wine):
    X, y = wine
    state = torch.get_rng_state()
    a, b = (GaussianVAEClassifier(classifier=TwoLayers, **FAST).fit(X, y) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    a.set_params(classifier=None)  # the fitted model is still the one with two layers
    loaded = pickle.loads(pickle.dumps(a))
    np.testing.assert_array_equal(loaded.predict_proba(X), b.predict_proba(X))
    with pytest.raises(ValueError, match="classifier=None, but the fitted model has"):
        a.partial_fit(X, y)


def test_the_network_of_the_source():
    # dim → max(dim // 2, 5) → max(that // 2, 5) and back, ReLU, no linear paths.
    X, y = load_digits(return_X_y=True)
    dim = X.shape[1]
    hidden = max(dim // 2, 5)
    latent = max(hidden // 2, 5)
    model = GaussianVAEClassifier(
        latent,
        hidden_layer_sizes=hidden,
        activation="relu",
        net_params={"module__linear": False},
        max_epochs=3,
        random_state=0,
    ).fit(X, y)
    vae = model.module_.vae
    shapes = {name: tuple(p.shape) for name, p in vae.named_parameters()}
    assert shapes == {
        "encoder.hidden.0.weight": (32, 64),
        "encoder.hidden.0.bias": (32,),
        "encoder.loc.weight": (16, 32),
        "encoder.loc.bias": (16,),
        "encoder.log_scale.weight": (16, 32),
        "encoder.log_scale.bias": (16,),
        "decoder.hidden.0.weight": (32, 16),
        "decoder.hidden.0.bias": (32,),
        "decoder.loc.weight": (64, 32),
        "decoder.loc.bias": (64,),
        "decoder.log_scale.weight": (64, 32),
        "decoder.log_scale.bias": (64,),
    }
    assert isinstance(vae.encoder.hidden[1], nn.ReLU)
    assert isinstance(vae.decoder.hidden[1], nn.ReLU)


# scikit-learn's tools


def test_answers_do_not_depend_on_other_rows(fitted, wine):
    X, _ = wine
    rows = np.array([5, 3, 100])
    for answer in (fitted.predict_proba, fitted.predict_target, fitted.transform):
        np.testing.assert_allclose(answer(X)[rows], answer(X[rows]), rtol=1e-9)


def test_state(fitted, wine):
    X, y = wine
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.partial_fit(X, y).score(X, y) > 0.9
    a, b = (GaussianVAEClassifier(**FAST).fit(X, y) for _ in "ab")
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_partial_fit(wine):
    X, y = wine
    model = GaussianVAEClassifier(random_state=0)
    model.partial_fit(X[:100], y[:100], classes=[0, 1, 2, 3])  # rows of classes 0 and 1 alone
    penalties = [model.net_.criterion_.penalty]
    for _ in range(10):
        model.partial_fit(X, y)
    penalties.append(model.net_.criterion_.penalty)
    assert penalties == pytest.approx([3 / 100, 3 / 1880])  # one prior for all that was seen
    with pytest.raises(ValueError, match="are not those of the first call"):
        model.partial_fit(X, y, classes=[7, 8])
    with pytest.raises(ValueError, match="needs all rows at once"):
        clone(model).set_params(class_weight="balanced").partial_fit(X, y)
    assert list(model.classes_) == [0, 1, 2, 3]
    assert model.score(X, y) > 0.9
    message = (
        r"y holds \[7\], which are not among the classes \[0, 1, 2, 3\]. Name all .* first call"
    )
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, np.where(y == 1, 7, y))
    assert model.score(X, y) > 0.9
    with pytest.raises(
        ValueError, match=r"y holds \[2\], which are not among the classes \[0, 1\]"
    ):
        clone(model).partial_fit(X, y, classes=[0, 1])


def test_partial_fit_of_batches_without_labels_or_targets(wine):
    X, y = wine
    model = GaussianVAEClassifier(**FAST, unlabeled=-1)
    model.partial_fit(X, y, classes=[-1, 0, 1, 2], X_target=X[:, :3])
    assert list(model.classes_) == [0, 1, 2]
    model.partial_fit(X, np.full(178, -1), classes=[0, -1, 1, 2], X_target=X[:, :3])
    assert model.history_[-1]["train_cross_entropy"] == 0
    assert model.history_[-1]["train_kl"] > 0
    model.partial_fit(X, y, X_target=np.full((178, 3), np.nan))
    assert model.history_[-1]["train_cross_entropy"] > 0
    assert model.history_[-1]["train_kl"] == 0
    assert np.isfinite(model.predict_proba(X)).all()


def test_columns_of_the_target_keep_their_names(wine):
    X, y = wine
    V = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    model = GaussianVAEClassifier(**FAST, warm_start=True).fit(X, y, X_target=V)
    loaded = pickle.loads(pickle.dumps(model))
    swapped = V[["b", "a", "c"]]
    for method in (model.fit, model.partial_fit, loaded.partial_fit):
        with pytest.raises(ValueError, match="feature names of X_target should match those"):
            method(X, y, X_target=swapped)
        method(X, y, X_target=V)
        method(X, y, X_target=V.to_numpy())  # without names there is nothing to compare
    with pytest.raises(ValueError, match="feature names of X_target"):
        model.partial_fit(X, y, X_target=swapped)
    model.set_params(warm_start=False).fit(X, y, X_target=swapped).partial_fit(
        X, y, X_target=swapped
    )


def test_parameters_changed_after_fitting_count_in_partial_fit(wine):
    X, y = wine
    model = GaussianVAEClassifier(net_params={"optimizer__weight_decay": 0.1}, **FAST)
    model.fit(X, y).set_params(vae_weight=0.0)
    before = {name: w.clone() for name, w in model.module_.vae.state_dict().items()}
    model.partial_fit(X, y)
    for name, weight in model.module_.vae.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert model.set_params(vae_weight=1.0).partial_fit(X, y).net_.criterion_.vae_weight == 1
    assert not torch.equal(model.module_.encoder.loc.weight, before["encoder.loc.weight"])


def test_warm_start_keeps_the_classes(wine):
    X, y = wine
    model = GaussianVAEClassifier(**FAST, warm_start=True).fit(X, y)
    model.fit(X, y)
    for other in (np.minimum(y, 1), np.array(["a", "b", "c"])[y]):
        with pytest.raises(ValueError, match=r"but the fitted model has classes_=\[0, 1, 2\]"):
            model.fit(X, other)
        assert list(model.classes_) == [0, 1, 2]
    with pytest.raises(
        ValueError, match="X_target='given', but the fitted model has X_target=None"
    ):
        model.fit(X, y, X_target=2 * X)


def test_pipeline_search_and_frames(wine):
    X, y = wine
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(13)])
    pipeline = make_pipeline(StandardScaler(), PCA(8), GaussianVAEClassifier(**FAST))
    grid = {"gaussianvaeclassifier__n_components": [2, 8]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise", scoring="neg_log_loss")
    assert search.fit(frame, y).best_score_ > -1.1
    model = clone(pipeline[-1]).fit(frame, y).set_output(transform="pandas")
    names = list(model.transform(frame).columns[:2])
    assert names == ["gaussianvaeclassifier0", "gaussianvaeclassifier1"]


@pytest.mark.usefixtures("routing")
def test_the_target_is_routed_row_by_row(wine):
    X, y = wine
    V = pd.DataFrame(X[:, :3] * 2, columns=["a", "b", "c"])
    model = GaussianVAEClassifier(**FAST).set_fit_request(X_target=True, sample_weight=True)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y, X_target=V)
    assert pipeline[-1].predict_target(pipeline[:-1].transform(X)).shape == V.shape
    result = cross_validate(
        pipeline, X, y, params={"X_target": V}, return_estimator=True, cv=3, error_score="raise"
    )
    for estimator in result["estimator"]:
        assert estimator[-1].noise_variance_.shape == (3,)
    grid = {"gaussianvaeclassifier__vae_weight": [0.01, 0.1]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y, X_target=V)
    assert search.best_estimator_[-1].noise_variance_.shape == (3,)


# Errors

ROW = np.arange(178)
KNOWN_BELOW = np.where(ROW < 89, np.nan, 1.0 * ROW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(178, -1)}, "No row has a label: unlabeled=-1 marks rows without one"),
        (
            {"y": np.repeat([1, -1], 89), "sample_weight": np.repeat([0.0, 1.0], 89)},
            "No row has a label",
        ),
        ({"X_target": KNOWN_BELOW, "sample_weight": (ROW < 89) * 1.0}, "known for 0 rows; 2 are"),
        ({"X_target": KNOWN_BELOW, "sample_weight": (ROW < 90) * 1.0}, "known for 1 rows; 2 are"),
        ({"X_target": np.full((178, 2), np.nan)}, "X_target is known for 0 rows"),
        ({"X_target": np.where(np.eye(178)[:, :2] > 0, 1.0, np.nan)}, "known for 1 rows"),
        ({"X_target": np.ones((100, 2))}, "inconsistent numbers of samples"),
        ({"X_target": np.full((178, 2), np.inf)}, "infinity"),
        ({"y": np.linspace(0, 1, 178)}, "Unknown label type: continuous"),
        ({"sample_weight": -np.ones(178)}, "Negative values"),
        ({"sample_weight": np.zeros(178)}, "at least one non-zero|positive for 0 rows"),
    ],
)
def test_errors(change, message, wine):
    X, y = wine
    model = GaussianVAEClassifier(**FAST, unlabeled=-1)
    with pytest.raises(ValueError, match=message):
        model.fit(X, **{"y": y, **change})
    assert not model.__sklearn_is_fitted__()
    assert not hasattr(model, "classes_")

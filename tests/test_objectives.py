import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from skgvae.nn import (
    NOISE_MODELS,
    ClassifierHead,
    GaussianNoise,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
)
from skgvae.objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    gaussian_log_prob,
    importance_log_weights,
    importance_weighted_bound,
    log_mean_exp,
    predictive_bound,
    split_weight,
)

pytestmark = pytest.mark.usefixtures("float64")


def naive_log_prob(x, loc, log_scale):
    total = torch.zeros(len(x))
    for i in range(len(x)):
        for j in range(x.shape[1]):
            s = math.exp(log_scale[i, j])
            total[i] -= math.log(s * math.sqrt(2 * math.pi))
            total[i] -= 0.5 * ((x[i, j] - loc[i, j]) / s) ** 2
    return total


def make_vae(noise="heteroscedastic"):
    generator = torch.Generator().manual_seed(0)
    vae = GaussianVAEModule(3, 2, 4, hidden_features=(5,), noise=noise, generator=generator)
    return vae.double()


def test_gaussian_log_prob_against_torch_and_a_naive_loop():
    x, loc, log_scale = torch.randn(3, 6, 4)
    expected = Independent(Normal(loc, log_scale.exp()), 1).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, loc, log_scale), expected)
    torch.testing.assert_close(
        gaussian_log_prob(x, loc, log_scale), naive_log_prob(x, loc, log_scale)
    )


def test_gaussian_log_prob_broadcasts_every_argument():
    full = gaussian_log_prob(torch.ones(3), torch.zeros(3), torch.zeros(3))
    one = torch.zeros(1)
    torch.testing.assert_close(gaussian_log_prob(torch.ones(3), one, one), full)
    torch.testing.assert_close(gaussian_log_prob(torch.ones(3), one, torch.zeros(3)), full)


@pytest.mark.parametrize("width", [1, 4])
def test_gaussian_log_prob_with_shared_scale(width):
    x, loc = torch.randn(2, 6, 4)
    log_scale = torch.randn(width)
    expected = gaussian_log_prob(x, loc, log_scale.expand(6, 4))
    torch.testing.assert_close(gaussian_log_prob(x, loc, log_scale), expected)
    of_rows = torch.randn(6, width)
    expected = gaussian_log_prob(x, loc, of_rows.expand(6, 4))
    torch.testing.assert_close(gaussian_log_prob(x, loc, of_rows), expected)


def test_gaussian_log_prob_gradient():
    inputs = [torch.randn(3, 2, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(gaussian_log_prob, inputs)


@pytest.mark.parametrize("d", [1, 2])
def test_gaussian_density_integrates_to_one(d):
    axis = torch.linspace(-12, 12, 801)
    grid = torch.cartesian_prod(*[axis] * d).view(-1, d)
    density = gaussian_log_prob(grid, torch.full((d,), 0.3), torch.full((d,), 0.2)).exp()
    cell = (axis[1] - axis[0]) ** d
    torch.testing.assert_close(density.sum() * cell, torch.tensor(1.0), atol=1e-6, rtol=0)


def test_log_mean_exp():
    log_w = torch.randn(5, 3)
    torch.testing.assert_close(log_mean_exp(log_w), log_w.exp().mean(0).log())
    assert torch.isfinite(log_mean_exp(log_w - 1e4)).all()


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0, 2.5])
def test_bounds_against_a_naive_loop(noise, kl_weight):
    vae = make_vae(noise)
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(7, 5, 2)
    q = vae.encoder(v1)
    log_lik, log_w = torch.zeros(7, 5), torch.zeros(7, 5)
    for k in range(7):
        for i in range(5):
            z = q.mean[i] + q.stddev[i] * eps[k, i]
            log_lik[k, i] = vae.decoder(z).log_prob(v2[i])
            log_p, log_q = vae.prior().log_prob(z), vae.encoder(v1[i]).log_prob(z)
            log_w[k, i] = log_lik[k, i] + log_p - log_q
    standard = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    kl = kl_divergence(Independent(Normal(q.mean, q.stddev), 1), standard)

    torch.testing.assert_close(importance_log_weights(vae, v1, v2, eps), log_w)
    bound = importance_weighted_bound(vae, v1, v2, eps, kl_weight)
    bound_k = log_w.exp().mean(0).log()
    expected = kl_weight * bound_k + (1 - kl_weight) * log_lik.mean(0)
    if kl_weight > 1:
        expected = bound_k - (kl_weight - 1) * kl
    torch.testing.assert_close(bound.value, expected)
    torch.testing.assert_close(bound.kl, kl)
    bound = elbo(vae, v1, v2, eps, kl_weight)
    torch.testing.assert_close(bound.reconstruction, -log_lik.mean(0))
    torch.testing.assert_close(bound.kl, kl)
    torch.testing.assert_close(bound.value, log_lik.mean(0) - kl_weight * kl)


@pytest.mark.parametrize("mean_power", [0.0, 0.5])
def test_predictive_bound_against_a_loop(mean_power):
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(7, 5, 2)
    bound = predictive_bound(vae, v1, v2, eps, 0.3, mean_power)
    q = vae.encoder(v1)
    for i in range(5):
        z = q.mean[i] + q.stddev[i] * eps[:, i]
        log_lik = vae.decoder(z).log_prob(v2[i])
        kl = kl_divergence(q, vae.prior())[i]
        torch.testing.assert_close(bound.value[i], log_lik.exp().mean().log() - 0.3 * kl)
        torch.testing.assert_close(bound.reconstruction[i], -log_lik.mean())
        torch.testing.assert_close(bound.kl[i], kl)


@pytest.mark.parametrize("mean_power", [0.0, 0.25, 0.5])
def test_mean_power_multiplies_the_gradient_of_the_mean(mean_power):
    # One draw, so that the bound's gradient with respect to the mean is (v2 - μ) / σ².
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(1, 5, 2)
    loc, log_scale = vae.decoder.loc_and_log_scale(vae.encoder(v1).mean + 0 * eps)

    class Decoder:
        family = GaussianNoise

        def loc_and_log_scale(self, z):
            return loc, log_scale

    parts = SimpleNamespace(encoder=vae.encoder, decoder=Decoder(), prior=vae.prior)
    value = predictive_bound(parts, v1, v2, eps, 0.0, mean_power).value.sum()
    found, of_scale = torch.autograd.grad(value, [loc, log_scale], retain_graph=True)
    scale = log_scale.detach().exp()
    factor = scale ** (2 * mean_power)
    factor = factor / factor.mean((0, 1))  # for each target over draws and rows
    torch.testing.assert_close(found, factor * (v2 - loc.detach()) / scale**2)
    plain = predictive_bound(parts, v1, v2, eps, 0.0).value.sum()
    plain_of_loc, plain_of_scale = torch.autograd.grad(plain, [loc, log_scale])
    torch.testing.assert_close(of_scale, plain_of_scale)
    torch.testing.assert_close(plain_of_loc, (v2 - loc.detach()) / scale**2)


def test_the_mean_power_of_a_stack_is_that_of_each_of_its_parts():
    vae = make_vae()
    v1, v2, eps = torch.randn(2, 5, 3), torch.randn(2, 5, 4), torch.randn(7, 2, 5, 2)

    def gradient(*batch):
        value = predictive_bound(vae, *batch, 0.3, mean_power=0.5).value.sum()
        return torch.autograd.grad(value, vae.decoder.loc.weight)[0]

    parts = [gradient(v1[i], v2[i], eps[:, i]) for i in range(2)]
    torch.testing.assert_close(gradient(v1, v2, eps.transpose(0, 1)), sum(parts))


@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
def test_bounds_of_series_and_defaults(bound):
    vae = make_vae()
    v1, v2, eps = torch.randn(6, 3), torch.randn(6, 4), torch.randn(3, 6, 2)
    flat = bound(vae, v1, v2, eps)
    by_series = eps.view(3, 2, 3, 2).transpose(0, 1)
    series = bound(vae, v1.view(2, 3, 3), v2.view(2, 3, 4), by_series)
    for a, b in zip(series, flat, strict=True):
        torch.testing.assert_close(a.view(6), b)
    for a, b in zip(bound(vae, v1, v2, eps, 1.0), flat, strict=True):
        assert torch.equal(a, b)
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])  # one for each row
    by_row = bound(vae, v1, v2, eps, weights).value
    for i, weight in enumerate(weights.tolist()):
        torch.testing.assert_close(by_row[i], bound(vae, v1, v2, eps, weight).value[i])


def test_default_losses_have_weight_one_and_one_draw():
    assert (NegativeBound().kl_weight, NegativeBound().n_draws) == (1.0, 1)
    assert NegativeBound().bound is elbo
    assert NegativeBound().vae_weight == 1  # the auto-encoder's, where there is nothing else
    joint = JointLoss()
    assert (joint.kl_weight, joint.vae_weight, joint.n_draws) == (1.0, 1.0, 1)
    assert (joint.penalty, joint.label_share) == (0.0, 1.0)


@pytest.mark.parametrize(("weight", "parts"), [(0.3, (0.3, 0.0)), (1.0, (1.0, 0.0)),
                                               (2.5, (1.0, 1.5))])  # fmt: skip
def test_a_weight_is_split_at_one(weight, parts):
    assert split_weight(weight) == parts
    for found, part in zip(split_weight(torch.tensor([weight])), parts, strict=True):
        torch.testing.assert_close(found, torch.tensor([part]))


def test_draws_with_a_shared_axis_equal_repeated_draws():
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(7, 1, 2)
    shared = importance_weighted_bound(vae, v1, v2, eps)
    repeated = importance_weighted_bound(vae, v1, v2, eps.expand(7, 5, 2))
    for a, b in zip(shared, repeated, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n_draws", [1, 3])
def test_loss_is_the_weighted_mean_of_the_bound(n_draws):
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(n_draws, 5, 2)
    bound = elbo if n_draws == 1 else importance_weighted_bound
    rows = bound(vae, v1, v2, eps, 0.5)
    loss = NegativeBound(bound, 0.5, n_draws)(vae, v1, v2, eps)
    torch.testing.assert_close(loss.loss, -rows.value.mean())
    weight = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0])
    loss = NegativeBound(bound, 0.5, n_draws)(vae, v1, v2, eps, weight)
    torch.testing.assert_close(loss.loss, -(weight * rows.value).mean())
    torch.testing.assert_close(loss.kl, (weight * rows.kl).mean())


def test_loss_gradient_by_finite_differences():
    vae = make_vae()
    v1, v2, eps = torch.randn(5, 3), torch.randn(5, 4), torch.randn(3, 5, 2)
    names, parameters = zip(*vae.named_parameters(), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self):
            return NegativeBound(importance_weighted_bound, 0.7, 3)(self.vae, v1, v2, eps).loss

    def loss(*values):
        state = {f"vae.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loss(), state, ())

    assert torch.autograd.gradcheck(loss, parameters)


# The joint loss


def make_joint(n_classes=3):
    vae = make_vae()
    head = ClassifierHead(3, 4, n_classes, hidden_features=(5,))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return GaussianVAEClassifierModule(vae, head)


def joint_batch(n=6, n_draws=3):
    v1, v2 = torch.randn(n, 3), torch.randn(n, 4)
    label = torch.randint(3, (n,))
    return v1, v2, torch.randn(n_draws, n, 2 + 4), label


def pseudo_batch(n=6, n_draws=3):
    """The same with draws of the shares in which rows are mixed."""
    v1, v2, eps, label = joint_batch(n, n_draws)
    return v1, v2, torch.cat([eps, torch.randn(n_draws, n, 1)], -1), label


@pytest.mark.parametrize("n_draws", [1, 3])
def test_joint_loss_against_a_loop(n_draws):
    joint = make_joint()
    v1, v2, eps, label = joint_batch(n_draws=n_draws)
    weight, label_weight = torch.rand(6), torch.rand(6)
    totals = torch.zeros(4)
    for i in range(6):
        q = joint.encoder(v1[i])
        log_lik, p_class = [], []
        for e in eps[:, i]:
            p = joint.decoder(q.mean + q.stddev * e[:2])
            log_lik.append(p.log_prob(v2[i]))
            logits = joint.classifier(v1[i : i + 1], (p.mean + p.stddev * e[2:])[None])
            p_class.append(logits.softmax(-1)[0, label[i]])
        log_lik, p_class = torch.stack(log_lik), torch.stack(p_class)
        kl = torch.distributions.kl_divergence(q, joint.prior())
        bound = log_lik.exp().mean().log() - 0.3 * kl
        cross_entropy = -label_weight[i] * p_class.mean().log()
        loss = cross_entropy - 0.2 * weight[i] * bound
        totals += torch.stack([loss, -weight[i] * log_lik.mean(), weight[i] * kl, cross_entropy])
    terms = JointLoss(0.3, 0.2, n_draws)(joint, v1, v2, eps, weight, label, label_weight)
    assert terms._fields == ("loss", "reconstruction", "kl", "cross_entropy", "penalty")
    torch.testing.assert_close(torch.stack(terms[:4]), totals / 6)
    assert terms.penalty == 0
    penalised = JointLoss(0.3, 0.2, n_draws, penalty=0.1)
    head = joint.classifier
    squares = sum(p.square().sum() for p in (head.hidden[0].weight, head.linear.weight))
    expected = 0.05 * (squares + head.logits.weight.square().sum())
    batch = joint, v1, v2, eps, weight, label, label_weight
    torch.testing.assert_close(penalised(*batch).penalty, expected)
    torch.testing.assert_close(penalised(*batch).loss, terms.loss + expected)
    joint.eval()
    assert penalised(*batch).loss == terms.loss  # in validation there is none


@pytest.mark.parametrize("of_labels", [1.0, 0.2])
def test_rows_without_a_label_are_drawn_to_their_own_prediction(of_labels):
    joint = make_joint()
    v1, v2, eps, label = pseudo_batch()
    # The third label weighs nothing, the last row has no second vector.
    label_weight = torch.tensor([2.0, -0.5, 0.0, -2.0, 2.0, -1.0])
    label_weight = torch.where(label_weight > 0, of_labels * label_weight, label_weight)
    weight = torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0, 0.0])
    batch = joint, v1, v2, eps, weight, label, label_weight
    params = {"vae_weight": 0.5, "label_share": 0.4}
    parts = [JointLoss(0.3, **params, pseudo_weight=w).by_rows(*batch) for w in (0.0, 1.5)]
    difference = parts[1].loss - parts[0].loss
    draws = eps.split([joint.encoder.out_features, v2.shape[-1], 1], -1)
    q = joint.encoder(v1).base_dist
    predictions, estimates = [], []
    for i in range(len(v1)):
        p = 0.0
        for k, (e_z, e_v, _) in enumerate(zip(*draws, strict=True)):
            decoded = joint.decoder((q.loc + q.scale * e_z)[i]).base_dist
            estimate = decoded.loc + decoded.scale * e_v[i]
            p = p + joint.classifier(v1[i], estimate).softmax(-1) / len(eps)
            if k == 0:
                estimates.append(estimate)
        predictions.append(p)
    n_classes = len(predictions[0])
    labelled, predicted = torch.ones(n_classes), torch.ones(n_classes)
    for i, p in enumerate(predictions):
        if label_weight[i] >= 0:
            labelled[label[i]] += label_weight[i]
        else:
            predicted -= label_weight[i] * p
    targets = [p**2 * labelled / predicted for p in predictions]
    targets = [target / target.sum() for target in targets]
    for i in torch.nonzero(label_weight >= 0)[:, 0]:
        targets[i] = torch.eye(n_classes)[label[i]]
    row_weight = [0.4 * w if w >= 0 else -w for w in label_weight]
    share = torch.distributions.Normal(0.0, 1.0).cdf(draws[2][0, :, 0])
    for i, p in enumerate(predictions):
        own = max(-label_weight[i], 0.0) * -(targets[i] * p.log()).sum()
        mixed = [(1 - share[i]) * x[i] + share[i] * x[i - 1] for x in (v1, estimates)]
        log_p = joint.classifier(*mixed).log_softmax(-1)
        pair = row_weight[i] * row_weight[i - 1]
        for j, part in ((i, 1 - share[i]), (i - 1, share[i])):
            own = own - pair * part * (targets[j] * log_p).sum()
        torch.testing.assert_close(difference[i], 1.5 * own)
    joint.eval()
    assert JointLoss(pseudo_weight=1.5)(*batch).loss == JointLoss()(*batch).loss


def test_no_class_takes_the_rows_of_another():
    # Without any information in the rows the prediction goes to the shares of the labelled rows,
    # where sharpening alone would go to the class that is ahead.
    joint = make_joint()
    with torch.no_grad():
        for parameter in joint.classifier.parameters():
            parameter.zero_()
        joint.classifier.logits.bias[0] = 1.0
    v1, v2, eps, label = pseudo_batch(n=300)
    eps[..., -1] = 0.0  # halves of two rows, so that no row counts more than others
    label = torch.arange(300) % 3
    label_weight = torch.where(torch.arange(300) < 150, 2.0, -1.0)
    loss = JointLoss(vae_weight=0.0, pseudo_weight=3.0, label_share=0.5)
    terms = loss(joint, v1, v2, eps, None, label, label_weight)
    without = JointLoss(vae_weight=0.0)(joint, v1, v2, eps, None, label, label_weight)
    (gradient,) = torch.autograd.grad(terms.loss - without.loss, joint.classifier.logits.bias)
    p = torch.tensor([1.0, 0.0, 0.0]).softmax(-1)
    target = p**2 / (1 + 150 * p)
    own = 1.5 * (p - target / target.sum())
    # Mixed rows have the same prediction, and all targets, labels too.
    torch.testing.assert_close(gradient, own + own + 1.5 * (p - 1 / 3))
    sharpened = 1.5 * (p - (2 * p.log()).softmax(-1))
    assert abs(own[0]) < 0.02 < abs(sharpened[0])
    # Without any label in the batch nothing is known of the shares.
    terms = loss(joint, v1, v2, eps, None, label, label_weight.clamp(max=0))
    (gradient,) = torch.autograd.grad(terms.loss, joint.classifier.logits.bias)
    torch.testing.assert_close(gradient, sharpened * (1 + 149 / 150))


def test_a_stack_of_batches_is_each_of_them():
    joint = make_joint()
    batches = [pseudo_batch(), pseudo_batch()]
    v1, v2, eps, label = zip(*batches, strict=True)
    label_weight = torch.tensor([[2.0, -0.5, 0.0, -2.0, 2.0, -1.0], [-1.0] * 5 + [0.5]])
    loss = JointLoss(0.3, label_share=0.4, pseudo_weight=1.5)
    stacked = torch.stack(v1), torch.stack(v2), torch.stack(eps), None, torch.stack(label)
    found = loss.by_rows(joint, *stacked, label_weight)
    for i, (v1, v2, eps, label) in enumerate(batches):
        alone = loss.by_rows(joint, v1, v2, eps, None, label, label_weight[i])
        for a, b in zip(found, alone, strict=True):
            torch.testing.assert_close(a[i], b)


def test_each_module_of_a_stack_has_its_own_penalty(monkeypatch):
    joint = make_joint()
    monkeypatch.setattr(joint, "squared_weights", lambda: torch.tensor([1.0, 3.0]))
    v1, v2, eps, label = joint_batch()
    stacked = v1.expand(2, -1, -1), v2.expand(2, -1, -1), eps.expand(2, -1, -1, -1)
    for penalty, expected in ((0.1, [0.05, 0.15]), (torch.tensor([[0.1], [0.2]]), [0.05, 0.3])):
        terms = JointLoss(penalty=penalty).by_rows(joint, *stacked, None, label.expand(2, -1))
        expected = torch.tensor(expected)[:, None].expand(2, 6)
        torch.testing.assert_close(terms.penalty, expected)


def test_draws_that_the_loss_needs():
    joint = make_joint()
    assert JointLoss().noise_features(joint) == 2 + 4
    assert JointLoss(pseudo_weight=0.5).noise_features(joint) == 2 + 4 + 1
    assert NegativeBound().noise_features(make_vae()) == 2


def test_joint_loss_of_series():
    joint = make_joint()
    v1, v2, eps, label = joint_batch(n=6)
    flat = JointLoss(0.3)(joint, v1, v2, eps, None, label)
    series = JointLoss(0.3)(
        joint,
        v1.view(2, 3, 3),
        v2.view(2, 3, 4),
        eps.view(3, 2, 3, 6).transpose(0, 1),
        None,
        label.view(2, 3),
    )
    torch.testing.assert_close(torch.stack(series), torch.stack(flat))


def test_the_share_of_labels_scales_the_gradient_through_the_estimate():
    joint = make_joint()
    v1, v2, eps, label = joint_batch()

    def gradient(**params):
        joint.zero_grad()
        loss = JointLoss(vae_weight=0.5, **params)(joint, v1, v2, eps, None, label)
        loss.cross_entropy.backward()
        return [p.grad.clone() for p in (joint.encoder.loc.weight, joint.classifier.linear.weight)]

    whole, part = gradient(), gradient(label_share=0.1)
    torch.testing.assert_close(part[0], 0.1 * whole[0])
    torch.testing.assert_close(part[1], whole[1])


@pytest.mark.parametrize("noise", ["homoscedastic", "isotropic"])
def test_shared_noise_sees_the_density_alone(noise):
    # Its closed form is that of the density: a gradient of the cross-entropy would derail it.
    joint = GaussianVAEClassifierModule(make_vae(noise), make_joint().classifier)
    v1, v2, eps, label = joint_batch()
    JointLoss()(joint, v1, v2, eps, None, label).cross_entropy.backward()
    assert joint.encoder.loc.weight.grad.abs().sum() > 0
    assert joint.decoder.shared_log_scale.grad is None


def test_joint_gradients_reach_all_three_parts():
    joint = make_joint()
    v1, v2, eps, label = joint_batch()

    def gradients(**params):
        joint.zero_grad()
        JointLoss(**params)(joint, v1, v2, eps, None, label, torch.ones(6)).loss.backward()
        return {name: p.grad for name, p in joint.named_parameters()}

    for name, gradient in gradients(vae_weight=1.0).items():
        assert gradient.abs().sum() > 0, name
    # Through the estimate of v2 the cross-entropy alone reaches them too.
    joint.zero_grad()
    loss = JointLoss(vae_weight=1.0)(joint, v1, v2, eps, None, label, torch.ones(6))
    loss.cross_entropy.backward()
    assert joint.encoder.loc.weight.grad.abs().sum() > 0
    assert joint.decoder.log_scale.weight.grad.abs().sum() > 0
    for name, gradient in gradients(vae_weight=0.0).items():
        reached = gradient is not None and bool(gradient.abs().sum() > 0)
        assert reached == name.startswith("classifier"), name


def test_joint_loss_gradient_by_finite_differences():
    joint = make_joint()
    v1, v2, eps, label = joint_batch(n=4)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    names, parameters = zip(*joint.named_parameters(), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.joint = joint

        def forward(self):
            return JointLoss(0.3, 0.5, 3)(self.joint, v1, v2, eps, None, label, weight).loss

    def loss(*values):
        state = {f"joint.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loss(), state, ())

    assert torch.autograd.gradcheck(loss, parameters)

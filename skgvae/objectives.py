"""What is maximised? Bounds on the log-likelihood, as functions of tensors.

All are in nats and summed, never averaged, over features and latents: the balance between
reconstruction and KL must not depend on how many columns there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .nn.noise import GaussianNoise

__all__ = [
    "Bound",
    "JointLoss",
    "JointTerms",
    "LossTerms",
    "NegativeBound",
    "decoded_log_prob",
    "elbo",
    "gaussian_log_prob",
    "importance_log_weights",
    "importance_weighted_bound",
    "log_mean_exp",
    "predictive_bound",
]


def gaussian_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""Return the log density of a diagonal Gaussian, summed over the last axis.

    .. math:: -\tfrac12 \sum_j [\log 2\pi + 2 \log\sigma_j + (x_j - \mu_j)^2 / \sigma_j^2]

    Parameters
    ----------
    x, loc, log_scale : Tensor of shape (*, d)
        Point, mean and log standard deviation; they broadcast.

    Returns
    -------
    Tensor of shape (*)
        Nats.

    Examples
    --------
    >>> import torch
    >>> from skgvae.objectives import gaussian_log_prob
    >>> gaussian_log_prob(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    tensor(-0.9189)
    """
    return GaussianNoise.log_prob(x, loc, log_scale).sum(-1)


def decoded_log_prob(
    vae: nn.Module, v2: Tensor, loc: Tensor, log_scale: Tensor, known: Tensor | None = None
) -> Tensor:
    """Return log p(v2 | z), summed over features, given the decoder's parameters at z.

    Parameters
    ----------
    vae : GaussianVAEModule
        Whose decoder says what family its noise has.
    v2 : Tensor of shape (*, n, out_features)
        Target.
    loc, log_scale : Tensor of shape (*, K, n, out_features)
        Of the decoder.
    known : Tensor of bool, of shape (*, n, out_features), optional
        Which cells of v2 count; all by default. The others hold any finite number.

    Returns
    -------
    Tensor of shape (*, K, n)
        Nats.
    """
    cells = vae.decoder.family.log_prob(v2.unsqueeze(-3), loc, log_scale)
    return (cells if known is None else cells.where(known.unsqueeze(-3), 0.0)).sum(-1)


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Return log of the mean of exp(log_w) along an axis, without overflow."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


class Bound(NamedTuple):
    """A bound on log p of each row and its two parts, in nats, each of shape (*)."""

    value: Tensor
    """The bound: −reconstruction − kl_weight · kl for one draw, more for several."""
    reconstruction: Tensor
    """−E log p(v2 | z), estimated by the draws."""
    kl: Tensor
    """KL(q(z | v1) ‖ p(z))."""


def importance_log_weights(
    vae: nn.Module, v1: Tensor, v2: Tensor, eps: Tensor, known: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\log p(v_2 | z_k) + \log p(z_k) - \log q(z_k | v_1)` for each draw.

    Parameters
    ----------
    vae, v1, v2, eps, known
        As for :func:`elbo`.

    Returns
    -------
    Tensor of shape (*, K, n)
        Nats. For v2 = v1 the mean of their exponentials estimates p(v2).
    """
    loc, log_scale = vae.encoder.loc_and_log_scale(v1)
    z = reparameterise(loc, log_scale, eps)
    log_lik = decoded_log_prob(vae, v2, *vae.decoder.loc_and_log_scale(z), known)
    return log_lik + vae.prior.log_prob(z) - _log_posterior(eps, log_scale)


def elbo(
    vae: nn.Module,
    v1: Tensor,
    v2: Tensor,
    eps: Tensor,
    kl_weight: float | Tensor = 1.0,
    known: Tensor | None = None,
) -> Bound:
    r"""Return the evidence lower bound of each row, its KL in closed form where there is one.

    .. math:: E_{q(z | v_1)} \log p(v_2 | z) - w \, KL(q(z | v_1) \| p(z))

    Parameters
    ----------
    vae : GaussianVAEModule
        Anything with ``encoder``, ``decoder`` and ``prior`` like its.
    v1 : Tensor of shape (*, n, in_features)
        Input.
    v2 : Tensor of shape (*, n, out_features)
        Target.
    eps : Tensor of shape (*, K, n, latent_features)
        Standard normal draws, z = m(v1) + s(v1) eps; an axis of length one is shared by rows.
    kl_weight : float or Tensor
        Weight w of the KL term; a tensor, one for each row, broadcasts against them.
    known : Tensor of bool, of shape (*, n, out_features), optional
        Cells of v2 that are known [2]_; all by default. The bound is then one of log p of these,
        and v1 should tell the encoder which they are.

    References
    ----------
    .. [1] Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.
    .. [2] Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
       Data Sets", 2019, arXiv:1812.02633.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    log_lik = decoded_log_prob(vae, v2, *vae.decoder.loc_and_log_scale(z), known)  # (K, n)
    reconstruction = -log_lik.mean(-2)
    kl = _divergence(vae.prior, loc, log_scale, z, eps)
    return Bound(-reconstruction - kl_weight * kl, reconstruction, kl)


def importance_weighted_bound(
    vae: nn.Module,
    v1: Tensor,
    v2: Tensor,
    eps: Tensor,
    kl_weight: float | Tensor = 1.0,
    known: Tensor | None = None,
) -> Bound:
    r"""Return the importance-weighted bound of each row.

    .. math::

        L_K = \log \tfrac1K \sum_k p(v_2 | z_k) \, p(z_k) / q(z_k | v_1)

    which for v2 = v1 rises with K towards log p(v2). A weight w above one returns
    :math:`L_K - (w - 1) \, KL(q(z | v_1) \| p(z))`, one below it
    :math:`w L_K + (1 - w) E \log p(v_2 | z)`. For one draw both are, in expectation, the
    evidence lower bound with weight w; for several no divergence is ever rewarded, neither
    by a negative weight nor by the luckiest of the draws.

    Parameters
    ----------
    vae, v1, v2, eps, kl_weight, known
        As for :func:`elbo`.

    References
    ----------
    Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", 2015, arXiv:1509.00519.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    log_lik = decoded_log_prob(vae, v2, *vae.decoder.loc_and_log_scale(z), known)
    log_ratio = vae.prior.log_prob(z) - _log_posterior(eps, log_scale)
    closed_form = vae.prior.closed_form_kl
    kl = vae.prior.kl(loc, log_scale, z).sum(-1) if closed_form else -log_ratio.mean(-2)
    value, reconstruction = log_mean_exp(log_lik + log_ratio, -2), -log_lik.mean(-2)
    if isinstance(kl_weight, Tensor) or kl_weight != 1:
        below, above = split_weight(kl_weight)
        value = below * value - (1 - below) * reconstruction - above * kl
    return Bound(value, reconstruction, kl)


def split_weight(weight: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """Return a weight's part below one, and what it has above one."""
    if isinstance(weight, Tensor):
        return weight.clamp(max=1), (weight - 1).clamp(min=0)
    return min(weight, 1.0), max(weight - 1.0, 0.0)


def predictive_bound(
    vae: nn.Module,
    v1: Tensor,
    v2: Tensor,
    eps: Tensor,
    kl_weight: float | Tensor = 1.0,
    mean_power: float = 0.0,
    known: Tensor | None = None,
    log_spreads: Sequence[float] | None = None,
) -> Bound:
    r"""Return the predictive log density of each row less the weighted KL.

    .. math:: \log \tfrac1K \sum_k p(v_2 | z_k) - w \, KL(q(z | v_1) \| p(z))

    This trains p(v2 | v1) = E[p(v2 | z)] over q(z | v1). For v2 ≠ v1 it is a variational
    information bottleneck: from some w on, for one draw below one, to ignore v1 is optimal.

    Parameters
    ----------
    vae, v1, v2, eps, kl_weight
        As for :func:`elbo`.
    mean_power : float
        The gradient with respect to the decoder's mean is multiplied by
        :math:`\sigma^{2 b}`, relative to its average over rows and draws for each target,
        with b = ``mean_power``. Without it (b = 0) rows with large σ hardly train the mean,
        and a poor mean keeps them large. The value is the same for every b; where the mean
        is too rigid to fit all rows, the stationary point is not.
    known
        As for :func:`elbo`.
    log_spreads : sequence of float, optional
        Logarithms of factors of σ(z). The value has one more axis then, the first: the bound
        without a factor, and with each of these.

    References
    ----------
    Alemi, Fischer, Dillon & Murphy, "Deep Variational Information Bottleneck", 2017,
    arXiv:1612.00410. Seitzer, Tavakoli, Antic & Martius, "On the Pitfalls of Heteroscedastic
    Uncertainty Estimation", 2022, arXiv:2203.09168.
    """
    loc, log_scale, z = _draw(vae, v1, eps)
    decoded, decoded_log_scale = vae.decoder.loc_and_log_scale(z)
    if mean_power:
        factor = torch.exp(2 * mean_power * decoded_log_scale.detach()).expand_as(decoded)
        # Relative to the same target's average: a precise one is no less to be learned.
        factor = factor / factor.mean((-3, -2), keepdim=True)
        centre = decoded.detach()
        decoded = centre + factor * (decoded - centre)
    log_lik = decoded_log_prob(vae, v2, decoded, decoded_log_scale, known)
    kl = _divergence(vae.prior, loc, log_scale, z, eps)
    value = log_mean_exp(log_lik, -2)
    if log_spreads is not None:
        others = (
            decoded_log_prob(vae, v2, decoded, decoded_log_scale + log_spread, known)
            for log_spread in log_spreads
        )
        value = torch.stack([value, *(log_mean_exp(other, -2) for other in others)])
    return Bound(value - kl_weight * kl, -log_lik.mean(-2), kl)


class LossTerms(NamedTuple):
    """A training loss and its parts, in nats, averaged over rows."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class NegativeBound(nn.Module):
    """The training loss: minus a bound, averaged over rows.

    Parameters
    ----------
    bound : callable
        :func:`elbo`, :func:`importance_weighted_bound` or :func:`predictive_bound`.
    kl_weight : float or Tensor of shape (n_modules, 1)
        Weight of the KL term; of a stack of modules it may be one for each.
    n_draws : int
        Draws of z for each row in training.
    log_spreads : sequence of float, optional
        Of :func:`predictive_bound`: models are judged by the best of the losses that they would
        have with so much more or less noise, as that is corrected after training.
    **params
        Further parameters of the bound.
    """

    vae_weight = 1.0

    def __init__(
        self,
        bound: Callable = elbo,
        kl_weight: float | Tensor = 1.0,
        n_draws: int = 1,
        log_spreads: Sequence[float] | None = None,
        **params: float,
    ):
        super().__init__()
        self.bound = bound
        self.kl_weight = kl_weight
        self.n_draws = n_draws
        self.log_spreads = log_spreads
        self.params = params

    def noise_features(self, vae: nn.Module) -> int:
        """Return the width of the standard normal draws that ``forward`` needs."""
        return vae.encoder.out_features

    def forward(
        self,
        vae: nn.Module,
        v1: Tensor,
        v2: Tensor,
        eps: Tensor,
        weight: Tensor | None = None,
        known: Tensor | None = None,
    ) -> LossTerms:
        """Return loss, reconstruction and KL as scalars.

        Parameters
        ----------
        vae, v1, v2, eps
            As for :func:`elbo`.
        weight : Tensor of shape (*), optional
            Weight of each row, with mean one over the data.
        known
            As for :func:`elbo`.
        """
        return LossTerms(*(term.mean() for term in self.by_rows(vae, v1, v2, eps, weight, known)))

    def by_rows(
        self,
        vae: nn.Module,
        v1: Tensor,
        v2: Tensor,
        eps: Tensor,
        weight: Tensor | None = None,
        known: Tensor | None = None,
        **params,
    ) -> LossTerms:
        """Return the same for each row, of shape (*); parameters as for :meth:`forward`.

        Further ones are parameters of the bound.
        """
        params = {**self.params, **params}
        if known is not None:
            params["known"] = known
        return self.weigh(self.bound(vae, v1, v2, eps, self.kl_weight, **params), weight)

    def weigh(self, bound: Bound, weight: Tensor | None = None) -> LossTerms:
        """Return the terms of the loss, given the bound and the weight of each row."""
        terms = LossTerms(-bound.value, bound.reconstruction, bound.kl)
        return terms if weight is None else LossTerms(*(weight * term for term in terms))


class JointTerms(NamedTuple):
    """A joint training loss and its parts, in nats, averaged over rows."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    cross_entropy: Tensor
    penalty: Tensor


class JointLoss(nn.Module):
    r"""Cross-entropy of a classifier and minus the predictive bound of v2, averaged over rows.

    .. math::

        -\log \tfrac1K \sum_k p(c | v_1, \hat v_{2,k})
        + v \left[ -\log \tfrac1K \sum_k p(v_2 | z_k)
        + w \, KL(q(z | v_1) \| p(z)) \right]

    with draws :math:`z_k \sim q(z | v_1)` and :math:`\hat v_{2,k} \sim p(v_2 | z_k)`. For one
    draw these are the cross-entropy and the evidence lower bound.

    Parameters
    ----------
    kl_weight : float or Tensor of shape (n_modules, 1)
        Weight w of the KL term; of a stack of modules it may be one for each.
    vae_weight : float
        Weight v of the auto-encoder. Zero trains the classifier alone: the cross-entropy
        then has no gradient with respect to the auto-encoder.
    n_draws : int
        Draws for each row in training.
    penalty : float or Tensor of shape (n_modules, 1)
        In training, half of it times the sum of the squared weights (not biases) of the
        classifier is added: a Gaussian prior on them.
    label_share : float
        Share of the rows that have a label, in weight. The gradient of the cross-entropy with
        respect to the estimate of v2 is multiplied by it. Where a few rows with large weights
        have a label, that keeps the auto-encoder from learning these by heart.
    pseudo_weight : float
        In training, weight of two cross-entropies that rows without a label (``label_weight``
        below zero) take part in, against targets that are taken as given. Such a row's target
        is a sharper version of its own prediction,
        :math:`t_c \propto p_c^2 \, \pi_c / \bar p_c`, where :math:`\pi_c` is the share of a
        class in the weights of the labels, :math:`\bar p_c` its average probability in the rows
        without, both within the batch (the last axis of rows) and with a weight of one added to
        each class; without a label in the batch their ratio is one. The first cross-entropy is
        that of these rows; boundaries between classes move to where there are few rows, and no
        class takes the rows of another. The second is that of each row (a label is a target
        too) mixed with the one before it on the last axis of rows, in uniform shares: the
        classifier's input, of the first draw, and the target. Its weight is the product of both
        rows' weights, to which ``label_share`` contributes: as if labels had not been repeated.
        Between rows predictions become linear.

    References
    ----------
    Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
    Networks", 2013. Xie, Girshick & Farhadi, "Unsupervised Deep Embedding for Clustering
    Analysis", 2016, arXiv:1511.06335 (the squared target). Berthelot, Carlini, Cubuk, Kurakin,
    Sohn, Zhang & Raffel, "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and
    Augmentation Anchoring", 2020, arXiv:1911.09785 (the shares of the classes). Zhang, Cisse,
    Dauphin & Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018, arXiv:1710.09412;
    Verma, Lamb, Kannala, Bengio & Lopez-Paz, "Interpolation Consistency Training for
    Semi-Supervised Learning", 2019, arXiv:1903.03825 (mixed rows).
    """

    def __init__(
        self,
        kl_weight: float | Tensor = 1.0,
        vae_weight: float = 1.0,
        n_draws: int = 1,
        penalty: float | Tensor = 0.0,
        label_share: float = 1.0,
        pseudo_weight: float = 0.0,
    ):
        super().__init__()
        self.kl_weight = kl_weight
        self.vae_weight = vae_weight
        self.n_draws = n_draws
        self.penalty = penalty
        self.label_share = label_share
        self.pseudo_weight = pseudo_weight

    def noise_features(self, joint: nn.Module) -> int:
        """Return the width of the standard normal draws that ``forward`` needs."""
        n_features = joint.encoder.out_features + joint.decoder.out_features
        return n_features + (self.pseudo_weight > 0)

    def forward(
        self,
        joint: nn.Module,
        v1: Tensor,
        v2: Tensor,
        eps: Tensor,
        weight: Tensor | None,
        label: Tensor,
        label_weight: Tensor | None = None,
        known: Tensor | None = None,
    ) -> JointTerms:
        """Return the loss and its parts as scalars.

        Parameters
        ----------
        joint : GaussianVAEClassifierModule
            Auto-encoder and classifier.
        v1 : Tensor of shape (*, n, in_features)
            Input.
        v2 : Tensor of shape (*, n, out_features)
            Target.
        eps : Tensor of shape (*, K, n, latent_features + out_features [+ 1])
            Standard normal draws for z, for the estimate of v2 and, where ``pseudo_weight`` is
            positive, for the shares in which rows are mixed; K need not be ``n_draws``, which is
            what the net draws in training.
        weight : Tensor of shape (*), optional
            Weight of each row in the auto-encoder's part, with mean one over the data.
        label : Tensor of shape (*)
            Index of the class.
        label_weight : Tensor of shape (*), optional
            Weight of each row in the cross-entropy, with mean one over the data; where there is
            no label, minus the weight of the row among those without.
        known
            As for :func:`elbo`.
        """
        terms = self.by_rows(joint, v1, v2, eps, weight, label, label_weight, known)
        return JointTerms(*(term.mean() for term in terms))

    def by_rows(
        self,
        joint: nn.Module,
        v1: Tensor,
        v2: Tensor,
        eps: Tensor,
        weight: Tensor | None,
        label: Tensor,
        label_weight: Tensor | None = None,
        known: Tensor | None = None,
    ) -> JointTerms:
        """Return the same for each row, of shape (*); parameters as for :meth:`forward`."""
        n_latent = joint.encoder.out_features
        ends = n_latent, n_latent + v2.shape[-1]
        eps_z, eps_target, eps_share = eps.tensor_split(ends, -1)
        loc, log_scale, z = _draw(joint, v1, eps_z)
        decoded, decoded_log_scale = joint.decoder.loc_and_log_scale(z)
        log_lik = decoded_log_prob(joint, v2, decoded, decoded_log_scale, known)
        kl = _divergence(joint.prior, loc, log_scale, z, eps_z)

        if not joint.decoder.per_row:  # its closed form is that of the density alone
            decoded_log_scale = decoded_log_scale.detach()
        estimate = joint.decoder.family.draw(decoded, decoded_log_scale, eps_target)
        feedback = self.label_share if self.vae_weight > 0 else 0.0
        if feedback != 1:
            estimate = torch.lerp(estimate.detach(), estimate, feedback)
        log_p = joint.classify(v1.unsqueeze(-3), estimate).log_softmax(-1)
        log_p = log_mean_exp(log_p, -3)  # (*, n, classes)
        cross_entropy = -log_p.gather(-1, label[..., None])[..., 0]
        if label_weight is not None:
            cross_entropy = label_weight.clamp(min=0) * cross_entropy

        bound = log_mean_exp(log_lik, -2) - self.kl_weight * kl
        terms = -bound, -log_lik.mean(-2), kl
        if weight is not None:
            terms = [weight * term for term in terms]
        negative_bound, reconstruction, kl = terms
        penalty = torch.zeros_like(cross_entropy)
        if joint.training and (isinstance(self.penalty, Tensor) or self.penalty):
            penalty = penalty + 0.5 * self.penalty * joint.squared_weights().unsqueeze(-1)
        loss = cross_entropy + penalty
        if joint.training and self.pseudo_weight and label_weight is not None:
            share = torch.special.ndtr(eps_share[..., 0, :, :])
            loss = loss + self.pseudo_weight * self._pseudo_cross_entropy(
                joint, v1, estimate[..., 0, :, :], log_p, label, label_weight, share
            )
        if self.vae_weight > 0:
            loss = loss + self.vae_weight * negative_bound
        return JointTerms(loss, reconstruction, kl, cross_entropy, penalty)

    def _pseudo_cross_entropy(self, joint, v1, estimate, log_p, label, label_weight, share):
        # Of rows without a label, and of all rows mixed in these shares with those before them.
        one_hot = torch.nn.functional.one_hot(label, log_p.shape[-1])
        target = _sharpen(log_p.detach(), one_hot, label_weight)
        own = (-label_weight).clamp(min=0) * (target * log_p).sum(-1)

        has_label = label_weight >= 0
        target = torch.where(has_label.unsqueeze(-1), one_hot, target)
        row_weight = torch.where(has_label, self.label_share * label_weight, -label_weight)
        pairs = v1, estimate, target
        v1, estimate, target = (torch.lerp(x, x.roll(1, -2), share) for x in pairs)
        log_p = joint.classify(v1, estimate).log_softmax(-1)
        mixed = row_weight * row_weight.roll(1, -1) * (target * log_p).sum(-1)
        return -(own + mixed)


def _sharpen(log_p, one_hot, label_weight):
    # p² times, for each class, its share in the labels by its share in the predictions.
    known, unknown = label_weight.clamp(min=0), (-label_weight).clamp(min=0)
    labelled = (known.unsqueeze(-1) * one_hot).sum(-2, keepdim=True) + 1
    predicted = (unknown.unsqueeze(-1) * log_p.exp()).sum(-2, keepdim=True) + 1
    has_labels = known.sum(-1, keepdim=True).unsqueeze(-1) > 0
    log_ratio = torch.where(has_labels, labelled.log() - predicted.log(), 0.0)
    return (2 * log_p + log_ratio).softmax(-1)


def _draw(vae, v1, eps):
    loc, log_scale = vae.encoder.loc_and_log_scale(v1)
    return loc, log_scale, reparameterise(loc, log_scale, eps)


def reparameterise(loc: Tensor, log_scale: Tensor, eps: Tensor) -> Tensor:
    """Return z = loc + scale eps, of shape (K, n, latent), for draws eps of that shape."""
    return torch.addcmul(loc.unsqueeze(-3), log_scale.exp().unsqueeze(-3), eps)


def _divergence(prior, loc, log_scale, z, eps):
    # KL(q(z | v1) ‖ p(z)) of each row: exact, or estimated by the draws
    if prior.closed_form_kl:
        return prior.kl(loc, log_scale, z).sum(-1)
    return (_log_posterior(eps, log_scale) - prior.log_prob(z)).mean(-2)


def _log_posterior(eps, log_scale):
    # log q(z | v1) at z = m + s eps: the density of eps less log |dz / d eps|.
    log_eps = -0.5 * eps.square().sum(-1) - 0.5 * eps.shape[-1] * math.log(2 * math.pi)
    return log_eps - log_scale.sum(-1).unsqueeze(-2)

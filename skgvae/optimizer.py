"""Which step does a weight take? AdamW's, and Muon's for the matrices of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

# skorch's pattern for the matrices of hidden layers.
HIDDEN = "*.hidden.*.weight"

# Of the polynomial that drives singular values towards one, from Jordan et al.: the first
# slope is what a small one is multiplied by.
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_N_ITERATIONS = 5
_SMALLEST = 1e-16  # norm; that of smaller entries underflows in float32
_MOMENTUM = 0.95
# Of the entries of a step, at rate one. Liu et al. have 0.2, the usual size of Adam's; here
# twice as much is better, eight times as much far too much.
_RMS = 0.4


def orthogonalise(matrices: Tensor) -> Tensor:
    r"""Return the nearest (semi-)orthogonal matrices, roughly: U Vᵀ of M = U S Vᵀ.

    By five iterations :math:`X \leftarrow a X + (b A + c A^2) X` with :math:`A = X X^T`, from
    M over its Frobenius norm; singular values of more than a hundredth of that end between 0.4
    and 1.3, those near zero stay near zero.

    Parameters
    ----------
    matrices : Tensor of shape (n, rows, columns)
        Of which each is taken for itself; fastest with no more rows than columns.

    Returns
    -------
    Tensor of shape (n, rows, columns)
        Zero where the matrix is zero.

    References
    ----------
    Jordan, Jin, Boza, You, Cesista, Newhouse & Bernstein, "Muon: An optimizer for hidden layers in
    neural networks", 2024.

    Examples
    --------
    >>> import torch
    >>> from skgvae.optimizer import orthogonalise
    >>> s = torch.linalg.svdvals(orthogonalise(torch.diag(torch.tensor([5.0, 1.0]))[None]))
    >>> bool(((s > 0.4) & (s < 1.3)).all())
    True
    """
    a, b, c = _COEFFICIENTS
    norm = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    X = matrices / norm.clamp(min=_SMALLEST)
    for _ in range(_N_ITERATIONS):
        A = torch.bmm(X, X.mT)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X


class Muon(torch.optim.AdamW):
    """AdamW whose groups with ``orthogonal=True`` take the steps of Muon.

    Such a step is the momentum of a weight matrix, made orthogonal: all directions of the
    matrix learn at one speed [1]_. Its size is of the order of Adam's [2]_, so that all groups
    share a learning rate: the root mean square of its entries is 0.4 times that.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them. In groups with ``orthogonal=True`` those of shape
        (M, rows, columns), as in a :class:`~skgvae.stack.ModuleStack`, are M matrices, each of
        which has an orthogonal step; the others have AdamW's.
    lr : float, default=1e-3
        Learning rate.
    **kwargs
        Further parameters of :class:`torch.optim.AdamW`. ``weight_decay`` holds for both kinds;
        that of a group may be a tensor of shape (M,) or (M, 1), one for each row of its
        parameters.

    References
    ----------
    .. [1] Jordan, Jin, Boza, You, Cesista, Newhouse & Bernstein, "Muon: An optimizer for hidden
       layers in neural networks", 2024.
    .. [2] Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.

    Examples
    --------
    >>> import torch
    >>> from skgvae.optimizer import Muon
    >>> weights = torch.nn.Parameter(torch.zeros(5, 2, 3))
    >>> optimizer = Muon([{"params": [weights], "orthogonal": True}], lr=0.1)
    >>> weights.sum().backward()
    >>> optimizer.step()
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, **kwargs):
        super().__init__(params, lr, **kwargs)
        self.defaults["orthogonal"] = False
        self._set_missing()

    def __setstate__(self, state):
        super().__setstate__(state)
        self._set_missing()  # in a state of AdamW

    def _set_missing(self):
        for group in self.param_groups:
            group.setdefault("orthogonal", False)

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss anew and returns it.

        Returns
        -------
        Tensor or None
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stacks = [
            (group, [p for p in group["params"] if p.ndim == 3 and p.grad is not None])
            for group in self.param_groups
            if group["orthogonal"]
        ]
        gradients = [(p, p.grad) for _, parameters in stacks for p in parameters]
        decays = [group["weight_decay"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                self._decay_by_rows(group)
            for group, parameters in stacks:
                self._step_orthogonally(group, parameters)
            for p, _ in gradients:
                p.grad = None  # AdamW passes over these
            super().step()
        finally:
            for p, gradient in gradients:
                p.grad = gradient
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        return loss

    def _decay_by_rows(self, group):
        if not torch.is_tensor(group["weight_decay"]):
            return
        for p in group["params"]:
            if p.grad is not None:
                p.mul_(1 - group["lr"] * group["weight_decay"].view(-1, *[1] * (p.ndim - 1)))
        group["weight_decay"] = 0.0  # AdamW knows none but numbers

    def _step_orthogonally(self, group, parameters):
        directions = {}  # those of one shape are made orthogonal together
        for p in parameters:
            state = self.state[p]
            if not state:
                # AdamW looks for it in a saved state.
                state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
                state["exp_avg"] = torch.zeros_like(p)
            state["step"] += 1
            gradient = -p.grad if group["maximize"] else p.grad
            momentum = state["exp_avg"].lerp_(gradient, 1 - _MOMENTUM)
            direction = gradient.lerp(momentum, _MOMENTUM)
            is_tall = direction.shape[1] > direction.shape[2]
            direction = direction.mT if is_tall else direction
            directions.setdefault(direction.shape[1:], []).append((p, is_tall, direction))
        for (_, n_columns), entries in directions.items():
            steps = orthogonalise(torch.cat([direction for *_, direction in entries]))
            steps = steps.split([len(p) for p, *_ in entries])
            for (p, is_tall, _), step in zip(entries, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                size = group["lr"] * _RMS * n_columns**0.5
                p.add_(step.mT if is_tall else step, alpha=-size)

"""Which step does a weight take? AdamW's, and Muon's for the matrices of hidden layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._stack import ModuleStack

__all__ = ["StackOptimizer", "orthogonalise"]

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
    >>> from skgvae._optimizer import orthogonalise
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


class StackOptimizer(torch.optim.Optimizer):
    """AdamW for all weights of a stack at once; hidden layers may take the steps of Muon.

    An orthogonal step is the momentum of a weight matrix, made orthogonal: all directions of the
    matrix learn at one speed [1]_. Its size is of the order of Adam's [2]_, so that all weights
    share a learning rate: the root mean square of its entries is 0.4 times that.

    Parameters
    ----------
    stack : ModuleStack
        What is trained.
    lr : float, default=1e-3
        Learning rate.
    betas, eps : tuple of float, float
        As of :class:`torch.optim.AdamW`.
    weight_decay : float or Tensor of shape (M,), default=0.0
        Decoupled weight decay of the weight matrices of hidden layers; a tensor has one for each
        model. Other weights would be pulled away from the data: linear paths, biases and noise.
    orthogonal : bool, default=False
        Whether these matrices have orthogonal steps.

    References
    ----------
    .. [1] Jordan, Jin, Boza, You, Cesista, Newhouse & Bernstein, "Muon: An optimizer for hidden
       layers in neural networks", 2024.
    .. [2] Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianVAEModule
    >>> from skgvae._optimizer import StackOptimizer
    >>> from skgvae._stack import ModuleStack
    >>> stack = ModuleStack([GaussianVAEModule(4, 2)])
    >>> optimizer = StackOptimizer(stack, lr=0.1, orthogonal=True)
    >>> stack.encoder.loc.weight.square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        stack: ModuleStack,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor = 0.0,
        orthogonal: bool = False,
    ):
        # Not torch's own __init__: it imports torch._dynamo, more than a second in each process.
        self.stack, self.betas, self.eps, self.orthogonal = stack, betas, eps, orthogonal
        self.defaults = {"lr": lr, "weight_decay": weight_decay}
        self.param_groups = [{"params": list(stack.parameters.values()), **self.defaults}]
        self.state = {}
        self._n_adam = stack.n_others if orthogonal else stack.weights.shape[1]
        shapes = {}  # matrices of one shape are made orthogonal together
        for c in stack.columns:
            if c.start >= self._n_adam:
                is_tall = c.shape[0] > c.shape[1]
                shapes.setdefault(tuple(sorted(c.shape)), []).append((c, is_tall))
        self._matrices = list(shapes.values())

    def __getstate__(self) -> dict:
        # Not torch's own: it leaves the stack out, and loading it wraps `step` of the class, so
        # that no other StackOptimizer of the process can take one.
        own = {name: getattr(self, name) for name in ("stack", "betas", "eps", "orthogonal")}
        return own | {"state_dict": self.state_dict()}

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        state_dict = state.pop("state_dict")
        self.__init__(**state)
        self.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict) -> None:
        """Raise: the weights of the stack are the only group."""
        raise ValueError("A StackOptimizer has the weights of its stack, and no other group.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.stack.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict:
        """Return moments and settings, as :meth:`load_state_dict` takes them."""
        group = {k: v for k, v in self.param_groups[0].items() if k != "params"}
        return {"state": {0: dict(self.state[0])} if self.state else {}, "param_groups": [group]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state."""
        device = self.stack.weights.device
        self.state = {
            i: {k: v.clone().to(device) for k, v in state.items()}
            for i, state in state_dict["state"].items()
        }
        self.param_groups[0].update(state_dict["param_groups"][0])

    @torch.no_grad()
    def step(self, closure: None = None, gradient: Tensor | None = None) -> None:
        """Take a step.

        Parameters
        ----------
        closure : None
            Not taken.
        gradient : Tensor of shape (M, P), optional
            Of the weights; by default that of the stack.
        """
        weights, group = self.stack.weights, self.param_groups[0]
        gradient = self.stack.gradient() if gradient is None else gradient
        if not self.state:
            self.state[0] = {
                "step": torch.tensor(0.0, device="cpu"),
                "exp_avg": torch.zeros_like(weights),
                "exp_avg_sq": torch.zeros_like(weights[:, : self._n_adam]),
            }
        state, lr = self.state[0], group["lr"]
        state["step"] += 1
        frozen = [c for c in self.stack.columns if not self.stack.parameters[c.name].requires_grad]
        kept = [weights[:, c.start : c.stop].clone() for c in frozen]
        self._decay(weights, group)
        n, t, (beta1, beta2) = self._n_adam, float(state["step"]), self.betas
        g, average, square = gradient[:, :n], state["exp_avg"][:, :n], state["exp_avg_sq"]
        average.lerp_(g, 1 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        scale = square.sqrt().div_(math.sqrt(1 - beta2**t)).add_(self.eps)
        weights[:, :n].addcdiv_(average, scale, value=-lr / (1 - beta1**t))
        if self._matrices:
            g, momentum = gradient[:, n:], state["exp_avg"][:, n:]
            momentum.lerp_(g, 1 - _MOMENTUM)
            self._step_orthogonally(weights, g.lerp(momentum, _MOMENTUM), lr)
        for c, before in zip(frozen, kept, strict=True):  # also by the momentum that they have
            weights[:, c.start : c.stop] = before

    def _decay(self, weights, group):
        decay = group["weight_decay"]
        if torch.is_tensor(decay) or decay:
            decay = decay.view(-1, 1) if torch.is_tensor(decay) else decay
            weights[:, self.stack.n_others :] *= 1 - group["lr"] * decay

    def _step_orthogonally(self, weights, directions, lr):
        for matrices in self._matrices:
            parts = []
            for c, is_tall in matrices:
                part = directions[:, c.start - self._n_adam : c.stop - self._n_adam]
                part = part.unflatten(1, c.shape)
                parts.append(part.mT if is_tall else part)
            steps = orthogonalise(torch.cat(parts)).split(len(weights))
            for (c, is_tall), step in zip(matrices, steps, strict=True):
                step = step.mT if is_tall else step
                size = lr * _RMS * max(c.shape) ** 0.5
                weights[:, c.start : c.stop].unflatten(1, c.shape).sub_(step, alpha=size)

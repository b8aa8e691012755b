"""How are the models of a stack trained? By one loop, from its top to its bottom."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ._calibration import spread_cost
from ._optimizer import StackOptimizer
from ._rows import Batch, StackedRows, batches, count_batches
from ._stack import ModuleStack
from .nn.linear import along

__all__ = ["Hooks", "Plan", "Result", "evaluate", "one_cycle", "train"]

SHARED_NOISE = "decoder.shared_log_scale"
_SHARED_NOISE_RATE = 0.1  # at the full learning rate
_VALID_ROWS = 8192  # at once
# How far above the third quartile of the first losses a row counts, in quartile distances: one
# row far from all others must not choose the epoch.
_CEILING = 20
# Rows that judge each model, from which on the worst and the best models do not count: of fewer
# a bad loss is news of all.
_TRIMMED_FROM = 4
# Share of a cycle, its end, in which the best epoch must lie for another cycle to follow.
_LATE = 0.1


def one_cycle(progress: float, warm_up: float = 0.05) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine to zero.

    Parameters
    ----------
    progress : float
        Share of all steps that is done, in [0, 1].
    warm_up : float
        Share of all steps that the rise takes.
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


@dataclass(frozen=True)
class Plan:
    """What the loop is told; see :class:`~skgvae.net.GaussianVAENet`."""

    max_epochs: int
    batch_size: int
    schedule: Callable[[float], float] | None = one_cycle
    patience: int | None = None
    gradient_clip: float = 10.0
    averaging: float = 0.05
    n_valid_draws: int = 1
    n_groups: int = 1
    n_cycles: int = 1
    cycle_growth: int = 1

    def cycle_at(self, epoch: int) -> tuple[int, int]:
        """Return the epochs before, and the length of, the cycle of the learning rate.

        The last cycle may be cut short.

        Parameters
        ----------
        epoch : int
            An epoch of it, from one on.
        """
        lengths = [self.cycle_growth**i for i in range(self.n_cycles)]
        before, length = 0, max(1, -(-self.max_epochs // sum(lengths)))
        while epoch > before + length:
            before, length = before + length, length * self.cycle_growth
        return before, length


@dataclass
class Result:
    """What became of a training of M models, of which each group has one best epoch."""

    records: list[dict[str, np.ndarray]] = field(default_factory=list)
    """For each epoch the mean loss and its parts, of shape (M,)."""
    best_epochs: np.ndarray = None
    """Whose weights are kept, of shape (n_groups,); 0 is the start."""
    best_losses: np.ndarray = None
    """Mean validation loss of that epoch, of shape (n_groups,); infinite without such rows."""
    last_epochs: np.ndarray = None
    """In which training ended, of shape (n_groups,)."""
    interrupt: KeyboardInterrupt | None = None
    """What ended it early, if anything."""


class Hooks:
    """What the loop tells of; a subclass listens."""

    sees_batches = False
    """Whether batches are told of."""

    def on_epoch_begin(self) -> None:
        """Before an epoch."""

    def on_batch_begin(self, batch: Batch, n: int, training: bool) -> None:
        """Before a batch, of which the first n rows are the first model's own."""

    def on_grad_computed(self, batch: Batch, n: int) -> None:
        """Before a step."""

    def on_batch_end(self, batch: Batch, n: int, training: bool, loss: Tensor) -> None:
        """After a batch, with the loss of each model."""

    def on_weights(self, weights: Tensor) -> None:
        """After the steps of an epoch, with the weights that are judged and would be kept."""

    def on_epoch_end(self, record: dict[str, np.ndarray]) -> bool:
        """After an epoch; whether to end training."""
        return False


def train(
    stack: ModuleStack,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: StackedRows,
    valid: StackedRows | None,
    plan: Plan,
    seeds: Sequence[int],
    hooks: Hooks | None = None,
) -> Result:
    """Train all models of a stack and leave them with the weights of their best epoch.

    That is the epoch with the lowest validation loss, averaged over the models of a group; the
    start is one too. Without validation rows it is the last. What is judged and kept is an
    average of the weights over the latest steps. A model whose loss or weights are not finite
    goes on from its best weights; where this happens to all models of a group in one epoch, its
    training ends. So it does at the end of a cycle whose last epochs were no better.

    Parameters
    ----------
    stack : ModuleStack
        M models.
    criterion : nn.Module
        :class:`~skgvae.objectives.NegativeBound`, or alike.
    optimizer : torch.optim.Optimizer
        Of the weights of the stack.
    rows, valid : StackedRows
        Training rows, and those that judge; None where there are none.
    plan : Plan
        How long and how fast.
    seeds : sequence of int
        Of the order of rows and of all draws, one for each model.
    hooks : Hooks, optional
        Who listens.
    """
    hooks = Hooks() if hooks is None else hooks
    generators = seeded(seeds, stack)
    stack.pull_()
    average = stack.weights.clone()
    best = _Best(stack, plan)
    result = Result()
    n_batches, n_steps = count_batches(rows, plan.batch_size), 0
    try:
        if valid is not None and plan.max_epochs:
            losses = evaluate(stack, criterion, valid, plan, seeds, by_rows=True)
            best.judge_start(losses, getattr(criterion, "log_spreads", None) or ())
        for epoch in range(1, plan.max_epochs + 1):
            hooks.on_epoch_begin()
            stack.train()
            terms, counts = [], []
            for batch, n_own in batches(rows, plan.batch_size, generators):
                if plan.schedule is not None:
                    before, length = plan.cycle_at(epoch)
                    progress = (n_steps - before * n_batches) / (length * n_batches)
                    _set_rate(optimizer, plan.schedule(progress))
                if hooks.sees_batches:
                    hooks.on_batch_begin(batch, n_own[0], True)
                found = _step(stack, criterion, optimizer, batch, n_own, plan, generators, hooks)
                n_steps += 1
                average.lerp_(stack.weights, 1 / (1 + plan.averaging * n_steps))
                terms.append(torch.stack(found).detach())
                counts.append(n_own)
                if hooks.sees_batches:
                    hooks.on_batch_end(batch, n_own[0], True, found.loss.detach())
            record = _record("train", found._fields, terms, counts)
            lost = best.restart(record["train_loss"], average, optimizer, epoch)
            hooks.on_weights(average)
            judged = {}
            if valid is not None:
                stack.bind_(average)
                judged = evaluate(stack, criterion, valid, plan, seeds, hooks, best.ceiling)
                stack.bind_()
            clipped, at_spreads = judged.pop("clipped", None), judged.pop("at_spreads", None)
            is_best, spreads = best.update(epoch, average, clipped, lost)
            if at_spreads is not None:
                at_spreads = at_spreads + np.repeat(best.costs, best.n_alike, 1)
                judged["loss"] = np.take_along_axis(at_spreads, spreads[None], 0)[0]
            record |= {f"valid_{name}": values for name, values in judged.items()}
            record["valid_loss_best"] = is_best
            result.records.append(record)
            if hooks.on_epoch_end(record) or best.has_ended():
                break
    except KeyboardInterrupt as interrupt:
        result.interrupt = interrupt
    finally:
        best.put_back()
    result.best_epochs, result.best_losses = best.epochs, best.losses
    result.last_epochs = best.last_epochs
    return result


def _step(stack, criterion, optimizer, batch, n_own, plan, generators, hooks):
    for parameter in stack.parameters.values():
        parameter.grad = None
    terms = _loss(stack, criterion, batch, n_own, criterion.n_draws, generators)
    terms = type(terms)(*(term.mean(-1) for term in terms))
    terms.loss.sum().backward()  # no weight is shared: each has its own gradient
    _move_shared_noise(stack, criterion, optimizer)
    if hooks.sees_batches:
        hooks.on_grad_computed(batch, n_own[0])
    gradient = stack.gradient()
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    factor = (plan.gradient_clip / (norm + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
    if isinstance(optimizer, StackOptimizer):
        optimizer.step(gradient=gradient.mul_(factor))
    else:
        for parameter in stack.parameters.values():
            if parameter.grad is not None:
                parameter.grad *= along(factor[:, 0], parameter, n_axes=0)
        optimizer.step()
    return terms


def evaluate(
    stack: ModuleStack,
    criterion: nn.Module,
    rows: StackedRows,
    plan: Plan,
    seeds: Sequence[int],
    hooks: Hooks | None = None,
    ceiling: Tensor | None = None,
    by_rows: bool = False,
) -> dict[str, np.ndarray] | list[Tensor]:
    """Return the mean loss of rows and its parts, of shape (M,), with the same draws always.

    Parameters
    ----------
    stack, criterion, rows, plan, seeds, hooks
        As for :func:`train`.
    ceiling : Tensor of shape (M,), optional
        Two more parts are returned then, of shape (1 + S, M): the losses ``at_spreads``, without
        a factor of the noise and with each of the S of the criterion, if it has any; and
        ``clipped``, in which losses of rows above the ceiling count as it.
    by_rows : bool
        Whether to return the losses of all rows of each model in place of means.
    """
    stack.train(False)
    generators = seeded(seeds, stack)
    listens = hooks is not None and hooks.sees_batches
    terms, counts, losses = [], [], []
    log_spreads = None if ceiling is None else getattr(criterion, "log_spreads", None)
    more = {} if log_spreads is None else {"log_spreads": log_spreads}
    for batch, n_own in batches(rows, _VALID_ROWS):
        if listens:
            hooks.on_batch_begin(batch, n_own[0], False)
        with torch.no_grad():
            found = _loss(stack, criterion, batch, n_own, plan.n_valid_draws, generators, **more)
            at_spreads = [found.loss]
            if log_spreads is not None:
                at_spreads = list(found.loss)
                found = found._replace(loss=found.loss[0])
            means = [term.mean(-1) for term in found]
            if ceiling is not None:
                means += [loss.mean(-1) for loss in at_spreads]
                means += [_mean_up_to(ceiling, loss, n_own) for loss in at_spreads]
        terms.append(torch.stack(means))
        counts.append(n_own)
        if by_rows:
            losses.append(
                [loss[:n] * (n / len(loss)) for loss, n in zip(found.loss, n_own, strict=True)]
            )
        if listens:
            hooks.on_batch_end(batch, n_own[0], False, means[0])
    if by_rows:
        return [torch.cat(parts) for parts in zip(*losses, strict=True)]
    record = _record(None, range(len(means)), terms, counts)
    named = {name: record.pop(i) for i, name in enumerate(found._fields)}
    if ceiling is not None:
        named["at_spreads"], named["clipped"] = np.split(np.stack(list(record.values())), 2)
    return named


def _mean_up_to(ceiling, losses, n_own):
    # Of the n rows of a model in a batch of N each weighs N / n, and the others are zero.
    n = losses.shape[1]
    own = torch.tensor(n_own, device=losses.device).unsqueeze(1)
    losses = torch.minimum(losses, ceiling.unsqueeze(1) * (n / own.clamp(min=1)))
    is_own = torch.arange(n, device=losses.device) < own
    return torch.where(is_own, losses, 0.0).mean(-1)


def seeded(seeds: Sequence[int], stack: ModuleStack) -> list[torch.Generator]:
    """Return a generator for each model, where its weights are."""
    device = stack.weights.device
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def _loss(stack, criterion, batch, n_own, n_draws, generators, **params):
    n_rows, n_features = batch.v1.shape[-2], criterion.noise_features(stack)
    eps = []
    for n, generator in zip(n_own, generators, strict=True):
        shape, like = (n_draws, n, n_features), batch.v1
        own = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        eps.append(own if n == n_rows else nn.functional.pad(own, (0, 0, 0, n_rows - n)))
    weights = (batch.weight,)
    if batch.label is not None:
        weights = batch.weight, batch.label, batch.label_weight
    known = {} if batch.known is None else {"known": batch.known}
    return criterion.by_rows(
        stack, batch.v1, batch.v2, torch.stack(eps), *weights, **known, **params
    )


def _move_shared_noise(stack, criterion, optimizer):
    """Move noise that is no function of z towards its optimum, which is known."""
    name = next((name for name in stack.parameters if name.endswith(SHARED_NOISE)), None)
    if name is None:
        return
    parameter, group = stack.parameters[name], optimizer.param_groups[0]
    rate = min(_SHARED_NOISE_RATE * group["lr"] / group["initial_lr"], 1.0)
    if criterion.vae_weight > 0 and parameter.grad is not None:  # names alone have no noise
        stack.decoder.update_shared_noise_(rate, criterion.vae_weight, parameter.grad)
    parameter.grad = None


def _set_rate(optimizer, factor):
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def _record(prefix, names, terms, counts):
    # Only here are numbers read from the device: once an epoch.
    terms = torch.stack(terms).cpu().double().numpy()  # (batches, terms, M)
    counts = np.array(counts)[:, None]  # (batches, 1, M)
    means = (terms * counts).sum(0) / counts.sum(0)
    names = [f"{prefix}_{name}" for name in names] if prefix else names
    return dict(zip(names, means, strict=True))


class _Best:
    """The best epoch of each group of models, and when its training ends."""

    def __init__(self, stack, plan):
        self.stack, self.patience, self.cycle_at = stack, plan.patience, plan.cycle_at
        self.weights = stack.weights.clone()
        self.buffers = {name: b.clone() for name, b in stack.buffers.items()}
        n = plan.n_groups
        self.epochs, self.last_epochs = np.zeros(n, int), np.zeros(n, int)
        self.losses, self.in_training = np.full(n, math.inf), np.full(n, True)
        self.n_alike = len(stack) // n  # models of a group
        self._of_models = np.full(len(stack), math.nan)  # losses with the weights that are kept
        self.costs = np.zeros((1, n))  # of each spread and group
        self._has_warned = False

    def judge_start(self, losses, log_spreads):
        """Judge the start by the losses of the rows of each model."""
        losses = [torch.nan_to_num(own, nan=math.inf, posinf=math.inf) for own in losses]
        low, high = torch.stack([_quartiles(own) for own in losses], 1)
        high = high.nan_to_num(nan=math.inf, posinf=math.inf)  # between infinite ones it is nan
        spread = torch.where(high.isfinite(), high - low, 0.0).clamp(min=1.0)
        self.ceiling = (high + _CEILING * spread).to(losses[0].dtype)
        clipped = zip(losses, self.ceiling, strict=True)
        counts = np.reshape([len(own) for own in losses], (-1, self.n_alike))
        self._trims = counts.min(1) >= _TRIMMED_FROM
        costs = spread_cost(torch.tensor([0.0, *log_spreads], device="cpu")).numpy()
        self.costs = costs[:, None] / counts.sum(1)
        means = torch.stack([own.clamp(max=ceiling).mean() for own, ceiling in clipped])
        self._of_models = means.cpu().double().numpy()
        self.losses = self._judge(self._of_models)

    def restart(self, losses, average, optimizer, epoch):
        """Put models that have diverged back to their best weights; say which they are."""
        finite = np.isfinite(losses) & average.isfinite().all(1).cpu().numpy()
        lost = ~finite & np.repeat(self.in_training, self.n_alike)
        if not lost.any():
            return lost
        rows = torch.from_numpy(np.flatnonzero(lost)).to(average.device)
        self.stack.weights[rows] = average[rows] = self.weights[rows]
        for name, buffer in self.stack.buffers.items():
            buffer[rows] = self.buffers[name][rows]
        for state in optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value) and value.ndim and len(value) == len(lost):
                    value[rows] = 0
        if not self._has_warned:
            self._has_warned = True
            kept = np.unique(np.repeat(self.epochs, self.n_alike)[lost])
            warnings.warn(
                f"The loss or a weight was not finite in epoch {epoch} for {lost.sum()} of "
                f"{len(lost)} models: they are put back to the weights of epoch "
                f"{', '.join(map(str, kept))}. Use a smaller lr, or a larger min_noise; check the "
                "data for outliers.",
                RuntimeWarning,
                stacklevel=3,
            )
        return lost

    def update(self, epoch, average, losses, lost):
        """Keep the weights of groups for which this is the best epoch.

        Return of each model whether it is, and which of the spreads its group is judged with.
        """
        spreads = np.zeros(len(self._of_models), int)
        self.last_epochs[self.in_training] = epoch
        self.in_training &= ~lost.reshape(-1, self.n_alike).all(1)
        better = self.in_training.copy()
        if losses is not None:
            lost = lost | ~np.isfinite(losses).all(0)
            losses = np.where(lost, self._of_models, losses)
            of_spreads = np.stack([self._judge(own) for own in losses]) + self.costs
            spreads = np.repeat(of_spreads.argmin(0), self.n_alike)
            judged, losses = of_spreads.min(0), np.take_along_axis(losses, spreads[None], 0)[0]
            better &= judged < self.losses
            self.losses[better] = judged[better]
            self._of_models = np.where(np.repeat(better, self.n_alike), losses, self._of_models)
        self.epochs[better] = epoch
        of_models = np.repeat(better, self.n_alike)
        rows = torch.from_numpy(np.flatnonzero(of_models & ~lost)).to(average.device)
        self.weights[rows] = average[rows]
        for name, buffer in self.stack.buffers.items():
            self.buffers[name][rows] = buffer[rows]
        if self.patience is not None:
            # As many as it took to the best: what comes late is waited for the longer.
            self.in_training &= epoch - self.epochs < np.maximum(self.patience, self.epochs)
        before, length = self.cycle_at(epoch)
        if epoch == before + length:
            self.in_training &= epoch - self.epochs < _LATE * length
        return of_models, spreads

    def has_ended(self):
        """Say whether no group is in training any more."""
        return not self.in_training.any()

    def put_back(self):
        """Leave stack and members with what was kept."""
        self.stack.put_(self.weights, self.buffers)
        self.stack.sync_()

    def _judge(self, losses):
        # Without those at either end: one bad fold must not choose the epoch.
        ordered = np.sort(losses.reshape(-1, self.n_alike), 1)
        n_cut = self.n_alike // 5
        trimmed = ordered[:, n_cut : self.n_alike - n_cut].mean(1)
        judged = np.where(self._trims, trimmed, ordered.mean(1))
        return np.where(np.isnan(judged), math.inf, judged)


def _quartiles(values):
    values = values[:: 1 + len(values) // 2**23].double()  # of more torch finds no quantiles
    return values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))

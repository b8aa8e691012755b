"""Trainings of nets that may share a stack, and those that do."""

import time
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter

import joblib
import numpy as np
import torch
from skorch.helper import predefined_split
from torch import nn

from ._padding import fixed_settings, of_one_shape, sizeless
from .batches import StackedRows, TensorBatches
from .callbacks import BestEpoch
from .net import GaussianVAEClassifierNet, GaussianVAENet
from .nn import MixturePrior
from .objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    importance_weighted_bound,
    predictive_bound,
)
from .optimizer import HIDDEN, Muon

# Bytes that a step of one stack may take.
MAX_STEP_BYTES = 2**30
# From so many modules on a step costs in proportion to their number.
ENOUGH_MODULES = 25

# Parameters of these criteria that may differ between the modules of a stack.
_OWN_TO_MODULE = {NegativeBound: ("kl_weight",), JointLoss: ("kl_weight", "penalty")}
# Parameters of the net that training does not use.
_OF_PREDICTION = "classes", "n_draws", "draws_seed"
# With these a row's loss depends on how many rows are in its batch.
_RELATIVE_TO_BATCH = ("criterion__mean_power", "criterion__pseudo_weight")
_KNOWN_BOUNDS = (None, elbo, importance_weighted_bound, predictive_bound)
# Modules that neither draw numbers nor keep a state beside their weights: others may depend on
# who else is in the stack.
_KNOWN_MODULES = ("skgvae.nn.", "torch.nn.modules.linear", "torch.nn.modules.container")
_KNOWN_ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardtanh, nn.LeakyReLU, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6,
    nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip
_MODULE_STATE = set(vars(nn.Module()))

# float32: a weight, its gradient, the optimizer's two moments, the best epoch's, the average, a
# copy while that takes its place, the net's own.
_BYTES_PER_WEIGHT = 8 * 4
# Of a row: in float64, in float32, and in the stack.
_BYTES_PER_NUMBER = 8 + 4 + 4
# What a unit holds for a row: before and after its activation, both with a gradient.
_BYTES_PER_UNIT = 4 * 4


class Training:
    """A net that waits for its training.

    Parameters
    ----------
    net : GaussianVAENet
        Initialised.
    train, valid : sequence of RowDataset
        Training and validation rows of each of its modules; None where there are none.
    alone : callable
        Trains the net without others.
    """

    def __init__(self, net, train, valid, alone):
        self.net, self.train, self.valid, self.alone = net, train, valid, alone
        self.seconds = 0.0
        self.error = None

    @cached_property
    def kind(self) -> str | None:
        """What trainings of one stack have in common; None if it can have no other."""
        net = self.net
        callbacks = [type(callback) for _, callback in net.callbacks_]
        known = type(net) in (GaussianVAENet, GaussianVAEClassifierNet)
        if not known or callbacks != [BestEpoch] or len(net.history):
            return None
        # Other orthogonal steps than those of hidden layers may depend on the sizes.
        is_sizeless = all(pattern == HIDDEN for pattern, _ in self.param_groups)
        structure = _structure(net.stack_.stacked, is_sizeless)
        if structure is None or net.max_epochs == 0:
            return None
        params = net.get_params(deep=False)
        for name in ("module", "seed", "train_split", *_OF_PREDICTION, *self.own_params):
            params.pop(name, None)
        params["optimizer__param_groups"] = [
            (pattern, {**group, "weight_decay": None} if self.decays_by_row else group)
            for pattern, group in self.param_groups
        ]
        n_valid = 0 if self.valid[0] is None else len(self.valid[0])
        try:
            return joblib.hash((structure, params, self.length, n_valid))
        except Exception:  # what cannot be pickled cannot be compared
            return None

    @property
    def decays_by_row(self) -> bool:
        """Whether weight decay may differ between trainings of one kind."""
        net = self.net
        return net.optimizer is Muon and getattr(net, "optimizer__weight_decay", None) == 0

    @property
    def param_groups(self) -> list[tuple[str, dict]]:
        """The groups of the optimizer's parameters; with own decay at least hidden layers'."""
        groups = getattr(self.net, "optimizer__param_groups", [])
        if self.decays_by_row and not groups:
            return [(HIDDEN, {"orthogonal": False, "weight_decay": 0.0})]
        return groups

    @property
    def length(self) -> tuple[str, int]:
        """Number of training rows; where that may differ, the number of batches instead."""
        net, n_rows = self.net, len(self.train[0])
        known = net.iterator_train is TensorBatches and net.criterion in _OWN_TO_MODULE
        known = known and getattr(net, "criterion__bound", None) in _KNOWN_BOUNDS
        if known and not any(getattr(net, name, 0) for name in _RELATIVE_TO_BATCH):
            return "batches", -(-n_rows // net.batch_size)
        return "rows", n_rows

    @property
    def own_params(self) -> list[str]:
        """What parameters of the net may differ between trainings of one kind."""
        net = self.net
        if getattr(net, "criterion__bound", None) not in _KNOWN_BOUNDS:
            return []
        return [f"criterion__{name}" for name in _OWN_TO_MODULE.get(net.criterion, ())]

    @property
    def held_bytes(self) -> int:
        """Memory that it takes from its start to its end."""
        tables = {id(rows._table): rows._table for rows in self.train}
        parts = {id(part): part for table in tables.values() for part in table[:2]}
        n_numbers = sum(part.numel() for part in parts.values())
        n_weights = sum(weight.numel() for weight in self.net.stack_.stacked.parameters())
        return n_numbers * _BYTES_PER_NUMBER + n_weights * _BYTES_PER_WEIGHT

    @property
    def n_latents(self) -> int:
        """Width of the latent space."""
        return self.net.stack_.encoder.out_features

    @property
    def n_components(self) -> int:
        """Number of Gaussians in the prior; 0 of none that is a mixture."""
        prior = self.net.stack_.stacked.prior
        return prior.n_components if type(prior) is MixturePrior else 0

    def step_bytes(self, n_latents: int, n_components: int) -> int:
        """Memory that a step of its training takes at most, or the evaluation after an epoch.

        Parameters
        ----------
        n_latents, n_components : int
            To which it is padded.
        """
        net = self.net
        n_rows = min(net.batch_size, len(self.train[0])) * net.criterion_.n_draws
        if self.valid[0] is not None:
            n_valid = min(net.iterator_valid__batch_size, len(self.valid[0]))
            n_rows = max(n_rows, n_valid * net.n_valid_draws)
        named = net.stack_.stacked.named_parameters()
        matrices = [w for name, w in named if w.ndim == 3 and "prior." not in name]
        n_units = sum(w.shape[0] * w.shape[1] for w in matrices)
        n_units += 3 * len(net.stack_) * (n_latents - self.n_latents)  # the encoder's outputs
        # z in the units of each component, even where it is too large to be kept; its density.
        n_units += len(net.stack_) * n_components * (n_latents + 1)
        n_added = n_components * n_latents**2 - self.n_components * self.n_latents**2
        n_added *= len(net.stack_) * _BYTES_PER_WEIGHT
        return n_rows * n_units * _BYTES_PER_UNIT + n_added


def train_together(trainings: Sequence[Training]) -> None:
    """Train all nets: those of one kind in stacks whose steps fit into ``MAX_STEP_BYTES``."""
    kinds = {}
    for training in trainings:
        kinds.setdefault(training.kind or id(training), []).append(training)
    for group in kinds.values():
        for part in _split(group, MAX_STEP_BYTES):
            start = time.perf_counter()
            _train_alike(part)
            for training in part:
                training.seconds = (time.perf_counter() - start) / len(part)


def _split(trainings, max_bytes):
    part, n_modules, sizes = [], 0, (0, 0)
    for training in sorted(trainings, key=attrgetter("n_latents")):
        n_own = len(training.net.stack_)
        own = training.n_latents, training.n_components
        largest = tuple(map(max, own, sizes))  # to which all are padded
        n_bytes = training.step_bytes(*largest) * (n_modules + n_own) / n_own
        # Of so many the padding costs more than a common stack saves.
        is_enough = n_modules >= ENOUGH_MODULES and training.n_latents > sizes[0]
        if part and (n_bytes > max_bytes or is_enough):
            yield part
            part, n_modules, largest = [], 0, own
        part.append(training)
        n_modules, sizes = n_modules + n_own, largest
    yield part


def _train_alike(trainings):
    if len(trainings) > 1:
        try:
            _train_as_one(trainings)
            return
        except Exception:  # which of them fail alone, and how, is seen alone
            for training in trainings:
                training.net.stack_.tie()
    for training in trainings:
        try:
            training.alone()
            if training.net.interrupt_ is not None:  # it ends the whole search
                raise training.net.interrupt_
        except Exception as error:
            training.error = error


def _train_as_one(trainings):
    first = trainings[0].net
    params = first.get_params(deep=False)
    params["module"] = of_one_shape([m for t in trainings for m in t.net.stack_.members])
    params["seed"] = [seed for training in trainings for seed in training.net.seed]
    for name in trainings[0].own_params:
        if hasattr(first, name):
            params[name] = _for_each_module(trainings, [getattr(t.net, name) for t in trainings])
    params["optimizer__param_groups"] = _joined_groups(trainings)
    valid = [rows for training in trainings for rows in training.valid]
    params["train_split"] = None if valid[0] is None else predefined_split(StackedRows(valid))
    net = type(first)(**params).initialize()
    for own, common in zip(
        first.stack_.stacked.parameters(), net.stack_.stacked.parameters(), strict=True
    ):
        common.requires_grad_(own.requires_grad)
    net.partial_fit(StackedRows([rows for training in trainings for rows in training.train]))
    if net.interrupt_ is not None:  # it ends the whole search
        raise net.interrupt_
    start = 0
    for training in trainings:
        part = slice(start, start + len(training.net.stack_))
        _take_part(training.net, net, part)
        start = part.stop


def _for_each_module(trainings, values):
    """Return the values of the trainings as one, if they are equal, or of shape (M, 1)."""
    if len(set(values)) == 1:
        return values[0]
    device = trainings[0].net.device
    repeats = torch.tensor([len(t.net.stack_) for t in trainings], device=device)
    values = torch.tensor(values, dtype=torch.float32, device=device)
    return values.repeat_interleave(repeats).unsqueeze(1)


def _joined_groups(trainings):
    """Return the groups of parameters, with a weight decay for each module where they differ."""
    groups = [training.param_groups for training in trainings]
    if all(own == groups[0] for own in groups):
        return getattr(trainings[0].net, "optimizer__param_groups", [])
    joined = []
    for alike in zip(*groups, strict=True):
        pattern, group = alike[0]
        decays = [group.get("weight_decay", 0.0) for _, group in alike]
        group = {**group, "weight_decay": _for_each_module(trainings, decays)}
        joined.append((pattern, group))
    return joined


@torch.no_grad()
def _take_part(own, net, part):
    """Leave a net as if it had been trained without the others in a common one."""
    for name, weight in own.stack_.stacked.named_parameters():
        without_padding = map(slice, weight.shape[1:])
        weight.copy_(net.stack_.stacked.get_parameter(name)[(part, *without_padding)])
    own.stack_.tie()
    (_, own_best), (_, best) = own.callbacks_[0], net.callbacks_[0]
    for name in ("best_losses_", "best_epochs_", "last_epochs_", "in_training_"):
        setattr(own_best, name, getattr(best, name)[part])
    for record in net.history[: own_best.last_epochs_.max()]:
        own.history.new_epoch()
        own.history.record("epoch", record["epoch"])
        entries = {name: np.array(values[part]) for name, values in record["modules"].items()}
        for name, values in entries.items():
            own.record_for_members({name: values}, np.any if values.dtype == bool else np.mean)
    if len(net.history):
        own.member_terms_ = {"train": {"loss": entries["train_loss"]}}


def _structure(stacked, is_sizeless):
    """Return what modules must share to be stacked, or None if that cannot be known.

    Their sizes too, or only what cannot be padded.
    """
    structure = []
    for name, module in stacked.named_modules():
        known = type(module).__module__.startswith(_KNOWN_MODULES)
        if not known and type(module) not in _KNOWN_ACTIVATIONS:
            return None
        own = {k: v for k, v in vars(module).items() if k not in _MODULE_STATE}
        structure.append((name, type(module), module.training, fixed_settings(own)))
    for named in (stacked.named_parameters(), stacked.named_buffers()):
        for name, tensor in named:
            shape = tensor.shape[1:]
            shape = sizeless(stacked, name, shape) if is_sizeless else tuple(shape)
            structure.append((name, shape, str(tensor.dtype), tensor.requires_grad))
    return structure

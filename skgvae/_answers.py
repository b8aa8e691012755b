"""Answers for many rows: in chunks, so that memory does not grow with the rows, on all cores."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from sklearn.utils import gen_batches

from ._threads import COPYING, limit_openmp, one_openmp_thread
from .likelihood import MAX_ELEMENTS, at_once, latent_draws, log_factors

# Few, so that with hundreds of columns several draws of each row fit into MAX_ELEMENTS.
ROWS_PER_CHUNK = 256
MIN_CHUNKS = 4  # from which on threads pay


class Copies:
    """Modules in the precision of an answer: those in float64 are made once.

    They are dropped when a weight changes, in whatever way. No state holds them.
    """

    def __init__(self):
        self._copied = {}

    def of(self, modules, to_double):
        """Return copies in float64 of modules, by the function ``to_double``."""
        with COPYING:
            return [self._of(i, module, to_double) for i, module in enumerate(modules)]

    def _of(self, i, module, to_double):
        tensors = itertools.chain(module.parameters(), module.buffers())
        weights = torch.cat([t.detach().flatten().float() for t in tensors])
        own, copied, original = self._copied.get(i, (None, None, None))
        is_same = original is module and own.device == weights.device
        if not (is_same and own.equal(weights)):
            copied = to_double(module)
            self._copied[i] = weights, copied, module
        return copied

    def __reduce__(self):
        return Copies, ()


@lru_cache(maxsize=64)
def cached_draws(n_draws, latent_features, seed):
    """Return :func:`~skgvae.likelihood.latent_draws`, which nobody may change."""
    return latent_draws(n_draws, latent_features, seed)


def by_rows(function, arrays, device, forwards=None, inverses=None, size=1, in_order=False):
    """Call ``function(*tensors)`` on chunks of rows; return ndarrays.

    On the CPU each chunk is computed by one thread, and many of them by as many threads as torch
    may use: so their number changes no bit of the answer.

    Parameters
    ----------
    function : callable
        Takes a tensor for each array, on the device, and returns a tuple of tensors with as many
        rows. It holds ``size`` numbers for each row.
    arrays : sequence of ndarray
        Rows, equally many in all.
    device : str
        Where the function computes.
    forwards, inverses : sequence of callable, optional
        Applied to each chunk and to each answer: what standardises, and what gives units.
    size : int
        As above.
    in_order : bool
        Whether the function must see the chunks one after the other.
    """
    n_rows = len(arrays[0])
    n_at_once = at_once(max(1, min(ROWS_PER_CHUNK, MAX_ELEMENTS // size)), device)
    first, *others = gen_batches(n_rows, n_at_once)
    found = None

    def answer(rows):
        nonlocal found
        chunks = [array[rows] for array in arrays]
        if forwards is not None:
            chunks = [f(chunk) for f, chunk in zip(forwards, chunks, strict=True)]
        with torch.no_grad():
            tensors = [torch.as_tensor(chunk, device=device) for chunk in chunks]
            parts = [out.cpu().numpy() for out in function(*tensors)]
        if inverses is not None:
            parts = [f(part) for f, part in zip(inverses, parts, strict=True)]
        if found is None:  # whole at once: joined at the end there would be two
            found = [np.empty((n_rows, *p.shape[1:]), p.dtype) for p in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[rows] = part

    is_on_cpu, n_threads = torch.device(device).type == "cpu", torch.get_num_threads()
    with one_openmp_thread() if is_on_cpu else nullcontext():
        answer(first)
        if in_order or not is_on_cpu or n_threads == 1 or len(others) < MIN_CHUNKS:
            for rows in others:
                answer(rows)
            return found
    with ThreadPoolExecutor(n_threads, initializer=limit_openmp) as pool:
        for _ in pool.map(answer, others):
            pass
    return found


def sample_components(modules, v1, n_samples, draws, wide_share, noise_root, rng):
    """Draw v2 given v1: of each row and sample one of the fixed draws of z, and the noise.

    The draws are shared out between the modules. Of these components a share is wider than the
    decoder says, and the noise may be correlated.

    Returns
    -------
    Tensor of shape (n_rows, n_samples, n_outputs)
    """
    shape = n_samples, len(v1)
    component = torch.from_numpy(rng.integers(len(draws), size=shape))
    chosen = (component * len(modules) // len(draws)).to(v1.device)
    log_factor = log_factors(len(draws), wide_share)[component][..., None].to(v1)
    eps_z = draws.to(v1)[component.to(v1.device)]
    target = 0.0
    for i, module in enumerate(modules):
        loc, log_scale = module.encoder.loc_and_log_scale(v1)
        z = torch.addcmul(loc, log_scale.exp(), eps_z)
        loc, log_scale = module.decoder.loc_and_log_scale(z)
        eps = normal(rng, loc.shape, loc)
        eps = eps if noise_root is None else eps @ noise_root.mT
        drawn = module.decoder.family.draw(loc, log_factor + log_scale, eps)
        target = target + torch.where((chosen == i)[..., None], drawn, 0.0)
    return target.transpose(0, 1)


def normal(rng, shape, like):
    """Return standard normal draws of numpy's generator as a tensor."""
    return torch.from_numpy(rng.standard_normal(shape)).to(like)

"""Answers for many rows: in chunks, so that memory does not grow with the rows."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from .likelihood import MAX_ELEMENTS, at_once

# Few, so that with hundreds of columns several draws of each row fit into MAX_ELEMENTS.
ROWS_PER_CHUNK = 256


def by_rows(function, arrays, device, forwards=None, inverses=None, size=1):
    """Call ``function(*tensors)`` on chunks of rows; return ndarrays.

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
    """
    n_rows, found = len(arrays[0]), None
    n_at_once = at_once(min(ROWS_PER_CHUNK, -(-MAX_ELEMENTS // size)), device)
    with torch.no_grad():
        for rows in gen_batches(n_rows, n_at_once):
            chunks = [array[rows] for array in arrays]
            if forwards is not None:
                chunks = [f(chunk) for f, chunk in zip(forwards, chunks, strict=True)]
            tensors = [torch.as_tensor(chunk, device=device) for chunk in chunks]
            parts = [out.cpu().numpy() for out in function(*tensors)]
            if inverses is not None:
                parts = [f(part) for f, part in zip(inverses, parts, strict=True)]
            if found is None:  # whole at once: joined at the end there would be two
                found = [np.empty((n_rows, *p.shape[1:]), p.dtype) for p in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[rows] = part
    return found


def sample_components(modules, v1, n_samples, n_draws, tail, rng):
    """Draw v2 given v1: of each row and sample a module, z, and the decoder's noise.

    One of all modules' ``n_draws`` components is ``tail`` times as wide.

    Returns
    -------
    Tensor of shape (n_rows, n_samples, n_outputs)
    """
    shape = n_samples, len(v1)
    component = rng.integers(len(modules) * n_draws, size=shape)
    chosen = torch.from_numpy(component // n_draws).to(v1.device)
    factor = torch.from_numpy(np.where(component == 0, tail, 1.0)[..., None]).to(v1)
    target = 0.0
    for i, module in enumerate(modules):
        loc, log_scale = module.encoder.loc_and_log_scale(v1)
        z = loc + log_scale.exp() * normal(rng, (*shape, loc.shape[-1]), loc)
        loc, log_scale = module.decoder.loc_and_log_scale(z)
        noise = module.decoder.family.from_normal(normal(rng, loc.shape, loc))
        drawn = loc + factor * log_scale.exp() * noise
        target = target + torch.where((chosen == i)[..., None], drawn, 0.0)
    return target.transpose(0, 1)


def normal(rng, shape, like):
    """Return standard normal draws of numpy's generator as a tensor."""
    return torch.from_numpy(rng.standard_normal(shape)).to(like)

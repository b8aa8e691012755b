"""Answers of a fitted estimator for many rows: in chunks, with shared draws, in units."""

import copy
from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_scalar, gen_batches
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted, validate_data

from ._random import draw_seeds
from ._validation import refuse_dates
from .likelihood import MAX_ELEMENTS, at_once, decoded_moments, latent_draws

DTYPES = [np.float64, np.float32]
# Few, so that with hundreds of columns several draws of each row fit into MAX_ELEMENTS.
ROWS_PER_CHUNK = 256
MIN_DRAWS_FOR_TAIL = 100


class InferenceMixin:
    """Memory beyond the answer does not grow with the rows."""

    # For estimators without this parameter.
    tail = 1.0

    _n_decoders = None  # how many modules say what is decoded from a row; None: all

    def _validate_rows(self, X, **kwargs):
        refuse_dates(X)
        return validate_data(self, X, dtype=DTYPES, **{"reset": False, **kwargs})

    def _by_rows(self, function, *arrays, scalers=None, inverses=None, size=1, n_modules=None):
        """Call ``function(modules, *tensors)`` on chunks of rows; return ndarrays.

        The modules are the first ``n_modules``, or all if it is None. The function holds
        ``size`` numbers for each row. Scalers, one for each array, standardise the chunks;
        inverses, one for each answer, give it units. The arithmetic has the dtype of the rows:
        float64 rows are answered in float64, by the same weights.
        """
        dtype, n_rows = arrays[0].dtype, len(arrays[0])
        modules = [self._for_inference(module, dtype) for module in self.modules_[:n_modules]]
        n_at_once = at_once(min(ROWS_PER_CHUNK, -(-MAX_ELEMENTS // size)), self.device_)
        found = None
        with torch.no_grad():
            for rows in gen_batches(n_rows, n_at_once):
                chunks = [array[rows] for array in arrays]
                if scalers is not None:
                    pairs = zip(scalers, chunks, strict=True)
                    chunks = [scaler.forward(chunk, dtype) for scaler, chunk in pairs]
                tensors = [torch.as_tensor(chunk, device=self.device_) for chunk in chunks]
                parts = [out.cpu().numpy() for out in function(modules, *tensors)]
                if inverses is not None:
                    pairs = zip(parts, inverses, strict=True)
                    parts = [self._to_units(part, inverse) for part, inverse in pairs]
                if found is None:  # whole at once: joined at the end there would be two
                    found = [np.empty((n_rows, *p.shape[1:]), p.dtype) for p in parts]
                for whole, part in zip(found, parts, strict=True):
                    whole[rows] = part
        return found

    def _for_inference(self, module, dtype):
        return (copy.deepcopy(module).double() if dtype == np.float64 else module).eval()

    def _draws(self, width=None):
        """Return the draws of z that all rows share, shared out between the modules."""
        n_draws = self._n_draws_per_module() * len(self.modules_)
        return latent_draws(n_draws, width or self.n_components_, self._draws_seed)

    def _get_valid(self, name):
        """Return a parameter that answers depend on: it may have been set since the fit."""
        value = getattr(self, name)
        validate_parameter_constraints(
            self._parameter_constraints, {name: value}, caller_name=type(self).__name__
        )
        return value

    def _n_draws_per_module(self):
        return -(-self._get_valid("n_draws") // len(self.modules_))

    def _tail_factor(self):
        """Return the factor of one component's scale, which is one if there are few components."""
        n_components = self._n_draws_per_module() * len(self.modules_)
        tail = self._get_valid("tail")
        return tail if n_components >= MIN_DRAWS_FOR_TAIL else 1.0

    def _with_tail(self, function):
        """Give a function of :mod:`~skgvae.likelihood` that factor."""
        check_is_fitted(self)
        return partial(function, tail=self._tail_factor())

    def _with_draws(self, function, X, size=1, inverses=None, n_modules=None):
        """Call ``function(modules, v1, draws)`` on chunks of rows; it holds size numbers a row."""
        check_is_fitted(self)
        X = self._validate_rows(X)
        draws = self._draws()
        return self._by_rows(
            lambda modules, v1: function(modules, v1, draws),
            X,
            scalers=[self._scaler],
            inverses=inverses,
            size=size,
            n_modules=n_modules,
        )

    def _to_units(self, values, inverse):
        """Return ``inverse(values)``: in float64, or where v2 is X, in the precision of X."""
        converted = inverse(values)
        if self._target_scaler is self._scaler:
            return converted.astype(values.dtype, copy=False)
        return converted

    def _mean_and_std(self, X):
        """Return mean and standard deviation of p(v2 | v1) in units of v2."""
        moments = self._with_tail(decoded_moments)

        def function(modules, v1, draws):
            mean, noise, latent = moments(modules, v1, draws)
            return mean, torch.sqrt(noise + latent)

        inverses = self._target_scaler.inverse, self._target_scaler.inverse_scale
        return self._with_draws(function, X, inverses=inverses, n_modules=self._n_decoders)

    def _sample_target(self, X, n_samples, random_state):
        """Draw v2 given v1, of shape (n_samples, n_rows, n_outputs)."""
        check_is_fitted(self)
        n_samples = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        (seed,) = draw_seeds(random_state, 1)
        rng = np.random.default_rng(seed)
        X = self._validate_rows(X)
        tail = self._tail_factor()

        def draw(modules, v1):
            shape = n_samples, len(v1)
            n_draws = self._n_draws_per_module()
            component = rng.integers(len(modules) * n_draws, size=shape)
            chosen = torch.from_numpy(component // n_draws).to(v1.device)
            factor = np.where(component == 0, tail, 1.0)[..., None]
            factor = torch.from_numpy(factor).to(v1)
            target = 0.0
            for i, module in enumerate(modules):
                loc, log_scale = module.encoder.loc_and_log_scale(v1)
                z = loc + log_scale.exp() * _normal(rng, (*shape, loc.shape[-1]), loc)
                loc, log_scale = module.decoder.loc_and_log_scale(z)
                noise = module.decoder.family.from_normal(_normal(rng, loc.shape, loc))
                drawn = loc + factor * log_scale.exp() * noise
                target = target + torch.where((chosen == i)[..., None], drawn, 0.0)
            return (target.transpose(0, 1),)  # rows first, to be joined

        size = n_samples * max(self.n_components_, self._module_spec["out_features"])
        inverses = [self._target_scaler.inverse]
        (target,) = self._by_rows(draw, X, scalers=[self._scaler], inverses=inverses, size=size)
        return target.transpose(1, 0, 2)


def _normal(rng, shape, like):
    return torch.from_numpy(rng.standard_normal(shape)).to(like)

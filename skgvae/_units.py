"""From numbers in the user's units to the standardised columns of a module, and back.

A module sees continuous columns first, then those on a grid, then a column for each level of each
category. Columns of positive values, and of values between bounds, are mapped to all numbers, and
skewed amounts on a grid are bent, before they are standardised.
"""

import numpy as np
import torch
from scipy.special import expit

from ._mixture import mixture_quantile
from ._scaling import Standardizer, distinct_values, grid_noise

# Bends of amounts that are tried: where a column becomes logarithmic, in units of its spread. None
# is preferred to one that gains less, in nats a row, if the column were normal.
BENDS = 3.0, 1.0, 0.3, 0.1, 0.03
MIN_GAIN = 0.1
SCALES = 0.1, 0.3, 1.0, 3.0, 10.0, 100.0  # of positive columns, in units of their median
_START_NOISE = 0.5  # of a level's column, standardised, in the models that training starts at
_RAREST = 1e-3  # share of a level
_NODES = 12  # of a Gauss-Hermite rule


class Bend:
    """A monotone map of a column to all numbers.

    Parameters
    ----------
    kind : {"none", "asinh", "softplus", "logit"}
        x itself; asinh(x / b); log(exp(x / b) - 1), which is a logarithm near zero and
        straight beyond; log((x - a) / (b - x)).
    a, b : float
        Its numbers. Of "softplus" a is the least x: what is smaller counts as that.
    """

    def __init__(self, kind="none", a=0.0, b=1.0):
        self.kind, self.a, self.b = kind, a, b

    def forward(self, x):
        """Return mapped values; those outside of the support are moved to its end."""
        if self.kind == "none":
            return x
        if self.kind == "asinh":
            return np.arcsinh(x / self.b)
        if self.kind == "softplus":
            t = np.maximum(x, self.a) / self.b
            return t + np.log(-np.expm1(-t))
        share = np.clip((x - self.a) / (self.b - self.a), 1e-15, 1 - 1e-15)
        return np.log(share) - np.log1p(-share)

    def inverse(self, t):
        """Return values, given mapped ones."""
        if self.kind == "none":
            return t
        if self.kind == "asinh":
            return self.b * np.sinh(np.clip(t, -500, 500))
        if self.kind == "softplus":
            return self.b * np.logaddexp(0, np.maximum(t, -80))
        return self.a + (self.b - self.a) * expit(t)

    def log_slope(self, x):
        """Return the logarithm of the derivative of the map."""
        if self.kind == "none":
            return np.zeros_like(x)
        if self.kind == "asinh":
            return -np.log(self.b) - np.log(np.hypot(1, x / self.b))
        if self.kind == "softplus":
            t = np.maximum(x, self.a) / self.b
            return -np.log(self.b) - np.log(-np.expm1(-t))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log((self.b - self.a) / ((x - self.a) * (self.b - x)))

    @classmethod
    def of(cls, column, values, weight=None):
        """Return the map of a column: the best if its mapped values were normal."""
        values, weight = _where(~np.isnan(values), values.astype(np.float64), weight)
        if column.kind == "bounded":
            return cls("logit", column.low, column.high)
        if column.kind == "positive":
            values, weight = _where(values > 0, values, weight)
            if not len(values):
                return cls("softplus", 0.5, 1.0)
            least, median = values.min() / 2, _median(values, weight)
            maps = [cls("softplus", least, median * scale) for scale in SCALES]
            return max(maps, key=lambda own: own._normal_score(values, weight))
        if not column.step or column.low != 0:
            return cls()
        values, weight = _where(values > 0, values, weight)  # zero may be the amount of most rows
        with np.errstate(over="ignore", invalid="ignore"):
            spread = values.std(dtype=np.float64) if len(values) else 0.0
            if len(values) < 10 or not 0 < spread < 1e100:
                return cls()
            maps = [cls("asinh", 0.0, max(spread * b, column.step)) for b in BENDS]
            scores = [own._normal_score(values, weight) for own in maps]
            best, gain = maps[int(np.argmax(scores))], max(scores)
            gain -= cls()._normal_score(values, weight)
            return best if gain > MIN_GAIN else cls()

    def _normal_score(self, values, weight):
        # log density of a normal distribution, less a constant, in nats a row
        with np.errstate(all="ignore"):
            mapped = self.forward(values)
            mean = np.average(mapped, weights=weight)
            variance = np.average((mapped - mean) ** 2, weights=weight)
            slope = np.average(self.log_slope(values), weights=weight)
            return np.nan_to_num(slope - 0.5 * np.log(variance), nan=-np.inf)


class Units:
    """What a module sees of a table of numbers, and what the table has of a module's answer.

    Parameters
    ----------
    columns : sequence of Column
        Kind of each column of the table.
    bends : sequence of Bend
        Map of each; of a category none.
    standard : Standardizer
        Of the module's columns.
    """

    def __init__(self, columns, bends, standard):
        self.columns, self.bends, self.standard = tuple(columns), tuple(bends), standard
        kinds = [2 if c.levels else 1 if c.step else 0 for c in self.columns]
        self._order = np.argsort(kinds, kind="stable")
        self._sizes = np.array([max(1, len(c.levels)) for c in self.columns], dtype=int)
        ends = np.cumsum(self._sizes[self._order])
        self._starts = np.empty(len(ends), int)
        self._starts[self._order] = ends - self._sizes[self._order]
        self._n_of_kind = [kinds.count(0), kinds.count(1)]

    @classmethod
    def fit(cls, X, columns, weight, may_bend):
        """Learn maps, offsets and scales from rows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Numbers, codes of names; NaN where unknown.
        columns : sequence of Column
            Their kinds.
        weight : ndarray of shape (n_samples,) or None
            Row weights.
        may_bend : bool
            Whether columns may be bent that need not be.
        """
        bends = []
        for column, values in zip(columns, X.T, strict=True):
            needs_map = column.kind in ("positive", "bounded")
            can = not column.levels and (may_bend or needs_map) and not np.isnan(values).all()
            bends.append(Bend.of(column, values, weight) if can else Bend())
        own = cls(columns, bends, None)
        own.standard = Standardizer.fit(own.mapped(X), weight)
        for j, column in enumerate(columns):
            if column.levels:
                place = own.places(j)
                share = own.standard.offset[place].clip(_RAREST, 1 - _RAREST)
                own.standard.offset[place] = share
                own.standard.scale[place] = np.sqrt(share * (1 - share))
                own.standard.is_constant[place] = False
        return own

    # Sizes

    @property
    def is_plain(self):
        """Whether the module sees the columns as they are, but for offset and scale."""
        return not any(c.kind != "continuous" or b.kind != "none" for c, b in self._pairs())

    @property
    def is_straight(self):
        """Whether each column is a straight line of one of the module's, in the same order."""
        return not any(c.levels or b.kind != "none" for c, b in self._pairs()) and bool(
            (self._order == np.arange(len(self._order))).all()
        )

    @property
    def n_cells(self):
        """Number of columns that the module sees."""
        return int(self._sizes.sum())

    @property
    def offset(self):
        """Of the module's columns: ``standardised = (mapped - offset) / scale``."""
        return self.standard.offset

    @property
    def scale(self):
        """Of the module's columns."""
        return self.standard.scale

    def places(self, j):
        """Return where the module has column j of the table, as a slice."""
        return slice(self._starts[j], self._starts[j] + self._sizes[j])

    def of_columns(self, cells):
        """Return numbers of the module's columns for those of the table; NaN for categories."""
        is_category = [bool(column.levels) for column in self.columns]
        return np.where(is_category, np.nan, cells[self._starts])

    def typical(self):
        """Return a row of means, and of a category the most frequent level; unbent columns."""
        own = [self.offset[self.places(j)] for j in range(len(self.columns))]
        pairs = zip(own, self.columns, strict=True)
        return np.array([part.argmax() if c.levels else part[0] for part, c in pairs], dtype=float)

    def cells(self):
        """Return parameters of MixedNoise, None if all columns are continuous."""
        n_continuous, n_grid = self._n_of_kind
        if n_continuous == len(self.columns):
            return None
        grid, sizes, share = None, [], []
        if n_grid:
            own = self._order[n_continuous : n_continuous + n_grid]
            columns, bends = [self.columns[j] for j in own], [self.bends[j] for j in own]
            at = slice(n_continuous, n_continuous + n_grid)
            grid = {
                "step": [c.step for c in columns],
                "low": [c.low for c in columns],
                "high": [c.high for c in columns],
                "offset": self.offset[at].tolist(),
                "scale": self.scale[at].tolist(),
                "bend": [np.inf if b.kind == "none" else b.b for b in bends],
            }
        for j in self._order[n_continuous + n_grid :]:
            sizes.append(len(self.columns[j].levels))
            share += self.offset[self.places(j)].tolist()
        categories = {"sizes": sizes, "share": share} if sizes else None
        return {"n_continuous": n_continuous, "grid": grid, "categories": categories}

    # From the table to the module

    def forward(self, X, dtype=None):
        """Return standardised columns of the module."""
        return self.standard.forward(self.mapped(X), dtype or X.dtype)

    def farthest(self, X):
        """Return the largest magnitude of each standardised column, without limits."""
        return self.standard.farthest(self.mapped(X))

    def limited_to(self, X):
        """Return these units with limits, as :meth:`Standardizer.limited_to`."""
        return Units(self.columns, self.bends, self.standard.limited_to(self.mapped(X)))

    def with_varying(self, X, weight=None):
        """Return units for columns that are no longer constant, and a mask of the module's."""
        standard, new = self.standard.with_varying(self.mapped(X), weight)
        return Units(self.columns, self.bends, standard), new

    def unsupported(self, X):
        """Say which known cells are none that their column can have."""
        held = [column.holds(values) for column, values in zip(self.columns, X.T, strict=True)]
        return ~np.stack(held, 1)

    def log_abs_det(self, X):
        """Return what a log density in the user's units is smaller by, of the known cells.

        A column on a grid counts with its step, a category not at all: log P(cell) - log step is
        the density that is constant around each value. A number, or an array of one for each row.
        """
        if self.is_plain:
            return self.standard.log_abs_det(X)
        return self.log_slopes(X).sum(1)

    def log_slopes(self, X):
        """Return what each cell has of :meth:`log_abs_det`, zero where it is unknown."""
        found = np.zeros(X.shape)
        for j, (column, bend) in enumerate(self._pairs()):
            if column.levels:
                continue
            if column.step:
                own = np.log(column.step)
            else:
                own = np.log(self.scale[self._starts[j]]) - bend.log_slope(X[:, j])
            found[:, j] = np.where(np.isnan(X[:, j]), 0.0, own)
        return found

    def noise_floors(self, X, floor):
        """Return the floor of the noise of each column of the module, in standardised units.

        That of :func:`grid_noise`, but a column on a grid needs none for a spacing that its
        intervals know of.
        """
        if self.is_plain:
            return grid_noise(X, self.scale, floor)
        expanded = self.mapped(X)
        own = grid_noise(expanded, self.scale, floor)
        for j, (column, bend) in enumerate(self._pairs()):
            place = self.places(j)
            if column.levels:
                own[place] = floor
            elif column.step:
                spread = _most_frequent_gap(X[:, j])
                own[place] = (
                    floor if bend.kind != "none" or spread < 1.5 * column.step else own[place]
                )
        return own

    def start_floors(self, floors):
        """Return least noise for the classical models at which training starts.

        They take a level for a number: without noise they would see spikes.
        """
        if self.is_plain:
            return floors
        own = floors.copy()
        for j, column in enumerate(self.columns):
            if column.levels:
                own[self.places(j)] = _START_NOISE
        return own

    # From the module to the table

    def inverse(self, cells):
        """Return possible rows: on the grid, within bounds, codes for the largest level.

        Parameters
        ----------
        cells : ndarray of shape (*, n_cells)
            Standardised.
        """
        mapped = self.standard.inverse(cells)
        if self.is_plain:
            return mapped
        found = np.empty((*cells.shape[:-1], len(self.columns)), mapped.dtype)
        for j in range(len(self.columns)):
            found[..., j] = self._possible(j, self._value(j, mapped))
        return found

    def inverse_mean(self, cells):
        """Return locations in the user's units; of straight columns."""
        return self.standard.inverse(cells)

    def inverse_scale(self, cells):
        """Return standard deviations in the user's units; of straight columns."""
        return self.standard.inverse_scale(cells)

    def inverse_variance(self, cells):
        """Return variances in the user's squared units; of straight columns."""
        return self.standard.inverse_variance(cells)

    def noise_variance(self, noise, loc, log_scale):
        """Return the variance of each cell of the table given z, of shape (n, n_features).

        Parameters
        ----------
        noise : Noise or MixedNoise
            Family of the noise.
        loc, log_scale : Tensor of shape (n, n_cells)
            What z is decoded to.
        """
        if self.is_straight:
            variance = noise.variance * torch.exp(2 * log_scale).expand_as(loc)
            return variance.cpu().double().numpy() * self.scale**2
        return self.summary(noise, loc[None], log_scale[None], of_noise=True)[1] ** 2

    def summary(self, noise, loc, log_scale, statistic="mean", with_std=True, of_noise=False):
        """Return what stands for each cell of the table, and its standard deviation.

        Parameters
        ----------
        noise : Noise or MixedNoise
            Family of the noise.
        loc, log_scale : Tensor of shape (K, n, n_cells)
            Components of equal weight.
        statistic : {"auto", "mean", "median"}
            Of numbers. "auto" is the mean, and on a grid the median. Of a category it is the most
            probable level.
        with_std : bool
            Whether standard deviations are needed: otherwise some are NaN.
        of_noise : bool
            Whether the standard deviation is that of the decoder's noise, before it is rounded
            and whatever the column's bounds are.

        Returns
        -------
        centre, std : ndarray of shape (n, n_features)
            The standard deviation of a category is NaN.
        """
        loc, log_scale = loc.double().cpu(), log_scale.expand_as(loc).double().cpu()
        starts = torch.from_numpy(self._starts)
        own_loc, own_scale = loc[..., starts], log_scale[..., starts].exp()
        variance = noise.variance * own_scale.square().mean(0) + own_loc.var(0, correction=0)
        scale, offset = self.scale[self._starts], self.offset[self._starts]
        centre = own_loc.mean(0).numpy() * scale + offset
        std = variance.sqrt().numpy() * scale
        is_median = np.array([self._takes_median(column, statistic) for column in self.columns])
        if is_median.any():
            centre[:, is_median] = self._quantile(0.5, noise, own_loc, own_scale, is_median)
        for j, (column, bend) in enumerate(self._pairs()):
            if column.levels:
                chance = loc[..., self.places(j)].softmax(-1).mean(0)
                centre[:, j], std[:, j] = chance.argmax(-1).numpy(), np.nan
                continue
            if (bend.kind != "none" or column.step) and (with_std or not is_median[j]):
                values = own_loc[..., j].numpy(), own_scale[..., j].numpy()
                mean, std[:, j] = self._moments(j, noise, *values, of_noise)
                centre[:, j] = centre[:, j] if is_median[j] else mean
        return centre, std

    def quantiles(self, p, noise, loc, log_scale):
        """Return a quantile of each cell of the table, NaN for categories.

        Parameters
        ----------
        p : float
            Probability, in (0, 1).
        noise, loc, log_scale
            As for :meth:`summary`.
        """
        starts = torch.from_numpy(self._starts)
        loc, log_scale = (part.double().cpu()[..., starts] for part in (loc, log_scale))
        is_number = np.array([not column.levels for column in self.columns])
        found = np.full((loc.shape[1], len(self.columns)), np.nan)
        found[:, is_number] = self._quantile(p, noise, loc, log_scale.exp(), is_number)
        return found

    def _quantile(self, p, noise, loc, scale, chosen):
        # Of some columns, in their units.
        parts = (part[..., torch.from_numpy(chosen)] for part in (loc, scale))
        starts = self._starts[chosen]
        found = mixture_quantile(p, *parts, noise).numpy() * self.scale[starts]
        found += self.offset[starts]
        for i, j in enumerate(np.flatnonzero(chosen)):
            found[:, i] = self._possible(j, self.bends[j].inverse(found[:, i]))
        return found

    def by_column(self, cells):
        """Return numbers of the module's columns, last, as sums for each column of the table."""
        if self.is_plain:
            return cells
        return torch.stack(
            [cells[..., self.places(j)].sum(-1) for j in range(len(self.columns))], -1
        )

    @property
    def column_of_cell(self):
        """The column of the table that each of the module's belongs to."""
        found = np.empty(self.n_cells, int)
        for j in range(len(self.columns)):
            found[self.places(j)] = j
        return found

    @staticmethod
    def _takes_median(column, statistic):
        is_asked_for = statistic == "median" or (statistic == "auto" and column.step > 0)
        return is_asked_for and not column.levels

    def _moments(self, j, noise, loc, scale, of_noise):
        # Mean and standard deviation of a column that is bent or on a grid, by quadrature.
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        nodes = noise.from_normal(torch.from_numpy(nodes)).numpy()
        bend, unit, offset = (
            self.bends[j],
            *(a[self._starts[j]] for a in (self.scale, self.offset)),
        )

        def value(t):
            found = bend.inverse(t * unit + offset)
            return found if of_noise else self._possible(j, found)

        origin, first, second = value(loc.mean(0)), 0.0, 0.0
        for node, w in zip(nodes, weights / weights.sum(), strict=True):
            own = value(loc + node * scale) - origin
            first, second = first + w * own.mean(0), second + w * np.square(own).mean(0)
        return origin + first, np.sqrt(np.maximum(second - first**2, 0))

    def _pairs(self):
        return zip(self.columns, self.bends, strict=True)

    def mapped(self, X):
        """Return the module's columns before they are standardised."""
        if self.is_plain:
            return X
        found = np.empty((len(X), self.n_cells))
        for j, (column, bend) in enumerate(self._pairs()):
            values = X[:, j].astype(np.float64)
            if column.levels:
                present = values[:, None] == np.arange(len(column.levels))
                found[:, self.places(j)] = np.where(np.isnan(values)[:, None], np.nan, present)
            else:
                found[:, self._starts[j]] = bend.forward(values)
        return found

    def _value(self, j, mapped):
        if self.columns[j].levels:
            return mapped[..., self.places(j)].argmax(-1)
        return self.bends[j].inverse(mapped[..., self._starts[j]])

    def _possible(self, j, values):
        column = self.columns[j]
        if column.step:
            # Divided by the steps of a unit: 0.1 times 3 is not 0.3.
            place, per_unit = np.round(values / column.step), np.round(1 / column.step)
            is_decimal = per_unit >= 1 and abs(per_unit * column.step - 1) < 1e-9
            values = (place / per_unit if is_decimal else place * column.step) + 0.0  # no -0.0
        return np.clip(values, column.low, column.high)  # of a category there are no bounds


def _median(values, weight):
    order = np.argsort(values)
    total = np.cumsum(np.ones(len(values)) if weight is None else weight[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _where(mask, values, weight):
    return values[mask], None if weight is None else weight[mask]


def _most_frequent_gap(values):
    values = values[~np.isnan(values)]
    return distinct_values(values)[1] if len(values) else 0.0

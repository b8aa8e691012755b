"""What 'auto' means, as tables: computed from the rules when the site is built."""

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor, _recipe

SOURCES = __file__, _recipe.__file__
ROWS = (20, 200, 2000, 20_000, 200_000, 2_000_000)
COLUMNS = (5, 20, 100)
# Columns of what is decoded: X itself, one target, or X where there is no second vector.
N_DECODED = {GaussianVAE: 20, GaussianVAERegressor: 1, GaussianVAEClassifier: 20}
TITLES = {
    GaussianVAE: "X has 20 columns",
    GaussianVAERegressor: "y has one column",
    GaussianVAEClassifier: "X has 20 columns, all rows have a label",
}


def table(kind, rows=ROWS):
    """Return what the defaults of an estimator mean: name, parameter, a value for each n in rows.

    Parameters
    ----------
    kind : class
        One of the three estimators.
    rows : sequence of int
        Numbers of rows.
    """
    of = [_recipe_of(kind, n) for n in rows]
    alone = [_recipe_of(kind, n, n_estimators=1) for n in rows]
    with_holes = [_recipe_of(kind, n, habits=_recipe.INCOMPLETE) for n in rows]
    judged = "rows that a model does not see, and that judge it"
    found = [
        ("models", "n_estimators", *(r.n_members for r in of)),
        *_widths(kind, rows),
        (judged, "validation_fraction", *map(_n_judged, of, rows)),
        (f"{judged}, of a single model", "validation_fraction", *map(_n_judged, alone, rows)),
        ("rows in a step", "batch_size", *(r.batch_size for r in of)),
        ("passes over the rows, at most", "max_epochs", *(r.max_epochs for r in of)),
        ("cycles of the learning rate, at most", "n_cycles *", *(r.n_cycles for r in of)),
        ("passes without a better one, at most", "patience *", *(r.patience for r in of)),
        ("largest learning rate", "lr", *(r.lr for r in of)),
        ("draws of z for a row in a step", "criterion__n_draws *", *(r.n_draws for r in of)),
        ("draws of z for a row that judges", "n_valid_draws *", *(r.n_valid_draws for r in of)),
        ("Muon for hidden layers", "optimizer__orthogonal *", *(r.orthogonal for r in of)),
    ]
    if kind is GaussianVAE:
        name, is_with = "passes over the rows, at most", "if X has unknown cells"
        found += [
            (f"{name}, {is_with}", "max_epochs", *(r.max_epochs for r in with_holes)),
            (f"cycles, {is_with}", "n_cycles *", *(r.n_cycles for r in with_holes)),
            (
                f"growth of cycles, {is_with}",
                "cycle_growth *",
                *(r.cycle_growth for r in with_holes),
            ),
            (f"draws of z, {is_with}", "criterion__n_draws *", *(r.n_draws for r in with_holes)),
        ]
    return found


def tables(rows=ROWS):
    """Return the tables of all estimators in reStructuredText."""
    return "\n".join(_as_text(kind, rows) for kind in N_DECODED)


def _recipe_of(kind, n_rows, n_columns=None, habits=None, **params):
    params = kind().get_params(deep=False) | params
    habits = habits or kind._habits
    return _recipe.recipe_for(n_rows, n_columns or N_DECODED[kind], params, habits)


def _widths(kind, rows):
    of = "y" if kind is GaussianVAERegressor else "X"
    for n_columns in COLUMNS:
        widths = [_recipe_of(kind, n, n_columns).n_components for n in rows]
        yield f"latent components for {n_columns} columns of {of}", "n_components", *widths


def _n_judged(recipe, n_rows):
    return min(n_rows // recipe.n_folds, recipe.max_judged) if recipe.n_folds > 1 else None


def _as_text(kind, rows):
    lines = [
        f".. list-table:: :class:`~skgvae.{kind.__name__}`; {TITLES[kind]}",
        "   :header-rows: 1",
        f"   :widths: 34 22{' 11' * len(rows)}",
        "",
    ]
    cells = [
        ("rows of X", "parameter"),
        *((name, f"``{p}``") for name, p, *_ in table(kind, rows)),
    ]
    values = [rows, *(values for _, _, *values in table(kind, rows))]
    for first, others in zip(cells, values, strict=True):
        lines += [
            f"   {'*' if i == 0 else ' '} - {cell}"
            for i, cell in enumerate([*first, *map(_cell, others)])
        ]
    return "\n".join([*lines, ""])


def _cell(value):
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")

"""
What comes next? An auto-encoder inside a recurrent network
===========================================================

The modules of ``skgvae.nn`` are ordinary torch modules, so they can be parts of a larger graph.
Here a recurrent network reads an image row by row; at every step a variational auto-encoder
says what the next row may look like, and a classifier says which digit it is. All three are
trained together. Afterwards the model completes half-seen digits, and knows where it is unsure.
"""

# %%
# A digit is a series of eight vectors, its rows. The pixels are counts from 0 to 16; noise of
# one unit makes them continuous, without which a density can grow without limit on their grid.
# Fresh noise in every training step costs nothing. Networks like inputs of about unit size,
# hence centre and scale; all results are reported in grey levels.
import matplotlib.pyplot as plt
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skgvae.nn import ClassifierHead, GaussianVAEClassifierModule, GaussianVAEModule
from skgvae.objectives import JointLoss, predictive_bound

digits = load_digits()
images_train, images_test, y_train, y_test = (
    torch.from_numpy(a)
    for a in train_test_split(
        digits.images.astype("float32"), digits.target, stratify=digits.target, random_state=0
    )
)
n_rows, n_pixels = images_train.shape[1:]
centre, scale = 8.5, 5.0
generator = torch.Generator().manual_seed(0)


def dequantise(images):
    """Return the images with noise of one grey level, centred and scaled."""
    noise = torch.rand(images.shape, generator=generator)
    return (images + noise - centre) / scale


# %%
# The model
# ---------
# The state h_t of the recurrent network holds what rows 1..t say. It is the auto-encoder's
# input v1, and the next row is its target v2: z ~ q(z | h_t), next row ~ p(v2 | z). The
# classifier sees h_t and a draw of the next row.
hidden, latent, n_classes = 96, 8, 10
torch.manual_seed(0)
gru = nn.GRU(n_pixels, hidden, batch_first=True)
vae = GaussianVAEModule(hidden, latent, n_pixels, generator=generator)
head = ClassifierHead(hidden, n_pixels, n_classes, hidden_features=(32,), generator=generator)
joint = GaussianVAEClassifierModule(vae, head)

# %%
# Training
# --------
# The loss is the cross-entropy of the class plus ``vae_weight`` times (minus the predictive log
# density of the next row plus ``kl_weight`` times the KL divergence). ``kl_weight`` must be
# small. The next row is not the input: z can tell no more of it than it keeps of h_t, so that
# at weight one information costs at least what it brings, and z all but forgets the history:
# the KL divergence falls from 6 nats to 0.6, and the next row loses more than one nat.
#
# Several draws of z for each row make p(next row) a mixture: there is more than one way to go
# on. After the last row there is no next one; it has weight zero in the auto-encoder's part.
objective = JointLoss(kl_weight=0.1, vae_weight=0.3)
n_steps, batch_size, n_draws = 400, 32, 8
weight = torch.ones(n_rows)
weight[-1] = 0
weight = (weight / weight.mean()).repeat(batch_size)

parameters = [*gru.parameters(), *joint.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=n_steps)
for _ in range(n_steps):
    batch = torch.randint(len(images_train), (batch_size,), generator=generator)
    rows = dequantise(images_train[batch])
    states, _ = gru(rows)
    next_rows = rows.roll(-1, dims=1)  # the last of them has weight zero
    eps = torch.randn(
        n_draws, batch_size * n_rows, objective.noise_features(joint), generator=generator
    )
    terms = objective(
        joint,
        states.flatten(0, 1),
        next_rows.flatten(0, 1),
        eps,
        weight,
        y_train[batch].repeat_interleave(n_rows),
        torch.ones(batch_size * n_rows),
    )
    optimizer.zero_grad()
    terms.loss.backward()  # through the draws, and back through time
    optimizer.step()
    schedule.step()

# %%
# How well is the next row known?
# -------------------------------
# ``predictive_bound`` without its KL term is the log of the mean density over draws of z. Beside
# it stand a Gaussian for each row position, which knows no history, and one Gaussian of all
# pixels, whose conditionals are the best linear prediction from all rows before. Both have full
# covariances.
rows_train, rows_test = dequantise(images_train), dequantise(images_test)
with torch.no_grad():
    states, _ = gru(rows_test)
    eps = torch.randn(64, n_rows - 1, latent, generator=generator)  # the same for all images
    bound = predictive_bound(vae, states[:, :-1], rows_test[:, 1:], eps, kl_weight=0)


def gaussian_score(first, last):
    """Return the mean held-out log density of a Gaussian of the rows first..last-1 together."""
    train, test = (r[:, first:last].flatten(1).numpy() for r in (rows_train, rows_test))
    return EmpiricalCovariance().fit(train).score(test)


no_history = sum(gaussian_score(t, t + 1) for t in range(1, n_rows)) / (n_rows - 1)
linear = (gaussian_score(0, n_rows) - gaussian_score(0, 1)) / (n_rows - 1)
nats = {
    "recurrent network with auto-encoder": bound.value.mean().item(),
    "one Gaussian of all pixels": linear,
    "a Gaussian for each row position": no_history,
}
print("held-out log density of the next row, nats")
for name, value in nats.items():
    print(f"{name:<40}{value - n_pixels * torch.tensor(scale).log().item():>8.2f}")
print(f"{'KL(q(z | h) || p(z))':<40}{bound.kl.mean().item():>8.2f}")

# %%
# Which digit is it, after t rows?
# --------------------------------
# Class probabilities are averaged over draws of the next row. The draw is made from h_t and
# cannot tell the classifier what h_t does not hold: it is there to shape what the auto-encoder
# learns, not to raise the accuracy. Logistic regressions, one for each number of rows, show what
# is to be had from the pixels without any of this: the network is ahead after two to five rows,
# not at the end.
with torch.no_grad():
    probability = joint(states, n_draws=32, generator=generator).logits.softmax(-1).mean(0)
accuracy = (probability.argmax(-1) == y_test[:, None]).float().mean(0).tolist()
logistic = []
for t in range(1, n_rows + 1):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    pipeline.fit(images_train[:, :t].flatten(1).numpy(), y_train.numpy())
    logistic.append(pipeline.score(images_test[:, :t].flatten(1).numpy(), y_test.numpy()))
print(f"\n{'held-out accuracy after':<24}" + "".join(f"{t:>4} rows" for t in (2, 4, 6, 8)))
for name, values in (("recurrent network", accuracy), ("logistic regression", logistic)):
    print(f"{name:<24}" + "".join(f"{values[t - 1]:>9.3f}" for t in (2, 4, 6, 8)))

# %%
# Completing half a digit
# -----------------------
# The network reads the upper four rows. Then the draw of the next row that the classifier sees
# is also the row that the network reads next, and so on to the last. A Gaussian can leave the
# range of the pixels; draws are moved back into it, or one wild row would lead to wilder ones.
#
# If the standard deviation of many completions is to be trusted, nine tenths of the true pixels
# lie in their 90 % intervals, and the error of the mean completion is as large as the standard
# deviation. Both are printed for four quarters of the pixels, from the surest to the least
# sure. They grow together; the errors are a little larger, so the model is a little too sure.
n_given, n_completions = 4, 100


@torch.no_grad()
def complete(given, n_completions):
    """Return completed images in grey levels, (n_completions, n, 8, 8), and their classes."""
    _, state = gru(given)
    rows, state = given.repeat(n_completions, 1, 1), state.repeat(1, n_completions, 1)
    while rows.shape[1] < n_rows:
        next_row = joint(state[0], generator=generator).v2_estimate[:, None]
        next_row = next_row.clamp(-centre / scale, (17 - centre) / scale)
        rows = torch.cat([rows, next_row], 1)
        _, state = gru(next_row, state)
    classes = joint(state[0], generator=generator).logits.argmax(-1)
    shape = n_completions, len(given)
    return (rows * scale + centre).unflatten(0, shape), classes.unflatten(0, shape)


completions, classes = complete(rows_test[:, :n_given], n_completions)
true = (rows_test * scale + centre)[:, n_given:]
lower = completions[:, :, n_given:]
low, high = torch.quantile(lower, torch.tensor([0.05, 0.95]), dim=0)
inside = ((low <= true) & (true <= high)).float().mean().item()
print(f"\nlower {n_rows - n_given} rows from the upper {n_given}, {n_completions} completions")
print(f"{'true pixels inside 90 % intervals':<40}{inside:>8.2f}")
std, error = lower.std(0).flatten(), (lower.mean(0) - true).flatten()
quarters = std.argsort().chunk(4)
for name, values in (("std of the completions", std), ("error of their mean", error)):
    rms = [values[quarter].square().mean().sqrt().item() for quarter in quarters]
    print(f"{f'{name}, RMS, grey levels':<40}" + "".join(f"{v:>8.2f}" for v in rms))

# %%
# Each completion is a digit of its own, and the model reads it as one class or another. Where
# completions differ, their standard deviation is large; a mean would be blurry there. Given z the
# pixels of a row are independent, which makes the draws rougher than the strokes of a pen.
# Rounding down undoes the noise.
n_shown = 6
names = ["digit", "draw 1", "draw 2", "draw 3", "std"]
figure, axes = plt.subplot_mosaic(
    [["accuracy", *(f"{name} {i}" for i in range(n_shown))] for name in names],
    figsize=(11, 6),
    width_ratios=[4, *[1] * n_shown],
    layout="constrained",
)
axis = axes["accuracy"]
seen = range(1, n_rows + 1)
axis.plot(seen, accuracy, "o-", color="#0072b2", label="recurrent network")
axis.plot(seen, logistic, "s--", color="#d55e00", label="logistic regression")
axis.set(xlabel="rows seen", ylabel="held-out accuracy", ylim=(0, 1.02), title="which digit?")
axis.legend(loc="lower right")
for i in range(n_shown):
    grey = [images_test[i], *completions[:3, i].floor()]
    labels = [f"a {y_test[i]}", *(f"read as {c}" for c in classes[:3, i])]
    for name, image, label in zip(names[:4], grey, labels, strict=True):
        axes[f"{name} {i}"].imshow(image, cmap="gray_r", vmin=0, vmax=16)
        axes[f"{name} {i}"].set_title(label, fontsize=8, pad=2)
    spread = completions[:, i].std(0)
    spread[:n_given] = torch.nan  # given, not drawn
    mappable = axes[f"std {i}"].imshow(spread, cmap="magma", vmin=0, vmax=6)
    for name in names:
        axis = axes[f"{name} {i}"]
        axis.axhline(n_given - 0.5, color="#0072b2")
        axis.set(xticks=[], yticks=[])
        if i == 0:
            axis.set_ylabel(name)
small = [axes[f"{name} {i}"] for name in names for i in range(n_shown)]
figure.colorbar(mappable, ax=small, label="grey levels", shrink=0.18, aspect=8, anchor=(0, 0))
figure.suptitle("Given the rows above the line: what comes next, and where is the model unsure?")
plt.show()

"""
skorch underneath: callbacks and schedules
==========================================

A fitted estimator holds a skorch net, and ``net_params`` reaches all of it, in skorch's own
spelling and applied last. Here three learning rate schedules are compared, and a callback of
one's own watches training.
"""

# %%
# Three schedules
# ---------------
# The learning rate rises and falls once over the ``max_epochs`` that are asked for. A skorch
# ``LRScheduler`` among the callbacks takes over; ``schedule=None`` keeps the rate constant.
# A callback sees the net at each epoch: this one notes the learning rate.
import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from skorch.callbacks import Callback, LRScheduler

from skgvae import GaussianVAE


class LearningRates(Callback):
    """Note the learning rate at the end of each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.rates_ = []

    def on_epoch_end(self, net, **kwargs):
        self.rates_.append(net.optimizer_.param_groups[0]["lr"])


X_train, X_test = train_test_split(load_breast_cancer().data, random_state=0)
halved = LRScheduler("StepLR", step_size=10, gamma=0.5)
settings = {
    "one cycle (default)": {"callbacks": [LearningRates()]},
    "halved every 10 epochs": {"callbacks": [LearningRates(), halved]},
    "constant": {"callbacks": [LearningRates()], "schedule": None},
}
models = {
    name: GaussianVAE(max_epochs=40, random_state=0, net_params=net_params)
    for name, net_params in settings.items()
}
print(f"{'schedule':<26}{'best epoch':>10}{'held-out nats a row':>21}")
for name, model in models.items():
    model.fit(X_train)
    print(f"{name:<26}{model.best_epoch_:>10}{model.score(X_test):>21.2f}")

# %%
# Whatever skorch's net takes
# ---------------------------
# Another optimizer, with its own parameters; a tighter clip of the gradient's norm; skorch's
# ``EarlyStopping``. The net is there afterwards as ``net_``, with its
# history, and ``module_`` is a plain torch module.
import torch
from skorch.callbacks import EarlyStopping

model = GaussianVAE(
    max_epochs=60,
    lr=3e-4,
    random_state=0,
    net_params={
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__nesterov": True,
        "gradient_clip": 1.0,
        "callbacks": [EarlyStopping(patience=10)],
    },
).fit(X_train)
print(f"\n{type(model.net_.optimizer_).__name__}, {len(model.net_.history)} epochs, ", end="")
print(f"held-out nats a row {model.score(X_test):.2f}")

# %%
# Learning rate and validation loss
# ---------------------------------
# A falling rate is what lets the weights settle; whichever schedule is used, the weights of the
# best epoch (the start is epoch 0) are those that stay.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for (name, model), colour in zip(models.items(), ("#0072b2", "#d55e00", "#666666"), strict=True):
    rates = dict(model.net_.callbacks_)["LearningRates"].rates_
    losses = [epoch["valid_loss"] for epoch in model.history_]
    left.plot(range(1, len(rates) + 1), rates, color=colour, label=name)
    right.plot(range(1, len(losses) + 1), losses, color=colour)
    best = model.best_epoch_
    if best > 0:
        right.plot(best, losses[best - 1], "o", color=colour)
left.set(xlabel="epoch", ylabel="learning rate", title="schedule")
left.legend()
right.set(
    xlabel="epoch",
    ylabel="validation loss, nats a row",
    title="held-out rows of the fit (dot: best epoch)",
)
plt.show()

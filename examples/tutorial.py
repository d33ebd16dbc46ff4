# %% [markdown]
# # Federated averaging in seven steps
#
# Ten clients have handwritten digits, each its own mix of classes. They train one model together and send only updates of the
# model. The seven steps are data, partition, model, client, server, rounds, and evaluation. Steps 4 and 5 write federated
# averaging ([McMahan et al. 2017](https://arxiv.org/abs/1602.05629)) as an algorithm of your own.
#
# `python examples/tutorial.py` runs all steps in less than a minute on two cores. `tutorial.ipynb` has the same code.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn

from fedlit import Algorithm, Dirichlet, FedAvg, Federation, Iid, Loading, Schedule, ServerState, Shared, Update
from fedlit.core.streams import Purpose, stream
from fedlit.data import digits

# %% [markdown]
# ## 1. Data
#
# scikit-learn's digits are 1,797 images of 8 x 8 pixels in ten classes. Nothing is downloaded. Every fifth image belongs to
# the test set, which no client ever sees.

# %%
data = digits()
print(f"{len(data.train)} training images, {len(data.test)} test images, {len(data.classes)} classes")

# %% [markdown]
# ## 2. Partition
#
# Each class is divided among the clients in shares drawn from Dirichlet(alpha). A small alpha gives each client few classes;
# a large one makes all clients alike. The shares are random, and the seed decides them. Here all training images are divided;
# step 6 first holds out a tenth of them.

# %%
CLIENTS, SEED = 10, 42
partition = Dirichlet(num_clients=CLIENTS, alpha=0.5)
population = partition(data.train, stream(SEED, Purpose.PARTITION))
for client in range(CLIENTS):
    counts = np.bincount(data.train.labels(population.shard(client)), minlength=len(data.classes))
    print(f"client {client}: {counts.sum():4} images, of the classes 0 to 9: {counts}")

# %% [markdown]
# ## 3. Model
#
# The model is an ordinary `LightningModule`. It knows nothing of federated learning: `Trainer.fit` would train it as it is.


# %%
class DigitsCNN(LightningModule):
    def __init__(self, lr: float = 0.03):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 2 * 2, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        )

    def step(self, batch, split):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.log(f"{split}/loss", loss, on_step=False, on_epoch=True)
        self.log(f"{split}/accuracy", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


# %% [markdown]
# ## 4. Client
#
# A client receives the global model, trains it on its own images, and sends the difference. `local.fit` is one short-lived
# `Trainer`. A client's weight is its number of images, so that each image counts the same.


# %%
def train_on_client(local, model):
    result = local.fit(model)
    return Update(result.delta(model), weight=result.examples if result.steps else 0.0)


# %% [markdown]
# ## 5. Server
#
# The server receives the weighted mean of the differences and adds it to the global model. `Shared` is the part of its state
# that clients receive. `fedlit.FedAvg` is the same rule with more settings.


# %%
@dataclass(frozen=True)
class MyFedAvg(Algorithm):
    def init(self, model):
        return ServerState(round=0, shared=Shared(model))

    def client(self, local, shared, client_state):
        return train_on_client(local, shared.model)

    def server(self, state, aggregate):
        return state.with_shared(model=state.model.add(aggregate.groups))

    def model(self, shared):
        return shared.model


# %% [markdown]
# ## 6. Rounds
#
# In each of 20 rounds the server draws three clients, they train for two epochs, and the server averages their updates. A
# tenth of the training images is the server's validation set. It decides which round is the best; the test set decides
# nothing.


# %%
def run(algorithm, partition):
    federation = Federation.of(
        DigitsCNN,
        data,
        partition,
        algorithm,
        Schedule(rounds=20, client_fraction=0.3, local_epochs=2),
        loading=Loading(batch_size=16, val_fraction=0.1),
        seed=SEED,
    )
    print(federation)
    return list(federation.run())


records = run(MyFedAvg(), partition)
for record in records[4::5]:
    print(f"round {record.number:2}, clients {record.cohort}: val/accuracy {record.metrics['val/accuracy']:.3f}")

# %% [markdown]
# The library's FedAvg with the same seed has the same cohorts, batches and random numbers. So it ends with the same model,
# bit for bit.

# %%
library = run(FedAvg(), partition)
print("same bits as fedlit.FedAvg:", library[-1].sha256 == records[-1].sha256)

# %% [markdown]
# ## 7. Evaluation
#
# The test accuracy is that of the best round by validation. What does the uneven partition cost? The same seed with an IID
# partition answers. One seed is an anecdote: `python -m fedlit.train -m partition=dirichlet,iid seed=1,2,3,4,5` trains five
# of each and prints the paired difference with its interval.

# %%
iid = run(MyFedAvg(), Iid(CLIENTS))


def best(records):
    return max(records, key=lambda record: record.metrics["val/accuracy"])


figure, axes = plt.subplots(figsize=(6, 4))
for label, curve in {"Dirichlet(0.5)": records, "IID": iid}.items():
    axes.plot([r.number for r in curve], [r.metrics["test/accuracy"] for r in curve], label=label)
    print(f"{label}: test accuracy {best(curve).metrics['test/accuracy']:.3f} in round {best(curve).number}")
axes.set(xlabel="round", ylabel="test accuracy", title="digits, 10 clients, 3 in a round")
axes.legend()
figure.savefig("tutorial.png", dpi=150)

# %% [markdown]
# ## Next
#
# - The tutorial's federation on CIFAR-10: `python -m fedlit.train experiment=tutorial`
# - Another algorithm: `python -m fedlit.train algorithm=scaffold`
# - An algorithm as a package of its own: `examples/own_algorithm/`

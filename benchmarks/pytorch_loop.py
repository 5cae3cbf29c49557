"""A PyTorch loop over tensors held in memory as a contestant: no DataLoader, which would take longer than the steps.

Of what PyTorch offers this is the fastest here: torch.compile, channels last and Adam's other implementations are
slower with CNNs this small. Losses differ from Keras's in the third digit, since PyTorch's Adam adds ε to the moment
after correcting its bias.
"""

import torch
from torch import nn

from benchmarks.inputs import BATCH, RATE, Inputs, inputs
from benchmarks.worker import Task


def loop(n: int) -> dict[str, Task]:
    """Return the training of one CNN with the weights, images and orders of model 0."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    given = inputs(n, 1)
    model = reference_cnn(given)
    optimizer = torch.optim.Adam(model.parameters(), RATE, eps=1e-8, fused=True)
    images = torch.from_numpy(given.images[0][:, None])
    labels = torch.from_numpy(given.labels[0]).long()
    epoch = -1

    def train(epochs: int) -> list[float]:
        nonlocal epoch
        losses = []
        for epoch in range(epoch + 1, epoch + 1 + epochs):  # noqa: B020  it goes on where it was
            order, total = torch.from_numpy(given.order(epoch)[0]), torch.zeros(())
            for batch in order.split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                loss = nn.functional.cross_entropy(model(images.index_select(0, batch)), labels.index_select(0, batch))
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(batch)
            losses.append(float(total / n))
        return losses

    return {"train": Task(n, train)}


def reference_cnn(given: Inputs) -> nn.Module:
    """Return the reference CNN with the given initial weights, in PyTorch's layouts (channels first)."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(196, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )
    kernels = {
        "0": lambda w: w.permute(3, 2, 0, 1),
        "3": lambda w: w.permute(3, 2, 0, 1),
        "7": lambda w: w.reshape(7, 7, 4, 16).permute(3, 2, 0, 1).reshape(16, 196),
        "9": lambda w: w.T,
    }
    weights = iter(torch.from_numpy(w[0]) for w in given.weights)
    model.load_state_dict(
        {
            f"{at}.{part}": change(next(weights)) if part == "weight" else next(weights)
            for at, change in kernels.items()
            for part in ("weight", "bias")
        }
    )
    return model

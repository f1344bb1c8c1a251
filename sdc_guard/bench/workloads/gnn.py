"""Message passing on random graphs: two layers, Adam.

The first layer takes the mean over neighbours by ``scatter_reduce`` (Hamilton et al. 2017,
GraphSAGE, arXiv:1706.02216), the second a sum weighted by degrees through ``scatter_add`` (Kipf and
Welling 2017, arXiv:1609.02907).  Messages are gathered by ``index_select`` and added in fp32, under
autocast too.  A node's class follows from its own features and the mean of its neighbours'.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import draws, random_numbers_of, to_tensor

NODES, EDGES = 307, 2011
FEATURES, HIDDEN, CLASSES = 11, 61, 5

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Features, float32 [NODES, FEATURES]; sources and targets of edges, int64 [EDGES]; classes, int64
[NODES]."""


class MeanLayer(nn.Module):
    """A node's own features beside the mean of its neighbours' messages."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.own = nn.Linear(width_in, width_out)
        self.message = nn.Linear(width_in, width_out, bias=False)

    def forward(self, x_ND: Tensor, source_E: Tensor, target_E: Tensor) -> Tensor:
        sent_EH = self.message(x_ND).float().index_select(0, source_E)
        index_EH = target_E[:, None].expand_as(sent_EH)
        mean_NH = sent_EH.new_zeros(len(x_ND), sent_EH.shape[1]).scatter_reduce(
            0, index_EH, sent_EH, "mean", include_self=False)
        return self.own(x_ND) + mean_NH  # type: ignore[no-any-return]


class DegreeLayer(nn.Module):
    """A sum over neighbours and the node itself, each term over the root of both degrees."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out)

    def forward(self, x_ND: Tensor, source_E: Tensor, target_E: Tensor) -> Tensor:
        y_NH = self.linear(x_ND).float()
        ones_E = torch.ones_like(target_E, dtype=y_NH.dtype)
        degree_N = ones_E.new_ones(len(y_NH)).scatter_add(0, target_E, ones_E)
        root_N1 = degree_N.rsqrt()[:, None]
        sent_EH = (y_NH * root_N1).index_select(0, source_E)
        index_EH = target_E[:, None].expand_as(sent_EH)
        total_NH: Tensor = (y_NH * root_N1).scatter_add(0, index_EH, sent_EH)
        return total_NH * root_N1


class GraphModel(nn.Module):
    """A graph in, logits [NODES, CLASSES] out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = MeanLayer(FEATURES, HIDDEN), DegreeLayer(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_ND: Tensor, source_E: Tensor, target_E: Tensor) -> Tensor:
        x_NH = F.elu(self.first(x_ND, source_E, target_E))
        x_NH = x_NH + F.elu(self.second(x_NH, source_E, target_E))
        return self.head(x_NH)  # type: ignore[no-any-return]


def build_gnn(*, autocast: torch.dtype | None, seed: int, device: torch.device) -> Workload:
    """Batches are :data:`Batch`."""
    with random_numbers_of(seed, torch.device("cpu")):
        model = GraphModel().to(device)

    def batch(n: int) -> Batch:
        return _graph(seed, n, device)

    return Workload(model, torch.optim.Adam(model.parameters(), lr=5e-3), batch, _loss, autocast)


def _graph(seed: int, n: int, device: torch.device) -> Batch:
    generator = draws(seed, n)
    x_ND = generator.normal(size=(NODES, FEATURES))
    source_E, target_E = generator.integers(NODES, size=(2, EDGES))
    mean_ND = np.zeros((NODES, FEATURES))
    np.add.at(mean_ND, target_E, x_ND[source_E])
    mean_ND /= np.maximum(np.bincount(target_E, minlength=NODES), 1)[:, None]
    # The scale makes neighbours matter as much as the node itself.
    classes_N = np.argmax(x_ND[:, :CLASSES] + 2 * mean_ND[:, -CLASSES:], axis=1)
    return (to_tensor(x_ND, device), to_tensor(source_E, device), to_tensor(target_E, device),
            to_tensor(classes_N, device))


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    x_ND, source_E, target_E, classes_N = batch
    return F.cross_entropy(model(x_ND, source_E, target_E), classes_N)

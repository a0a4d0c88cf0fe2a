# Twin of PINN/pinn/similarity.py - edit there and run: python experiments/twins.py --fix
"""Similarity of what networks compute: centred kernel alignment of their features on the same inputs.

    CKA(X, Y) = <K, L> / (|K| |L|),    K, L centred kernel matrices (N, N) of features X (N, d), Y (N, d')

    linear   K = X X^T
    RBF      K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma a fraction of the median distance, or given

1 for the same features up to rotation, reflection, one common factor and a shift, near 0 for unrelated ones when N is
far above d (Kornblith et al., Similarity of Neural Network Representations Revisited, 2019). All in float64.

    layers, linear, rbf = similarity([{"hidden_1": x, "output": u} for each network], bandwidth=0.4)
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

CONSTANT = 1e-12  # relative variation that is rounding


def linear_kernel(x: Tensor) -> Tensor:
    """X X^T of the centred features (N, d): (N, N) float64; NaN for constant features."""
    x = x.detach().double()
    centred = _unless_constant(x - x.mean(0), x)
    return centred @ centred.T


def rbf_kernel(linear: Tensor, bandwidth: float = 0.4, sigma: float | None = None) -> Tensor:
    """The centred RBF kernel (N, N) of features with this linear kernel.

    Args:
        linear: from `linear_kernel`.
        bandwidth: sigma as a fraction of the median distance of two samples; NaN where that is zero.
        sigma: absolute, in place of it.
    """
    squares = linear.diagonal()
    distances = (squares[:, None] + squares - 2 * linear).clamp_(min=0)  # squared
    if sigma is None:
        i, j = torch.triu_indices(*distances.shape, offset=1, device=distances.device)
        sigma = bandwidth * distances[i, j].median().sqrt()
    kernel = torch.exp(distances / (-2 * sigma ** 2))
    return _unless_constant(kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean(), kernel)


def _unless_constant(centred: Tensor, whole: Tensor) -> Tensor:
    return centred if centred.norm() > CONSTANT * whole.norm() else torch.full_like(centred, math.nan)


def alignment(kernels: Sequence[Tensor]) -> Tensor:
    """CKA of each two of k centred kernels (N, N): (k, k)."""
    rows = [kernel.flatten() for kernel in kernels]  # not copied
    products = torch.stack([torch.stack([x @ y for y in rows]) for x in rows])
    norms = products.diagonal().sqrt()
    return products / norms / norms[:, None]


def similarity(features: Sequence[Mapping[str, Tensor]], bandwidth: float = 0.4,
               sigma: float | None = None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """CKA of each two of k networks, layer by layer; (k + 6) N^2 numbers are held at a time.

    Args:
        features: a network each, layer -> (N, d), the same N inputs for all; d may differ.
        bandwidth: of the RBF kernel, a fraction of each network's own median distance.
        sigma: absolute, in place of it.

    Returns:
        The names of the layers, linear CKA (layers, k, k) and RBF CKA (layers, k, k); NaN for constant features.

    Raises:
        ValueError: for networks with other layers, or features of other numbers of inputs.
    """
    layers = list(features[0])
    if any(list(other) != layers for other in features):
        raise ValueError(f"the networks have different layers: {'; '.join(', '.join(other) for other in features)}")
    if len(counts := {len(x) for network in features for x in network.values()}) > 1:
        raise ValueError(f"features of different numbers of inputs: {', '.join(map(str, sorted(counts)))}")
    linear, rbf = [], []
    for layer in layers:
        kernels = [linear_kernel(network[layer]) for network in features]
        linear.append(alignment(kernels).cpu().numpy())
        for k, kernel in enumerate(kernels):
            kernels[k] = rbf_kernel(kernel, bandwidth, sigma)  # in its place
        rbf.append(alignment(kernels).cpu().numpy())
    return layers, np.stack(linear), np.stack(rbf)

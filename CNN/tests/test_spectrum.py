"""The spectrum of a narrow ResNet on a few images, in float64: against curvlinops and PyHessian."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import curvlinops
import numpy as np
import pyhessian
import pytest
import torch
from torch.func import functional_call
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn.hessian import hessian_product  # noqa: E402
from cnn.model import build  # noqa: E402
from cnn.spectrum import of_one, spectrum  # noqa: E402

DOUBLE = torch.float64


def test_narrow_resnet() -> None:
    """Products are those of curvlinops, with vmap too; highest eigenvalue and trace are PyHessian's."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 16, 16, generator=rng, dtype=DOUBLE)
    labels = torch.arange(4)
    model = build("ResNet18_w8", 10, 0, "fan_out").double().eval()
    names = [name for name, _ in model.named_parameters()]
    params = [p.detach()[None].requires_grad_() for p in model.parameters()]
    size = sum(p.numel() for p in params)
    logits = functional_call(model, {name: p[0] for name, p in zip(names, params, strict=True)}, (images,))
    gradient = torch.autograd.grad(cross_entropy(logits, labels), params, create_graph=True)
    product = of_one(hessian_product(lambda: [gradient], params, torch.arange(1)))

    theirs = curvlinops.HessianLinearOperator(model, CrossEntropyLoss(), list(model.parameters()), [(images, labels)],
                                              check_deterministic=False)
    v = torch.randn(2, size, generator=rng, dtype=DOUBLE)
    expected = (theirs @ v.T).T
    torch.testing.assert_close(product(v), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(product(v[:1]), expected[:1], rtol=1e-8, atol=1e-8)

    found = spectrum(product, size, like=params[0], top=2, probes=1, iterations=15, trace_samples=10)
    assert found.method == "lanczos" and found.products == 15 + 4 + 10
    assert found.highest.residuals[0] < 1e-6 * found.highest.values[0]
    torch.set_default_dtype(DOUBLE)  # of PyHessian's random vectors
    try:
        torch.manual_seed(0)
        other = pyhessian.hessian(model, CrossEntropyLoss(), data=(images, labels), cuda=False)
        (top,), _ = other.eigenvalues(maxIter=100, tol=1e-5)
        samples = np.array(other.trace(maxIter=20, tol=-math.inf))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.highest.values[0].item() == pytest.approx(top, rel=1e-3)
    error = math.hypot(samples.std() / math.sqrt(20), found.trace.error)
    assert found.trace.value == pytest.approx(samples.mean(), abs=4 * error) and found.trace.value > 2 * error

"""The loss against what its formula says, and its derivatives against dense ones, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch
from pino.data import Samples
from pino.hessian import gradients_of, hessian_product
from pino.objective import Parts
from pino.settings import mean_predictor_error
from torch import Tensor
from torch.func import functional_call

ROWS = torch.tensor([0])


def by_hand(objective, params: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """d and p of the training samples, by loops over the nodes of the sheet's formulas."""
    fields, size = small.fields(len(objective.train)), 10
    weights = {name: p[0] for name, p in zip(objective.names, params)}
    a = fields.coefficient(small.STRIDE)
    found = functional_call(objective.model, weights, (torch.from_numpy(a),)).detach().numpy()
    h, d, p = 1 / (size - 1), [], []
    for a_i, u, truth in zip(a, found, fields.u):
        d.append(np.linalg.norm(u - truth) / np.linalg.norm(truth))
        residual = np.full((size, size), np.nan)
        for i in range(2, size - 2):
            for j in range(2, size - 2):
                qx = [a_i[k, j] * (u[k + 1, j] - u[k - 1, j]) / (2 * h) for k in (i - 1, i + 1)]
                qy = [a_i[i, k] * (u[i, k + 1] - u[i, k - 1]) / (2 * h) for k in (j - 1, j + 1)]
                residual[i, j] = -(qx[1] - qx[0]) / (2 * h) - (qy[1] - qy[0]) / (2 * h) - 1
        p.append(np.sqrt(np.nansum(residual**2)) / (size - 4))
    return np.array(d), np.array(p)


def test_loss_is_that_of_the_formula():
    objective, params = small.objective()
    d, p = by_hand(objective, params)
    loss = objective.backward(params, ROWS)
    assert loss.item() == pytest.approx((5 * d + p).mean(), rel=1e-12)
    found = objective.columns(params, ROWS)
    for name, expected in {"train_loss": 5 * d + p, "data_loss": d, "pde_loss": p}.items():
        assert found[name] == pytest.approx([expected.mean()], rel=1e-12), name
    zero = [torch.zeros_like(w) for w in params]
    assert objective.columns(zero, ROWS)["train_loss"] == pytest.approx([6], rel=1e-12), "d = p = 1 for u = 0"
    results = objective.results(params)
    assert results["least_above_floor"] == pytest.approx([(5 * d + p - objective.floors).min()], rel=1e-12)
    absolute = objective.test_errors(params).numpy() * np.linalg.norm(small.fields(4, split="test").u, axis=(1, 2)) / 9
    assert results["test_error_abs"] == pytest.approx([absolute.mean()], rel=1e-12)


def test_gradient_by_finite_differences():
    """Also of a batch; and the norm that the history shows is that of all samples and leaves the batch alone."""
    objective, params = small.objective()
    for batch in (None, torch.tensor([3, 1])):
        objective.batch = batch
        objective.backward(params, ROWS)
        generator = torch.Generator().manual_seed(1)
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
        slope = sum((p.grad * v).sum() for p, v in zip(params, directions)).item()
        losses = []
        for t in (1e-5, -1e-5):
            moved = [(p + t * v).detach().requires_grad_() for p, v in zip(params, directions)]
            losses.append(objective.backward(moved, ROWS).item())
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)
    norm = objective.gradient_norms(params, ROWS)[0]
    assert objective.batch is batch
    objective.batch = None
    objective.backward(params, ROWS)
    assert norm == pytest.approx(math.sqrt(sum(p.grad.square().sum().item() for p in params)), rel=1e-12)


def test_blocks_change_nothing():
    whole, params = small.objective(block=100)
    expected = whole.backward(params, ROWS)
    gradients = [p.grad.clone() for p in params]
    for block in (1, 2, 5):
        parts, same = small.objective(block=block, graph_block=block)
        torch.testing.assert_close(parts.backward(same, ROWS), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close([p.grad for p in same], gradients, rtol=1e-10, atol=1e-13)
        columns = whole.columns(params, ROWS)
        assert {name: value[0] for name, value in parts.columns(same, ROWS).items()} == pytest.approx(
            {name: value[0] for name, value in columns.items()}, rel=1e-12)
        losses = parts.losses(same, ROWS)
        assert isinstance(losses, Parts) == (block < 5)
        if block < 5:
            assert len(list(losses)) == -(-5 // block)
            torch.testing.assert_close(sum(losses).detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("graph_block", [2, 100])
def test_hessian_product_is_that_of_the_dense_hessian(graph_block):
    """Also where the loss comes in parts, and with both real and imaginary parts of the spectral weights."""
    objective, params = small.objective(n=3, graph_block=graph_block)
    sizes = [p.numel() for p in params]

    def loss(vector: Tensor) -> Tensor:
        pieces = [v.view_as(p) for v, p in zip(vector.split(sizes), params)]
        return Parts(objective, pieces, objective.penalty).whole()[0]

    theta = torch.cat([p.detach().flatten() for p in params])
    dense = torch.autograd.functional.hessian(loss, theta)
    losses = objective.losses(params, ROWS)
    parts = [losses] if isinstance(losses, Tensor) else losses

    def gradients():
        return (torch.autograd.grad(part.sum(), params, create_graph=True) for part in parts)

    v = torch.randn(1, len(theta), generator=torch.Generator().manual_seed(2), dtype=small.DOUBLE)
    product = hessian_product(gradients, params, torch.tensor([0]))(v)
    torch.testing.assert_close(product, v @ dense, rtol=1e-8, atol=1e-10 * dense.abs().max().item())
    objective.density = lambda d, p, rows: d.square()  # what a strategy minimises is not what is reported
    reported = hessian_product(gradients_of(objective.training_losses(params, ROWS), params), params, torch.tensor([0]))
    torch.testing.assert_close(reported(v), product, rtol=1e-12, atol=0)
    spectral = slice(sum(sizes[:2]), sum(sizes[:3]))
    curved = (dense[spectral].abs().amax(1) > 0).view(params[2].shape[1:])
    assert curved[1:].all(), "real and imaginary parts; of the mean (0, 0) a real field has no imaginary part"


def test_finer_residual_sees_the_network_on_its_own_grid():
    """Residual `flux` on all nodes of the data vanishes at their solution."""
    fields = small.fields(2)
    samples = Samples(fields, "flux", 1, torch.device("cpu"), small.DOUBLE)
    signs = fields.signs()
    truth = torch.from_numpy(small.solve(torch.from_numpy(np.where(signs, 12.0, 3.0)), tol=1e-11).u.numpy())

    def network(a: Tensor) -> Tensor:
        step = 36 // (a.shape[1] - 1)
        torch.testing.assert_close(a, torch.from_numpy(np.where(signs, 12.0, 3.0)[:, ::step, ::step]))
        return truth[:, ::step, ::step]

    d, p = samples.terms(network, torch.tensor([0, 1]))
    assert d.max() < 1e-12 and p.max() < 1e-9
    coarse = Samples(fields, "corrected", small.STRIDE, torch.device("cpu"), small.DOUBLE)
    assert coarse.terms(lambda a: truth[:, ::4, ::4], torch.tensor([0, 1]))[1].max() < 1e-12


def test_mean_predictor():
    train, test = small.fields(6), small.fields(4, split="test")
    errors = [np.linalg.norm(train.u.mean(0) - u) / np.linalg.norm(u) for u in test.u]
    assert mean_predictor_error(train, test) == pytest.approx(np.mean(errors), rel=1e-12)
    assert mean_predictor_error(small.fields(3, 1.0), small.fields(2, 1.0, "test")) < 1e-10, "r = 1 is one field"

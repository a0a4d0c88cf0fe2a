"""The stacked network: sizes, initial weights, and its derivatives against nested autograd in float64."""

import pytest
import torch
from pinn.model import MLP, Operator, propagate

R, M, N = 3, 17, 11
C = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)


def directions(x, t):
    return torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(R) for v in (x, t)], 1)


X = directions(1.0, 0.0)
OPERATORS = {
    "none": None,
    "first order": Operator(directions(C, 1.0)),
    "pure second": Operator(directions(0.0, 1.0), X, X, -C),
    "mixed second": Operator(directions(0.3, 0.0), directions(C, 1.0), directions(-C, 1.0), C + 1),
}


def nested(params, points, operator):
    """u and L u by autograd of autograd."""
    x = points.expand(R, -1, -1).clone().requires_grad_()
    h, depth = x, len(params) // 2
    for layer in range(depth):
        h = h @ params[layer] + params[depth + layer]
        h = torch.tanh(h) if layer < depth - 1 else h
    u = h[..., 0]
    if operator is None:
        return u, None

    def along(f, direction):
        (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        return (gradient * direction[:, None]).sum(2)

    lu = along(u, operator.first)
    if operator.v is not None:
        lu = lu + operator.scale[:, None] * along(along(u, operator.w), operator.v)
    return u, lu


@pytest.fixture
def stack():
    net = MLP([0, 1, 2], [13, 7, 9], torch.float64)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return list(net.parameters()), torch.rand(1, M, 2, generator=generator, dtype=torch.float64)


def functional(u, lu):
    """A loss that couples u and L u and is not quadratic."""
    value = (u**3).mean(1)
    return value if lu is None else value + (lu**2 * u[:, :lu.shape[1]]).mean(1)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shared", [True, False])
def test_values_gradients_and_curvature_equal_nested_autograd(stack, name, shared):
    params, points = stack
    operator = OPERATORS[name]
    if not shared:
        points = points + 0.1 * torch.arange(R, dtype=torch.float64)[:, None, None]
    u, lu = propagate(params, points, operator, N if operator else None)
    u_exact, lu_exact = nested(params, points, operator)
    lu_exact = None if lu_exact is None else lu_exact[:, :N]
    torch.testing.assert_close(u, u_exact, rtol=1e-12, atol=1e-13)
    if operator is not None:
        assert lu.shape == (R, N)
        torch.testing.assert_close(lu, lu_exact, rtol=1e-12, atol=1e-13)
    exact = torch.autograd.grad(functional(u_exact, lu_exact).sum(), params, create_graph=True)
    for ours, other in zip(torch.autograd.grad(functional(u, lu).sum(), params), exact, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
    u, lu = propagate(params, points, operator, N if operator else None)
    ours = torch.autograd.grad(functional(u, lu).sum(), params, create_graph=True)
    vectors = [torch.randn_like(p) for p in params]
    products = (torch.autograd.grad(gradient, params, vectors) for gradient in (ours, exact))
    for a, b in zip(*products, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OPERATORS)
def test_without_gradients_the_values_are_the_same(stack, name):
    params, points = stack
    recorded = propagate(params, points, OPERATORS[name])
    with torch.no_grad():
        plain = propagate(params, points, OPERATORS[name])
    for a, b in zip(recorded, plain, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_runs_do_not_see_each_other(stack):
    params, points = stack
    operator = OPERATORS["mixed second"]
    u, lu = propagate(params, points, operator)
    for r in range(R):
        alone = propagate([p[r:r + 1] for p in params], points, operator.select(slice(r, r + 1)))
        torch.testing.assert_close(alone[0][0], u[r], rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(alone[1][0], lu[r], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("hidden", "size"), [([50] * 4, 7_851), ([50] * 3, 5_301)])
def test_number_of_weights(hidden, size):
    assert MLP([0], hidden).size == size


def test_initial_weights_depend_on_the_seed_alone():
    several, alone = MLP([3, 7], [50] * 4), MLP([7], [50] * 4)
    double = MLP([7], [50] * 4, torch.float64)
    for a, b, c in zip(several.parameters(), alone.parameters(), double.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
        assert torch.equal(c.float(), b)
    assert not torch.equal(several.weights[1][0], several.weights[1][1])


def test_xavier_normal():
    net = MLP(range(40), [50] * 4, torch.float64)
    for weight in net.weights:
        variance = 2 / (weight.shape[1] + weight.shape[2])
        assert weight.var().item() == pytest.approx(variance, rel=0.15)
        assert abs(weight.mean().item()) < 5 * (variance / weight.numel()) ** 0.5
    assert all(not bias.any() for bias in net.biases)

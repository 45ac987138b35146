"""The online Fisher and its penalty against loops, closed forms and finite differences on small tensors."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cpbench.learning import fisher
from cpbench.learning.flat import Block

Tensors = dict[str, torch.Tensor]
SHAPES = {"b": (2, 3), "a": (4,), "c": (1,)}  # not in the order of their names
SIZE = 6 + 4 + 1


def drawn(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, grad: bool = False) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=g, dtype=torch.float64).requires_grad_(grad) for k, s in shapes.items()}


def entries(tensors: Tensors) -> dict[tuple[str, int], float]:
    return {(k, i): x for k, v in tensors.items() for i, x in enumerate(v.flatten().tolist())}


# One task's Fisher


@given(n=st.integers(1, 6), seed=st.integers(0, 1000))
def test_estimate_is_the_mean_of_each_draws_squared_gradient(n: int, seed: int) -> None:
    """Least squares, whose gradient is known: d/dphi 1/2 (x.phi - y)^2 = (x.phi - y) x."""
    phi, inputs = drawn(seed, grad=True), [drawn(seed + 1 + i) for i in range(n)]

    def draws() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for y, x in enumerate(inputs):
            dot = torch.stack([(x[k] * phi[k]).sum() for k in phi]).sum()
            yield (dot - y).square() / 2, 3 * dot  # two losses of one graph

    squared, linear = fisher.estimate(draws(), phi)
    at = entries({k: v.detach() for k, v in phi.items()})
    sums = dict.fromkeys(at, 0.0), dict.fromkeys(at, 0.0)
    for y, x in enumerate(entries(x) for x in inputs):
        residual = sum(x[j] * at[j] for j in at) - y
        for j in at:
            sums[0][j] += (residual * x[j]) ** 2
            sums[1][j] += (3 * x[j]) ** 2
    for got, total in zip((squared, linear), sums, strict=True):
        assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in phi.items()}
        assert entries(got) == pytest.approx({j: x / n for j, x in total.items()}, rel=1e-9)
        assert not any(v.requires_grad for v in got.values())
    assert all(v.grad is None for v in phi.values())


def test_gradients_that_cancel_in_a_batch_do_not_cancel_here() -> None:
    phi = {"w": torch.tensor([2.0], requires_grad=True)}
    (F,) = fisher.estimate([[s * phi["w"].sum()] for s in (3.0, -3.0, 0.0)], phi)
    assert float(F["w"]) == pytest.approx((9 + 9 + 0) / 3)  # the square of the mean is 0


def test_estimate_agrees_with_finite_differences() -> None:
    """A network that is not linear in its parameters, moved one entry at a time."""
    phi, step = drawn(0, {"w": (3, 2), "b": (3,)}), 1e-6
    inputs = [drawn(7 + i, {"x": (2,)})["x"] for i in range(4)]

    def loss(p: Tensors, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(p["w"] @ x + p["b"]).pow(3).sum()

    leaves = {k: v.clone().requires_grad_(True) for k, v in phi.items()}
    (F,) = fisher.estimate(([loss(leaves, x)] for x in inputs), leaves)
    for name, tensor in phi.items():
        for i in range(tensor.numel()):
            slopes = []
            for x in inputs:
                ends = []
                for sign in (1, -1):
                    moved = {k: v.clone() for k, v in phi.items()}
                    moved[name].view(-1)[i] += sign * step
                    ends.append(float(loss(moved, x)))
                slopes.append((ends[0] - ends[1]) / (2 * step))
            assert float(F[name].view(-1)[i]) == pytest.approx(np.mean(np.square(slopes)), rel=1e-5, abs=1e-10)


def test_a_draws_graph_is_gone_before_the_next_is_built() -> None:
    phi, alive = drawn(0, grad=True), []

    def draw(i: int) -> list[torch.Tensor]:
        assert not any(ref() is not None for ref in alive)
        loss = (i * phi["a"]).square().sum()
        alive.append(weakref.ref(loss))
        return [loss, 2 * loss]

    assert len(fisher.estimate(map(draw, range(3)), phi)) == 2 and len(alive) == 3


def test_a_tensor_that_the_loss_does_not_know_gets_zeros() -> None:
    phi = drawn(0, grad=True)
    loss = (2 * phi["a"]).sum()
    for _ in range(2):  # the graph is kept
        squares = fisher.squared_gradients(loss, phi, retain_graph=True)
    assert torch.equal(squares["a"], torch.full((4,), 4.0, dtype=torch.float64))
    assert torch.equal(squares["b"], torch.zeros(2, 3, dtype=torch.float64)) and squares["c"].tolist() == [0.0]


# Over tasks

SCALES = st.floats(-12, 12).map(lambda x: 10.0**x)


@given(first=SCALES, second=SCALES, seed=st.integers(0, 1000))
def test_two_tasks_with_disjoint_gradients_end_with_the_same_weight(first: float, second: float, seed: int) -> None:
    """Whatever the scale of their losses, as in Fishers of 1e-9 beside 1e+9."""
    one, two = ({k: v.square() for k, v in drawn(seed + i).items()} for i in (0, 1))
    one = {k: v * first if k == "b" else 0 * v for k, v in one.items()}
    two = {k: 0 * v if k == "b" else v * second for k, v in two.items()}
    running = fisher.online(fisher.online(None, one), two)
    weights = [float(running["b"].sum()), float(running["a"].sum() + running["c"].sum())]
    assert weights == pytest.approx([SIZE, SIZE], rel=1e-9)


@given(decay=st.sampled_from([0.0, 0.5, 0.9, 1.0]), tasks=st.integers(1, 4), seed=st.integers(0, 1000))
def test_each_task_is_brought_to_mean_1_then_decays(decay: float, tasks: int, seed: int) -> None:
    """F_bar_n = sum_k decay^(n - k) F_k / mean(F_k), the mean over the entries of all tensors together."""
    new = [{k: v.square() * 5**i for k, v in drawn(seed + i).items()} for i in range(tasks)]
    running: Tensors | None = None
    for F in new:
        kept = None if running is None else {k: v.clone() for k, v in running.items()}
        result = fisher.online(running, F, decay)
        assert running is None or all(torch.equal(running[k], kept[k]) for k in kept)  # not written to
        running = result
    expected = dict.fromkeys(entries(new[0]), 0.0)
    for i, F in enumerate(map(entries, new)):
        mean = sum(F.values()) / SIZE
        for j in expected:
            expected[j] += decay ** (tasks - 1 - i) * F[j] / mean
    assert entries(running) == pytest.approx(expected, rel=1e-9)


def test_decay_is_1_unless_told() -> None:
    F = {"w": torch.tensor([1.0, 3.0])}
    assert fisher.online(fisher.online({}, F), F)["w"].tolist() == [1.0, 3.0]


def test_a_fisher_of_zeros_adds_nothing() -> None:
    F = {"w": torch.tensor([1.0, 3.0])}
    assert fisher.online(F, {"w": torch.zeros(2)})["w"].tolist() == [1.0, 3.0]


# The penalty


def test_the_penalty_by_hand() -> None:
    F = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[10.0]])}
    at, anchor = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[1.0]])}, {"a": torch.tensor([0.0, 5.0])}
    anchor["b"] = torch.tensor([[-1.0]])
    assert float(fisher.penalty(F, at, anchor)) == (1 * 9 + 2 * 1 + 10 * 4) / 2


@given(seed=st.integers(0, 1000))
def test_the_penalty_and_its_gradient_are_the_closed_form(seed: int) -> None:
    """1/2 sum_j F_j (phi_j - phi*_j)^2 has the gradient F_j (phi_j - phi*_j)."""
    phi, anchor, F = drawn(seed, grad=True), drawn(seed + 1), {k: v.square() for k, v in drawn(seed + 2).items()}
    at, start, weight = (entries({k: v.detach() for k, v in x.items()}) for x in (phi, anchor, F))
    loss = fisher.penalty(F, phi, anchor)
    assert float(loss.detach()) == pytest.approx(sum(weight[j] * (at[j] - start[j]) ** 2 for j in at) / 2, rel=1e-9)
    loss.backward()
    slopes = entries({k: v.grad for k, v in phi.items()})
    assert slopes == pytest.approx({j: weight[j] * (at[j] - start[j]) for j in at}, rel=1e-9)


def test_the_penalty_is_nothing_at_the_anchor_or_without_weight() -> None:
    phi, zero = drawn(0), {k: torch.zeros(s) for k, s in SHAPES.items()}
    assert float(fisher.penalty(drawn(1), phi, phi)) == 0
    assert float(fisher.penalty(zero, phi, drawn(1))) == 0


# How alike


def test_cosines_by_hand_whatever_the_order_of_the_tensors() -> None:
    a = {"p": torch.tensor([3.0]), "q": torch.tensor([4.0, 0.0])}
    b = {"q": torch.tensor([0.0, 12.0]), "p": torch.tensor([5.0])}
    assert fisher.cosine(a, b) == pytest.approx(3 * 5 / (5 * 13))
    assert fisher.cosine(a, {k: 7 * v for k, v in reversed(a.items())}) == pytest.approx(1)
    assert fisher.cosine(a, {"p": torch.zeros(1), "q": torch.tensor([0.0, 2.0])}) == 0


@pytest.mark.parametrize("scale", [1e-10, 1e-16])
def test_a_multiple_of_a_small_fisher_has_the_cosine_1(scale: float) -> None:
    """Squared gradients are small: 1e-5 is an ordinary gradient of a mean over a large latent."""
    a = {k: v.square().float() for k, v in drawn(0).items()}
    assert fisher.cosine(a, {k: v * scale for k, v in a.items()}) == pytest.approx(1, abs=1e-4)


class Counted(TorchDispatchMode):
    """Operations that compute or move values, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layers", [4, 60])
def test_the_penalty_takes_as_many_operations_for_any_number_of_layers(layers: int) -> None:
    """Its value and gradient by loops; tensors in another order than the parameters', as a state read from disk has them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"layer {k}": (3, 2 + k % 3) for k in range(layers)}
    phi = {k: torch.nn.Parameter(torch.randn(shape, generator=generator)) for k, shape in shapes.items()}
    F, anchor = ({k: torch.rand(shapes[k], generator=generator) for k in sorted(shapes)} for _ in range(2))
    expected = {k: F[k] * (p.detach() - anchor[k]) for k, p in phi.items()}
    value = sum(float((0.5 * F[k] * (p.detach() - anchor[k]) ** 2).sum()) for k, p in phi.items())
    block = Block(list(phi.values()), torch.float32)
    block.begin_step()
    with Counted() as counted:
        loss = fisher.penalty(F, phi, anchor)
        gradients = torch.autograd.grad(loss, list(phi.values()))
    assert len(counted.names) <= 15, counted.names
    assert float(loss) == pytest.approx(value, rel=1e-5)
    for name, gradient in zip(phi, gradients, strict=True):
        torch.testing.assert_close(gradient, expected[name])
    block.end()
    torch.testing.assert_close(fisher.penalty(F, phi, anchor), loss)

"""Properties of all operators: their noise, and operators that are not linear."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError
from torch import Tensor

from constraints import Burgers, Constraint, Distance, Given, InputError
from inverse import (
    DPS,
    Blur,
    Downsample,
    Fourier,
    Inverse,
    Liftable,
    LinearOperator,
    Mask,
    Operator,
    Pullback,
    Quantise,
    RandomProjection,
    Residual,
    Select,
)
from mdm import DDIM
from namm.training.checkpoint import build_part
from tests.inverse.draws import close, draw
from tests.problems import Affine, tiny_denoiser


def test_measurement_is_keyed_by_its_seed() -> None:
    operator = Select(-1, 4, 8, std=0.3)
    x = torch.zeros(64, 1, 8, 8)
    m = operator.measure(x, range(64))

    assert torch.equal(operator.measure(x[:3], [5, 0, 63]), m[[5, 0, 63]])
    # 2048 numbers: the std is known to 1.6 %
    assert float(m.std()) == pytest.approx(0.3, rel=0.08)
    exact = Select(-1, 4, 8, std=0.0)
    assert torch.equal(exact.measure(x + 1, range(64)), exact(x + 1))


def test_std_follows_the_operator_to_its_device_and_file() -> None:
    operator = Select(-1, 3, 8, 0.25)

    assert float(operator.state_dict()["std"]) == 0.25
    assert operator.double().std.dtype == torch.float64


def test_pullback_is_the_operator_after_the_inverse_map() -> None:
    operator, mirror = Select(-1, 3, 8, 0.25), Affine(2.0, 1.0, 0.5)
    y = torch.randn(2, 1, 8, 8)
    pulled = Pullback(operator, mirror)

    assert torch.equal(pulled(y), operator(0.5 * y))
    assert torch.equal(pulled.predict(y)[1], 0.5 * y)
    assert torch.equal(operator.predict(y)[1], y)
    assert pulled.std == operator.std
    twice = Pullback(pulled, mirror)
    assert torch.equal(twice(y), operator(0.25 * y))
    assert torch.equal(twice.predict(y)[1], 0.25 * y)


class Twice(LinearOperator):
    """An operator that knows no decomposition."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class TwiceAndBack(Twice):
    def adjoint(self, m: Tensor) -> Tensor:
        return 2 * m

    def pinv(self, m: Tensor) -> Tensor:
        return m / 2


def test_operator_without_decomposition() -> None:
    x = draw(2, 1, 3)
    operator = TwiceAndBack(0.1)

    assert operator.svd() is None and torch.equal(operator.visible(x), x)
    for name in ("adjoint", "pinv"):
        with pytest.raises(NotImplementedError, match=rf"Twice.*{name}"):
            getattr(Twice(0.1), name)(x)


# noise
def spread(operator: Operator, *shape: int) -> Tensor:
    """The std of the noise at each position, over 4000 measurements."""

    return operator.measure(torch.zeros(4000, *shape), range(4000)).std(dim=0)


def test_noise_has_the_std_of_its_channel() -> None:
    std = torch.tensor([0.1, 2.0])[:, None]
    # 4000 numbers: each std is known to 1.1 %, and few of the positions are 4 times that away
    for operator, shape in (
        (Downsample(2, std=std[..., None]), (2, 4, 4)),
        (Fourier([3, 4], 0.5, 1, std=std), (2, 3, 4)),
        (RandomProjection(3, [3, 4], std=std), (2, 3, 4)),
        (Quantise(0.5, std=std[..., None]), (2, 2, 2)),
    ):
        found = spread(operator, *shape)
        ratio = found.flatten(1) / torch.tensor([[0.1], [2.0]])
        assert ratio.sub(1).abs().max() < 0.05


def test_noise_has_the_std_of_its_point() -> None:
    std = 0.1 + torch.arange(6.0).reshape(1, 2, 3)
    operator = Select(-1, 3, 4, std=std)
    assert (spread(operator, 2, 2, 4) / std).sub(1).abs().max() < 0.05
    pulled = Pullback(operator, Affine(2.0, 1.0, 0.5))
    assert torch.equal(pulled.std, operator.std)
    assert (spread(pulled, 2, 2, 4) / std).sub(1).abs().max() < 0.05


def test_noise_follows_the_precision_of_the_field() -> None:
    operator = Downsample(2, std=torch.tensor([0.1, 2.0])[:, None, None]).double()

    assert operator.std.dtype == torch.float64
    assert operator.measure(torch.zeros(1, 2, 4, 4), [0]).dtype == torch.float32


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf, torch.tensor([0.1, -2.0])])
def test_noise_of_no_meaning_is_refused(std: Any) -> None:
    with pytest.raises(ValueError, match=r"Downsample.*std"):
        Downsample(2, std=std)


def test_noise_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 1, 2, 2\).*\(2, 1, 1\)"):
        Downsample(2, std=torch.ones(2, 1, 1)).measure(torch.zeros(3, 1, 4, 4), range(3))
    with pytest.raises(InputError, match=r"\(2, 2, 3\).*\(1, 2, 1, 1\)"):
        Downsample(2, [-1], std=torch.ones(1, 2, 1, 1)).measure(torch.zeros(2, 2, 6), range(2))
    with pytest.raises(InputError, match=r"\(2, 2, 3\).*\(4,\)"):
        Select(-1, 3, 4, std=torch.ones(4)).measure(torch.zeros(2, 2, 4), range(2))


# operators that are not linear
def test_quantise_rounds_once() -> None:
    operator, x = Quantise(0.3), draw(4, 1, 8, 8, dtype=torch.float32)
    m = operator(x)

    assert isinstance(operator, Liftable) and not isinstance(operator, LinearOperator)
    assert torch.equal(operator(m), m) and torch.equal(operator(operator.pinv(m)), m)
    close(m / 0.3, (m / 0.3).round(), 1e-5)
    assert float((m - x).abs().max()) <= 0.15 + 1e-6


def test_residual_to_solve_for_is_zero_whatever_the_field() -> None:
    x = draw(3, 1, 8, 6)
    m = Residual(Burgers(), std=0.1).measure(x, range(3))

    assert m.shape == (3, 40) and not m.any() and Burgers()(x).min() > 0.1


def test_answers_are_judged_by_the_constraint_that_is_solved_for() -> None:
    def stage(constraint: Constraint) -> Inverse:
        return Inverse(tiny_denoiser(), constraint, Residual(Burgers()), DPS(), samples=3)

    assert stage(Burgers()).task == "inverse"
    with pytest.raises(ValueError, match="Residual"):
        stage(Burgers(dt=0.5))


def test_residual_is_that_of_the_constraint() -> None:
    burgers, x = Burgers(), draw(3, 1, 8, 6)
    operator = Residual(burgers)
    m = operator(x)

    assert m.ndim == 2 and torch.equal(m, burgers.residual(x).flatten(1))
    assert torch.equal(m.abs().mean(1), burgers(x)) and float(operator.std) == 1


def test_residual_of_a_distance_is_the_distance() -> None:
    class Small(Distance):
        def distance(self, x: Tensor, given: Given | None = None) -> Tensor:
            return x.abs().flatten(1).mean(1)

    x = draw(3, 1, 8, 6)
    assert torch.equal(Residual(Small())(x), Small()(x)[:, None])


def test_solver_may_solve_for_the_constraint_alone() -> None:
    burgers = Burgers()

    def distance(zeta: float) -> float:
        solver, operator = DPS(zeta, transition=DDIM(30)), Residual(burgers)
        m = torch.zeros_like(operator(torch.zeros(4, 1, 8, 8)))
        return float(burgers(solver(tiny_denoiser(), operator, m, (1, 8, 8), range(4)).y).mean())

    assert distance(0.3) < 0.5 * distance(0.0)


# refusals
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Downsample(0), r"factor.*\b0\b"),
        (lambda: Downsample(2, [2, 3]), r"Downsample.*\[2, 3\]"),
        (lambda: Downsample(2, [-1, -1]), r"Downsample.*\[-1, -1\]"),
        (lambda: Downsample(2, []), r"Downsample.*\[\]"),
        (lambda: Blur(0.0, [4, 4]), r"sigma.*\b0"),
        (lambda: Blur(1.0, [4]), r"Blur.*\[4\]"),
        (lambda: Blur(1.0, [4, 0]), r"Blur.*\[4, 0\]"),
        (lambda: Blur(1.0, [4, 4], cutoff=1.0), r"cutoff.*\b1"),
        (lambda: Blur(1.0, [4, 4], "mirror"), "'mirror'"),
        (lambda: RandomProjection(0, [4]), r"RandomProjection.*\b0\b"),
        (lambda: RandomProjection(2, []), r"RandomProjection.*\[\]"),
        (lambda: Fourier([4, 4], 1.5), r"fraction.*1\.5"),
        (lambda: Fourier([4, 4], low=-1), r"low.*-1"),
        (lambda: Fourier([4, 4, 4]), r"Fourier.*\[4, 4, 4\]"),
        (lambda: Select(0, 1, 3), r"Select.*\b0\b"),
        (lambda: Select(-1, 0, 3), r"Select.*\b0\b"),
        (lambda: Quantise(0.0), r"step.*\b0"),
        (lambda: Mask([4, 4], [0, 0, 4]), r"Mask.*\[0, 0, 4\]"),
        (lambda: Mask([4, 6], [0, 4, 2, 3]), r"Mask.*\[0, 4, 2, 3\]"),
        (lambda: Mask([4, 6], [-1, 0, 2, 3]), r"Mask.*\[-1, 0, 2, 3\]"),
        (lambda: Mask([4, 6], [-4, 0, 2, 3]), r"Mask.*\[-4, 0, 2, 3\]"),
        (lambda: Mask([4, 6], [0, 0, 0, 3]), r"Mask.*\[0, 0, 0, 3\]"),
        (lambda: Mask([4, 6], [0, 0, 4, 6], hidden=True), r"\[0, 0, 4, 6\]"),
    ],
)
def test_arguments_of_no_meaning_are_refused(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize(
    ("operator", "shape", "words"),
    [
        (Downsample(4), (1, 8, 6), r"Downsample.*\(2, 1, 8, 6\)"),
        (Downsample(2, [-3]), (2, 4), r"Downsample.*\(2, 2, 4\)"),
        (Blur(1.0, [4, 6]), (1, 6, 4), r"\[4, 6\].*\(2, 1, 6, 4\)"),
        (RandomProjection(2, [1, 4]), (4,), r"\[1, 4\].*\(2, 4\)"),
        (
            Select(5, 2, 8),
            (1, 8, 8),
            r"axis 5.*\(2, 1, 8, 8\)",
        ),
        (Select(-4, 2, 2), (1, 8, 8), r"axis -4.*\(2, 1, 8, 8\)"),
        (Mask([4, 6], [0, 0, 2, 2]), (1, 6, 4), r"\[4, 6\].*\(2, 1, 6, 4\)"),
        (Fourier([4, 6]), (2, 4, 5), r"\[4, 6\].*\(2, 2, 4, 5\)"),
    ],
)
def test_fields_of_another_size_are_refused(
    operator: Operator, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        operator(torch.zeros(2, *shape))


# YAML
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Select", {"dim": -1, "index": 2, "size": 4, "std": 0.1}),
        ("Mask", {"size": [4, 4], "box": [0, 0, 2, 4], "hidden": True, "std": 0.1}),
        ("Downsample", {"factor": 2, "dims": [-2], "std": 0.1}),
        ("Downsample", {"factor": 2}),
        ("Blur", {"sigma": 1, "size": [4, 4], "boundary": "reflect", "cutoff": 0.01}),
        ("RandomProjection", {"rows": 3, "shape": [4, 4], "seed": 1, "std": 0.2}),
        ("Fourier", {"size": [4, 4], "fraction": 0.5, "low": 1, "seed": 2, "std": 0.1}),
        ("Quantise", {"step": 0.1, "std": 0}),
        ("Residual", {"constraint": {"class_path": "constraints.Burgers"}, "std": 0.1}),
    ],
)
def test_operator_is_built_from_its_recipe(name: str, arguments: dict[str, Any]) -> None:
    operator = build_part({"class_path": f"inverse.{name}", "init_args": arguments})
    x = draw(2, 2, 4, 4) if name != "Residual" else draw(2, 1, 4, 4)

    assert type(operator).__name__ == name
    assert operator.measure(x, range(2)).dtype == torch.float64
    if "std" in arguments:
        assert float(operator.std) == pytest.approx(arguments["std"])


@pytest.mark.parametrize(
    "arguments",
    [{"boundary": "mirror"}, {"std": "loud"}, {"size": 4}, {"radius": 2}],
)
def test_typo_in_a_recipe_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        arguments = {"sigma": 1.0, "size": [4, 4], **arguments}
        build_part({"class_path": "inverse.Blur", "init_args": arguments})

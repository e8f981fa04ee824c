"""Numbers of constructors have a range, which the constructors hold and the help prints."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import constraints
import datamodules
import inverse
import mdm
import namm
from constraints import InputError, PositiveInt, Range, Ranged, Share
from namm.cli.main import main
from namm.training.optimiser import Optimiser

PACKAGES = (constraints, datamodules, inverse, mdm, namm)
MODULES = ("namm.evaluation.plots", "namm.nets", "namm.training.counting", "namm.training.io")
NAN = math.nan


def classes() -> Iterator[type]:
    for package in PACKAGES:
        for name in package.__all__:
            if inspect.isclass(value := getattr(package, name)):
                yield value
    for module in MODULES:
        yield from filter(inspect.isclass, vars(importlib.import_module(module)).values())


def ours(cls: type) -> bool:
    """Whether a configuration can name a class: exceptions and tuples are built by code alone."""
    return cls.__module__.split(".")[0] in {package.__name__ for package in PACKAGES} and not (
        issubclass(cls, BaseException | tuple | dict | str)
    )


def bare(hint: Any) -> bool:
    """Whether a type has a number without a range."""
    if get_origin(hint) in (Annotated, Literal):
        return False
    return hint in (int, float) or any(map(bare, get_args(hint)))


def test_every_number_of_a_constructor_has_a_range() -> None:
    seen, found = 0, []
    for cls in {*filter(ours, classes())}:
        if inspect.isfunction(method := vars(cls).get("__init__")):
            hints = get_type_hints(method, include_extras=True)
            found += [f"{cls.__name__}.{name}" for name, hint in hints.items() if bare(hint)]
            seen += any(get_origin(hint) is Annotated for hint in hints.values())
    # records, and torch's own convolutions with another padding, are made by code alone
    built = {"AxisConv2d", "AxisConvTranspose2d", "KeyedBatches", "RankSampler", "Trained"}
    assert [name for name in found if name.split(".")[0] not in built] == []
    assert seen > 50


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, inf)", [0, 1e300], [-1e-300, math.inf, NAN]),
        ("(0, 1]", [1e-300, 1], [0, 1.0000001, -1]),
        ("(-inf, inf)", [-1e300, 1e300], [math.inf, -math.inf, NAN]),
        ("[-inf, inf]", [-math.inf, math.inf], [NAN]),
    ],
)
def test_interval_holds_its_ends(interval: str, inside: list[Any], outside: list[Any]) -> None:
    assert all(map(Range(interval).holds, inside))
    assert not any(map(Range(interval).holds, outside))


class Base(Ranged, nn.Module):
    def __init__(self, share: Share, sizes: Sequence[PositiveInt] = ()) -> None:
        super().__init__()
        self.share = share


class Derived(Base):
    def __init__(
        self,
        pair: tuple[Share, PositiveInt] | None = None,
        names: Mapping[str, Share] | None = None,
        mode: Literal["slow", "fast"] = "slow",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Base(2), r"Base expects share in \[0, 1\], got 2"),
        (lambda: Base("much"), "got 'much'"),  # type: ignore[arg-type]
        (lambda: Base(0.5, [4, 0]), r"sizes in \[1, inf\), got \[4, 0\]"),
        (lambda: Base(0.5, [1.5]), "sizes as a whole number, got .1.5."),  # type: ignore[list-item]
        (lambda: Base(np.float64(NAN)), r"got .*nan"),
        (lambda: Base(torch.tensor(-1.0)), "share"),  # type: ignore[arg-type]
        (lambda: Derived(share=-1), r"Derived expects share in \[0, 1\], got -1"),
        (lambda: Derived((0.5, 0), share=1), "pair"),
        (lambda: Derived(names={"a": 1, "b": 2}, share=1), "names"),
        (lambda: Derived(mode="quick", share=1), "mode as 'slow' or 'fast', got 'quick'"),  # type: ignore[arg-type]
    ],
)
def test_constructor_refuses_a_value_out_of_range(make: Callable[[], Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        make()


def test_constructor_takes_values_in_range() -> None:
    assert Derived((np.float32(0.5), np.int64(2)), {}, "fast", share=torch.tensor(1.0)).share == 1
    assert Derived(None, share=True).share is True
    with pytest.raises(TypeError, match="unexpected keyword"):  # the constructor's own word
        Base(0.5, other=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "make",
    [
        lambda: namm.PatchNet(channels=1, padding=["circular"] * 2, patch=0),  # type: ignore
        lambda: namm.PatchNet(channels=1, padding=["circular"] * 2, detail=0),  # type: ignore
        lambda: namm.ResNet(channels=1, padding=["circular"] * 2, width=0),  # type: ignore
        lambda: namm.ICNN(channels=1, padding=["circular"] * 2, layers=-1),  # type: ignore
        lambda: namm.EMA(NAN),
        lambda: namm.EMA(1.5),
        lambda: Optimiser(lr=-1, beta1=0.9),
        lambda: Optimiser(lr=1e-3, beta1=2),
        lambda: Optimiser(lr=1e-3, beta1=0.9, warmup=-3),
        lambda: namm.NAMM(None, None, sigma_max=-1),  # type: ignore[arg-type]
        lambda: namm.NAMM(None, None, constraint_weight=-1),  # type: ignore[arg-type]
        lambda: mdm.MDM(None, None, None, t_min=2),  # type: ignore[arg-type]
        lambda: mdm.MDM(None, None, None, log_normal=(0, -1)),  # type: ignore[arg-type]
        lambda: inverse.DPS(zeta=NAN),
        lambda: inverse.DPS(power=3),  # type: ignore[arg-type]
        lambda: datamodules.BurgersData(constraints.Burgers(), file="", points=-4),
        lambda: datamodules.SpiralData(constraints.Spiral(), file="", seed=-1),
        lambda: constraints.Box([0, NAN], [1, 1]),
    ],
)
def test_values_that_trained_or_answered_in_silence(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r" expects \w+ (in|as) .*, got "):
        make()


def test_help_prints_the_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "namm.NAMM"])
    assert "Annotated[float, [0, inf)]" in " ".join(capsys.readouterr().out.split())

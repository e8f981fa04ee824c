"""The network that counts, the constraint that it makes, and its file."""

import math
import re
from pathlib import Path

import pytest
import torch

from constraints import Count, Counter, InputError, load_counter, noise, save_counter
from datamodules import CountingData
from namm import NAMM
from namm.description import describe_constraint
from namm.training.counting import calibration
from tests.constraints.counters import ROOT, SHIPPED, tiny_counter
from tests.problems import tiny_mirror


# the network
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (33, 62), (64, 64)])
def test_counter_takes_grids_of_any_size(size: tuple[int, int]) -> None:
    counter, x = tiny_counter(), torch.rand(2, 1, *size)
    density = counter.density(x)

    assert density.shape == (2, 1, *(math.ceil(s / 4) for s in size))
    assert (density > 0).all()
    torch.testing.assert_close(counter(x), density.sum(dim=(1, 2, 3)))


def test_count_is_extensive() -> None:
    counter = tiny_counter(scale=0.5).double()
    for name, weight in counter.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()  # an empty sky then looks like what lies beyond the border
    x = torch.zeros(2, 1, 64, 64, dtype=torch.float64)
    x[..., 16:48, 16:48] = noise([(0, 0), (0, 1)], (1, 32, 32))
    first, second = x[:1], x[1:]
    both = counter(first) + counter(second)

    for dim in (2, 3):
        together = torch.cat([first, second], dim=dim)
        torch.testing.assert_close(counter(together), both, rtol=1e-13, atol=0)
    empty = counter(torch.zeros_like(first))
    assert (counter(first) - empty).abs() > 1e-3


def test_density_moves_with_the_image() -> None:
    counter = tiny_counter(scale=0.5).double()
    x = noise([(0,)], (1, 96, 96)).double()
    density, moved = counter.density(x), counter.density(x.roll((8, -4), (2, 3)))

    # 16 pixels are four cells; two more on the side from which the image has come
    torch.testing.assert_close(
        moved[..., 6:-4, 4:-5], density.roll((2, -1), (2, 3))[..., 6:-4, 4:-5]
    )


def test_images_are_counted_one_by_one() -> None:
    counter = tiny_counter(scale=0.5)
    x = torch.rand(5, 1, 32, 32, requires_grad=True)
    c = counter(x)
    (gradient,) = torch.autograd.grad(c[1], x)
    broken = x.detach().clone()
    broken[1] = float("nan")

    assert gradient[1].any() and not gradient[[0, 2, 3, 4]].any()
    assert torch.equal(c[[0, 2]], counter(broken)[[0, 2]])
    torch.testing.assert_close(torch.cat([counter(image[None]) for image in x]), c)


@pytest.mark.parametrize(
    ("options", "wanted"), [((0, 1), r"Counter.*\b0\b"), ((4, -1), r"Counter.*-1")]
)
def test_sizes_that_make_no_counter_are_refused(options: tuple[int, int], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        Counter(*options)


# the constraint
def test_residual_is_the_count_less_the_number() -> None:
    counter, x = tiny_counter(), torch.rand(3, 1, 16, 16)
    constraint = Count(5, counter)

    assert constraint.residual(x).shape == (3, 1)
    assert torch.equal(constraint.residual(x)[:, 0], counter(x) - 5)
    assert torch.equal(constraint(x), (counter(x) - 5).abs())
    assert constraint(x.double()).dtype == torch.float64
    assert constraint.unknowns((1, 16, 16)) is None


def test_count_does_not_depend_on_the_precision_around_it() -> None:
    constraint = Count(5, tiny_counter(scale=0.5))
    x = torch.rand(3, 1, 32, 32, requires_grad=True)
    outside = constraint.residual(x)
    (wanted,) = torch.autograd.grad(outside.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = constraint.residual(x)
    (gradient,) = torch.autograd.grad(inside.sum(), x)

    assert torch.equal(inside, outside) and torch.equal(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_residual_of_a_coarse_field_is_rounded_once(dtype: torch.dtype) -> None:
    constraint = Count(5, tiny_counter(scale=0.5))
    x = torch.rand(16, 1, 32, 32).to(dtype)
    exact = constraint.residual(x.double())
    # about as many objects as there are, where the count itself has steps of 1/32 in bfloat16
    constraint.n = float(exact.mean()) + 5  # type: ignore[assignment]
    exact = exact - exact.mean()
    residual = constraint.residual(x)

    assert residual.dtype == dtype
    # half a step of the dtype, and the rounding of float32 in the network
    half = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-4
    assert ((residual.double() - exact).abs() <= half).all()


def test_gradient_of_the_count() -> None:
    counter = tiny_counter(scale=0.5).double()
    x = torch.rand(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(Count(2, counter).residual, (x,))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_count_is_finite_on_noise(scale: float) -> None:
    x = (scale * noise([(0, i) for i in range(4)], (1, 64, 64))).requires_grad_()
    distance = Count(8, load_counter(str(SHIPPED)))(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)

    assert torch.isfinite(distance).all() and torch.isfinite(gradient).all()
    assert gradient.flatten(1).any(dim=1).all()


def test_gradient_is_finite_where_the_count_is_right() -> None:
    constraint = Count(1, tiny_counter())
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    constraint.n = constraint.counter(x).item()  # type: ignore[assignment]
    (gradient,) = torch.autograd.grad(constraint(x).sum(), x)

    assert constraint(x) == 0 and torch.isfinite(gradient).all()


def test_network_stays_as_it_is() -> None:
    constraint = Count(2, tiny_counter())
    stage = NAMM(tiny_mirror(), constraint)
    stage.train()
    x = torch.rand(2, 1, 16, 16, requires_grad=True)
    batch = {"x": x, "index": torch.arange(2)}
    stage.losses(batch, "train", 0)["constraint"].backward()

    assert not any(module.training for module in constraint.modules())
    assert all(weight.grad is None for weight in constraint.parameters())
    assert any(w.grad is not None and w.grad.any() for w in stage.mirror.parameters())
    assert x.grad is not None and x.grad.any()


def test_networks_are_told_apart_by_their_weights() -> None:
    first, same, other = (Count(2, tiny_counter(seed)) for seed in (0, 0, 1))

    assert describe_constraint(first) == describe_constraint(same)
    assert describe_constraint(first) != describe_constraint(other)
    assert describe_constraint(first)["n"] == 2
    assert describe_constraint(Count(3, tiny_counter()))["sha256"] == first.sha256


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 8, 8), (1, 1, 8)])
def test_fields_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=re.escape(str(tuple(shape)))):
        Count(8, tiny_counter()).check_shape(torch.zeros(shape))


def test_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-1\b"):
        Count(-1, tiny_counter())


# its file
def test_network_is_saved_and_loaded(tmp_path: Path) -> None:
    counter, x = tiny_counter(), torch.rand(2, 1, 16, 16)
    files = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for file in files:
        save_counter(counter, file)
    loaded = load_counter(files[0])

    assert (loaded.width, loaded.blocks, loaded.training) == (4, 1, False)
    assert torch.equal(loaded(x), counter(x))
    assert Path(files[0]).read_bytes() == Path(files[1]).read_bytes()


def test_file_that_holds_no_network_is_refused(tmp_path: Path) -> None:
    missing, text = tmp_path / "missing.safetensors", tmp_path / "text.safetensors"
    text.write_text("counter")
    checkpoint, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}}, checkpoint)
    torch.save(tiny_counter(), other)
    (tmp_path / "cut.ckpt").write_bytes(other.read_bytes()[:1000])
    smaller = tiny_counter()
    smaller.width = 8
    save_counter(smaller, str(tmp_path / "smaller.safetensors"))

    with pytest.raises(InputError, match=r"missing.*counter\.safetensors"):
        load_counter(str(missing))
    names = ("smaller.safetensors", "cut.ckpt")
    for file in (text, checkpoint, other, *(tmp_path / name for name in names)):
        with pytest.raises(InputError, match=rf"{file.name}.*save_counter"):
            load_counter(str(file))


def test_network_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_counter()
    assert Count().sha256 == Count(8, load_counter(str(SHIPPED))).sha256

    # a file in the working directory comes first
    file = Path("pretrained/count/counter.safetensors")
    file.parent.mkdir(parents=True)
    save_counter(tiny_counter(), str(file))
    assert (load_counter().width, shipped.width) == (4, 24)

    message = rf"{tmp_path}/a.safetensors.*{ROOT}/a.safetensors"
    with pytest.raises(InputError, match=message):
        load_counter("a.safetensors")
    with pytest.raises(InputError, match=rf"{tmp_path}/b.ckpt"):
        load_counter(str(tmp_path / "b.ckpt"))


def test_shipped_network_counts_fresh_images() -> None:
    counter = load_counter(str(SHIPPED))
    skies = CountingData(sizes=(1, 64), seed=987).skies["test"]
    items = [skies[i] for i in range(64)]
    with torch.no_grad():
        c = counter(torch.stack([item["x"] for item in items]))
    result = calibration(c, torch.tensor([item["n"] for item in items]))

    assert SHIPPED.stat().st_size <= 2**20
    # 97 % in the card: 64 images have two standard errors of 4 %
    assert result["accuracy"] >= 0.92 and result["mean_absolute_error"] <= 0.2

"""The example in the plane: a spiral, polynomials, a network for points, and the command line."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from constraints import InputError, Polynomial, Spiral, noise
from datamodules import SpiralData, check_fits, read_attributes
from mdm import (
    MLP,
    CosineSchedule,
    DiffusersDenoiser,
    DPMSolver,
    FlowSchedule,
    Schedule,
    VPSchedule,
    load_denoiser,
)
from namm.cli.main import main
from namm.evaluation.plots import field_grid, residual_image
from problems import randomise

ROOT = Path(__file__).resolve().parents[1]
# the four kinds of the published example, each with a function of a point
TERMS = {
    "line": ([[2, 1, 0], [1, 0, 1], [1, 0, 0]], False, lambda x, y: 2 * x + y + 1),
    "cubic": ([[1, 0, 1], [-1, 3, 0], [1, 1, 0]], False, lambda x, y: y - x**3 + x),
    "curve": ([[1, 2, 0], [1, 0, 3], [-3, 0, 0]], False, lambda x, y: x**2 + y**3 - 3),
    "disc": (
        [[1, 2, 0], [-1, 1, 0], [1, 0, 2], [-1, 0, 0]],
        True,
        lambda x, y: max((x - 0.5) ** 2 + y**2 - 1.25, 0),
    ),
}


def points(*coordinates: tuple[float, float]) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)[:, :, None, None]


def data(folder: Path, **options: float) -> SpiralData:
    sizes = {"train": 64, "val": 8, "test": 8}
    file = str(folder / "spiral.h5")
    return SpiralData(Spiral(), file=file, sizes=sizes, **options)  # type: ignore[arg-type]


# the spiral


@pytest.mark.parametrize(("turns", "scale"), [(2.0, 2.0), (0.7, 1.0), (4.0, 3.0)])
def test_distance_is_that_to_the_nearest_point(turns: float, scale: float) -> None:
    spiral = Spiral(turns, scale)
    x = 1.5 * scale * noise([(0, i) for i in range(300)], (2, 1, 1)).double()
    s = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    wanted = torch.cdist(x.flatten(1), spiral.curve(s)).amin(dim=1)
    found = spiral(x)
    spacing = scale * math.hypot(1, 2 * math.pi * turns) / 40_000

    # the nearest sample is within half a spacing of the nearest point, at a right angle
    assert (found <= wanted + 1e-12).all()
    assert (wanted <= (found**2 + (spacing / 2) ** 2).sqrt() * (1 + 1e-6)).all()
    assert spiral.residual(x).shape == (300, 1, 1, 1)
    torch.testing.assert_close(spiral(x.float()).double(), spiral(x), rtol=0, atol=4e-6)


def test_distance_vanishes_on_the_curve() -> None:
    spiral = Spiral()
    x = spiral.curve(torch.linspace(0, 1, 777, dtype=torch.float64))[:, :, None, None]
    x.requires_grad_()
    distance = spiral(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)

    assert distance.max() <= 1e-13
    assert torch.isfinite(gradient).all()


def test_gradient_is_a_unit_step_away_from_the_curve() -> None:
    spiral = Spiral()
    x = 3 * noise([(1, i) for i in range(200)], (2, 1, 1)).double()
    x.requires_grad_()
    distance = spiral(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)

    torch.testing.assert_close(length, torch.ones_like(length), rtol=0, atol=1e-12)
    with torch.no_grad():
        nearest = x - distance[:, None, None, None] * gradient
        assert spiral(nearest).max() <= 1e-12
    assert torch.autograd.gradcheck(spiral, x[:20].detach().requires_grad_(), atol=1e-6)


def test_positions_are_judged_one_by_one() -> None:
    spiral, x = Spiral(), noise([(0, i) for i in range(4)], (2, 3, 5)).double()

    residual = spiral.residual(x)
    assert residual.shape == (4, 1, 3, 5)
    alone = spiral(x[1:2, :, 2:, 4:])
    torch.testing.assert_close(alone[0], residual[1, 0, 2, 4], rtol=0, atol=1e-14)


# data


def test_data_lie_on_the_curve_up_to_their_noise(tmp_path: Path) -> None:
    x = data(tmp_path, std=0.02).simulate(2000, seed=0)
    distance = Spiral()(x)

    assert x.shape == (2000, 2, 1, 1) and x.dtype == torch.float32
    # the mean of a half-normal number, of which 2000 are known to 1.7 %
    assert float(distance.mean()) == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.06)
    assert distance.max() < 6 * 0.02
    clean = data(tmp_path, std=0.0).simulate(500, seed=0)
    assert Spiral()(clean.double()).max() <= 2e-7  # rounding to float32


def test_data_are_spread_along_the_curve(tmp_path: Path) -> None:
    radius = torch.linalg.vector_norm(data(tmp_path).simulate(2000, seed=0).flatten(1), dim=1)

    # the length grows as the square of the radius
    share = (radius / 2.5) ** 2
    counts = torch.histc(share, bins=8, min=0, max=1)
    assert ((counts - 250).abs() <= 5 * math.sqrt(250)).all()


def test_every_constraint_crosses_the_data_several_times() -> None:
    x = Spiral().curve(torch.linspace(0, 1, 5000, dtype=torch.float64))[:, :, None, None]
    for name, (terms, _, _) in TERMS.items():
        value = Polynomial(terms).residual(x).flatten()
        crossings = int((value[1:] * value[:-1] < 0).sum())
        assert crossings >= 3, name


def test_file_says_what_it_holds_and_is_drawn_once(tmp_path: Path) -> None:
    module = data(tmp_path)
    module.prepare_data()
    module.setup("fit")
    attributes = read_attributes(module.file)

    assert module.shape == (2, 1, 1)
    assert attributes["problem"] == "spiral" and attributes["std"] == 0.01
    assert 0.005 < attributes["data_floor"] < 0.07
    check_fits(module.file, Polynomial(TERMS["line"][0]))  # which any points may be asked
    with pytest.raises(InputError, match="turns"):
        check_fits(module.file, Spiral(turns=4.0))
    with pytest.raises(InputError, match="has 0.01 as its std"):
        data(tmp_path, std=0.02).prepare_data()


# polynomials


@pytest.mark.parametrize("name", TERMS)
def test_residual_is_the_polynomial(name: str) -> None:
    terms, inequality, function = TERMS[name]
    x = 2 * noise([(0, i) for i in range(50)], (2, 1, 1)).double()
    wanted = torch.tensor([function(*p) for p in x.flatten(1).tolist()], dtype=x.dtype)
    polynomial = Polynomial(terms, inequality)

    torch.testing.assert_close(polynomial.residual(x).flatten(), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(polynomial(x), wanted.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_gradient_is_finite_everywhere(name: str) -> None:
    terms, inequality, _ = TERMS[name]
    x = points((0, 0), (1, 0), (0, -1), (-2, 3), (0, 3 ** (1 / 3))).requires_grad_()
    polynomial = Polynomial(terms, inequality)
    (gradient,) = torch.autograd.grad(polynomial(x).sum(), x)

    assert torch.isfinite(gradient).all()
    smooth = points((0.3, 1.2), (-1.1, -0.9)).requires_grad_()
    assert torch.autograd.gradcheck(polynomial, smooth)


def test_inequality_is_satisfied_inside() -> None:
    disc = Polynomial(TERMS["disc"][0], inequality=True)

    assert disc(points((0.8, 0.4), (0, 1), (1, 2))).tolist() == [0, 0, 3]


def test_polynomial_acts_at_each_position() -> None:
    x = noise([(0, 0), (0, 1)], (3, 4, 5))
    sphere = Polynomial([[1, 2, 0, 0], [1, 0, 2, 0], [1, 0, 0, 2], [-1, 0, 0, 0]])

    assert torch.allclose(sphere.residual(x), x.square().sum(dim=1, keepdim=True) - 1, atol=1e-6)
    with pytest.raises(InputError, match="3 channels"):
        sphere.check_shape(x[:, :2])


@pytest.mark.parametrize(
    "terms", [[], [[1.0]], [[1, 2, 0], [1, 2]], [[1, 0.5, 0]], [[1, -1, 0]]], ids=str
)
def test_terms_that_are_none_are_refused(terms: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="Polynomial expects"):
        Polynomial(terms)


# the network


def network() -> DiffusersDenoiser:
    net = randomise(MLP(channels=2, width=16, layers=2), 0.3)
    assert isinstance(net, nn.Module)
    return DiffusersDenoiser(net).eval()


def test_network_is_that_of_a_denoiser() -> None:
    denoiser = network()
    y_t = noise([(0, i) for i in range(6)], (2, 1, 1))
    t = torch.tensor([1e-3, 0.01, 0.1, 0.4, 0.9, 1.0])
    together = denoiser(y_t, t)

    assert together.shape == (6, 2, 1, 1)
    for i in range(6):
        alone = denoiser(y_t[i : i + 1], t[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    # it sees the time
    out = denoiser.net(y_t[:1].expand(6, -1, -1, -1), 1000 * t - 1)
    assert (out[1:] - out[:-1]).abs().flatten(1).amax(dim=1).min() > 1e-3
    assert denoiser.double()(y_t.double(), t).dtype == torch.float64


def test_network_refuses_fields_that_are_no_points() -> None:
    with pytest.raises(ValueError, match=r"\(B, 2, 1, 1\), got \(3, 2, 4, 4\)"):
        MLP()(torch.zeros(3, 2, 4, 4), torch.zeros(3))


@pytest.mark.parametrize(
    "schedule", [VPSchedule(), CosineSchedule(), FlowSchedule()], ids=lambda s: type(s).__name__
)
def test_network_learns_two_points(schedule: Schedule) -> None:
    """The diffusion model of two points: every sample must be one of them."""

    torch.manual_seed(0)
    denoiser = DiffusersDenoiser(MLP(width=32, layers=1), schedule)
    y = points((1, 0.5), (-1, -0.5)).float().repeat(128, 1, 1, 1)
    denoiser.calibrate(y)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    for step in range(200):
        z = noise([(step, i) for i in range(2)], (256, 2, 1, 1))
        ratio = 0.5 - 1.2 * z[0, :, 0, 0, 0] - denoiser.field_std.log()
        t = schedule.invert(ratio).float()
        alpha, sigma = (a[:, None, None, None] for a in schedule(t))
        error = (denoiser(alpha * y + sigma * z[1], t) - y).square().flatten(1).mean(dim=1)
        loss = (denoiser.weight(t) * error).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    samples = DPMSolver(20)(denoiser, (2, 1, 1), range(100)).y
    away = torch.cdist(samples.flatten(1), y[:2].flatten(1)).amin(dim=1)

    assert float(away.median()) < 0.1
    assert 20 <= int((samples[:, 0] > 0).sum()) <= 80


# figures


def test_points_are_drawn_in_the_plane() -> None:
    x = Spiral().curve(torch.linspace(0, 1, 50))[:, :, None, None]
    figure = field_grid({"data": x, "samples": x + 1}, Spiral())

    assert isinstance(figure, Figure) and len(figure.axes) == 2
    for panel, shown in zip(figure.axes, (x, x + 1), strict=True):
        drawn = torch.as_tensor(panel.collections[0].get_offsets().data)
        torch.testing.assert_close(drawn, shown.flatten(1).double(), rtol=0, atol=1e-6)
    residual = residual_image(Spiral(), x + 1)
    assert residual is not None
    assert figure.axes[1].get_xlabel().endswith(f"{float(residual.mean()):.1e}")


def test_paths_are_drawn_in_the_plane() -> None:
    x = torch.randn(3, 2, 64, 1)
    figure = field_grid({"data": x, "samples": 2 * x})

    for panel, shown in zip(figure.axes, (x, 2 * x), strict=True):
        lines = [line for line in panel.lines if len(line.get_xdata()) == 64]
        drawn = torch.stack([torch.as_tensor(line.get_xydata()) for line in lines])
        torch.testing.assert_close(drawn, shown[..., 0].mT.double(), rtol=0, atol=1e-6)


def test_channels_are_drawn_as_one_mosaic() -> None:
    x = torch.arange(8.0)[None, :, None, None].expand(1, 8, 4, 6)
    figure = field_grid({"x": x})

    drawn = torch.as_tensor(figure.axes[0].images[0].get_array().data)
    assert drawn.shape == (2 * 4, 4 * 6)
    # images are drawn from below, the first channel at the top left
    assert drawn[4:, ::6].unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert drawn[:4, ::6].unique(dim=0).tolist() == [[4, 5, 6, 7]]


# the command line


@pytest.mark.parametrize("overlay", [[], ["flow.yaml"]], ids=["diffusion", "flow"])
def test_model_is_trained_by_a_command(
    overlay: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = ROOT / "configs" / "spiral"
    monkeypatch.chdir(tmp_path)
    small = {
        "data": {
            "class_path": "datamodules.SpiralData",
            "init_args": {"sizes": {"train": 64, "val": 16, "test": 16}, "batch_size": 32},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "val_check_interval": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"name": "toy"}},
        },
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    files = [ROOT / "configs" / "trainer.yaml", configs / "data.yaml"]
    argv = [word for file in [*files, configs / "mdm.yaml"] for word in ("-c", str(file))]
    argv += [word for name in overlay for word in ("-c", str(configs / name))]
    argv += ["-c", "small.yaml", "--trainer.logger.init_args.version=fit"]
    assert main(["fit", *argv, "--model.init_args.val_samples=8"]) is None

    path = "runs/toy/fit/checkpoints/last.ckpt"
    denoiser = load_denoiser(path)
    assert type(denoiser.schedule) is (FlowSchedule if overlay else VPSchedule)
    assert isinstance(denoiser, DiffusersDenoiser) and type(denoiser.net) is MLP
    assert 0.5 < float(denoiser.std) < 1.5
    argv = [word for file in [*files, configs / "generation.yaml"] for word in ("-c", str(file))]
    argv += ["-c", "small.yaml", "--trainer.logger.init_args.version=generation/x"]
    argv += [f"--model.init_args.denoiser.init_args.checkpoint={path}"]
    assert main(["test", *argv, "--model.init_args.samples=8"]) is None
    assert (tmp_path / "runs/toy/generation/x/results.json").exists()
    assert main(["report", "runs/toy"]) is None
    assert (tmp_path / "runs/toy/report.png").exists()

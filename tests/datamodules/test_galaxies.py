"""Images of galaxies: the skies, their light, and the file that says how many there are."""

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import beta, gamma
from torch import Tensor

from constraints import Count, Counter, InputError, load_counter
from datamodules import read_attributes
from datamodules.galaxies import draw_background, draw_catalogue, render
from tests.constraints.counters import SHIPPED, tiny_counter, tiny_galaxies
from tests.problems import randomise


@pytest.fixture(scope="module")
def galaxies() -> Tensor:
    """The galaxies of 400 skies, with shape (400, 8, 6)."""

    return torch.stack([draw_catalogue((0, i), 8, 128) for i in range(400)])


# the sky
def test_galaxies_are_apart_and_inside(galaxies: Tensor) -> None:
    centres = galaxies[..., :2]
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    crowded = draw_catalogue((1,), 20, 64)[:, :2]

    assert (distance + 100 * torch.eye(8)).min() > 5
    assert torch.pdist(crowded).min() > 5 and len(crowded) == 20
    assert centres.min() >= 5 and centres.max() <= 122


def test_galaxies_follow_the_recipe(galaxies: Tensor) -> None:
    flux, longer, shorter, angle = galaxies[..., 2:].flatten(0, 1).T
    error = 4 / math.sqrt(len(flux))  # 4 standard errors of a share are at most half of this

    assert flux.min() >= 10**0.5 and flux.max() <= 10  # 15 dB above a std of 0.1
    assert flux.mean() == pytest.approx((10**0.5 + 10) / 2, abs=2 * error)
    assert longer.min() == 1 and shorter.min() == 1 and (shorter <= longer).all()
    for std in (1.0, 2.0, 4.0):  # sizes of 4, 8 and 16 pixels, of four std
        share = (longer <= std).double().mean()
        assert share == pytest.approx(gamma.cdf(std, 1.6), abs=error / 2)
    # of large galaxies, where no std was raised to 1
    ratio = (shorter / longer)[longer > 4]
    share = (ratio <= 0.7).double().mean()
    assert share == pytest.approx(beta.sf(0.3, 1.7, 4.5), abs=2 / math.sqrt(len(ratio)))
    assert angle.min() >= 0 and angle.max() <= math.pi
    assert angle.cos().mean().abs() <= error


def test_galaxy_is_an_ellipse_of_known_light_and_axes() -> None:
    angle, longer, shorter = 0.7, 4.0, 2.0
    sky = torch.tensor([[30.0, 34.0, 7.0, longer, shorter, angle]]).double()
    x = render(sky, torch.zeros(65, 65, dtype=torch.float64))
    row, column = (k.flatten() for k in torch.meshgrid(*[torch.arange(65.0)] * 2, indexing="ij"))
    offset = torch.stack([row - 30, column - 34]).double()
    moments = (offset * x.flatten()) @ offset.T / x.sum()
    turn = torch.tensor([[math.sin(angle), math.cos(angle)], [math.cos(angle), -math.sin(angle)]])
    wanted = turn.T @ torch.diag(torch.tensor([longer**2, shorter**2])) @ turn

    # sums over a grid of a Gaussian of 2 pixels and more are integrals; 7 std fit in
    assert x[30, 34] == 1 and x.min() == 0
    assert x.sum() == pytest.approx(2 * math.pi * longer * shorter, rel=1e-8)
    torch.testing.assert_close(moments, wanted.double(), rtol=1e-6, atol=1e-6)


def test_background_has_its_std_and_correlation() -> None:
    b = torch.stack([draw_background((0, i), 256) for i in range(8)])

    # a patch of 4 pi 1.5² pixels is one independent number: 18,500 of them
    assert b.std() == pytest.approx(0.1, rel=0.03) and b.mean().abs() < 0.004
    for lag in (1, 3):
        for shifted, kept in ((b[:, lag:], b[:, :-lag]), (b[..., lag:], b[..., :-lag])):
            correlation = (shifted * kept).mean() / b.var()
            assert correlation == pytest.approx(math.exp(-(lag**2) / (4 * 1.5**2)), abs=0.03)


def test_one_galaxy_less_is_the_same_sky_without_it() -> None:
    seven, eight = (draw_catalogue((3,), n, 64) for n in (7, 8))

    assert torch.equal(eight[:7], seven)
    assert not torch.equal(draw_catalogue((4,), 7, 64), seven)


def test_sky_too_small_for_its_galaxies_is_refused() -> None:
    with pytest.raises(InputError, match=r"\b90 galaxies.*32 x 32"):
        draw_catalogue((0,), 90, 32)
    with pytest.raises(InputError, match=r"\b0 of 1\b.*11 x 11"):
        draw_catalogue((0,), 1, 11)


@pytest.mark.parametrize(("n", "points"), [(0, 32), (2, 0), (2, -8)])
def test_sky_of_nothing_is_refused(tmp_path: Path, n: int, points: int) -> None:
    with pytest.raises(InputError, match=rf"GalaxyData.*{min(n, points)}\b"):
        tiny_galaxies(tmp_path, Count(n, tiny_counter()), points=points)


def test_sky_is_the_same_alone_and_in_a_chunk(tmp_path: Path) -> None:
    data = tiny_galaxies(tmp_path)
    x = data.simulate(7, seed=5)

    assert x.shape == (7, 1, 32, 32) and x.dtype == torch.float32
    assert torch.equal(x.amax(dim=(1, 2, 3)), torch.ones(7)) and not x.amin(dim=(1, 2, 3)).any()
    assert torch.equal(x, torch.cat([data.simulate(1, 5, i) for i in range(7)]))
    assert torch.equal(x[2:6], data.simulate(4, 5, 2))


def test_skies_of_two_seeds_differ(tmp_path: Path) -> None:
    data = tiny_galaxies(tmp_path, points=16, constraint=Count(1, tiny_counter()))
    skies = torch.cat([data.simulate(1000, seed) for seed in (0, 1)])

    assert len(skies.flatten(1).unique(dim=0)) == 2000


def test_file_says_how_many_galaxies(tmp_path: Path) -> None:
    counter = load_counter(str(SHIPPED))
    data = tiny_galaxies(tmp_path, Count(3, counter))
    data.prepare_data()
    data.setup("fit")
    attributes = read_attributes(data.file)

    assert data.shape == (1, 32, 32)
    assert attributes["problem"] == "count" and attributes["parameters"] == {"n": 3}
    assert 0 < attributes["data_floor"] < 2
    with pytest.raises(InputError, match=r"parameters\.n\b.*\b4\b"):
        tiny_galaxies(tmp_path, Count(4, counter)).prepare_data()


def test_untrained_counter_is_found_out(tmp_path: Path) -> None:
    data = tiny_galaxies(tmp_path, Count(2, randomise(Counter(4, 0), 1.0)))  # type: ignore

    with pytest.raises(InputError, match=r"constraint.*2e"):
        data.prepare_data()

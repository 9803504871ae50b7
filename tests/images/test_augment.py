"""The eleven augmentations against oracles that share nothing with them, and their random numbers."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

import icobench.images.augment as filters
from icobench.errors import InputError
from icobench.images.augment import FILTERS, augment
from icobench.images.philox import Draws, draws_for, philox4x32
from icobench.seeds import Purpose

NAMES = list(FILTERS)
WORD = 0xFFFFFFFF


@pytest.fixture
def images(generator):
    """(6, 64, 64) float32 in [0, 1]."""
    return torch.rand(6, 64, 64, generator=generator)


@pytest.fixture
def mask(generator):
    """(6, 64, 64), some 80 % usable."""
    return torch.rand(6, 64, 64, generator=generator) > 0.2


def draws(count: int, seed: int = 5) -> Draws:
    return Draws((seed, 17), torch.arange(count))


def flat(count: int, value: float = 0.4, size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one value and masks that are True everywhere, (count, size, size) each."""
    shape = (count, size, size)
    return torch.full(shape, value, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)


def positions(count: int, size: int = 32) -> torch.Tensor:
    """Images whose values tell the pixels apart: (y size + x) / size^2, (count, size, size) float64."""
    return (torch.arange(size * size, dtype=torch.float64) / size**2).view(1, size, size).repeat(count, 1, 1)


def beam_steps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns counted from the beam."""
    return np.mgrid[:size, :size] - size // 2


# Random numbers


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """The vectors that Random123 publishes."""
    words = philox4x32(tuple(torch.tensor(word) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_words_are_philox_of_block_stream_and_number():
    def reference(c, k):
        for _ in range(10):
            (h0, l0), (h1, l1) = divmod(0xD2511F53 * c[0], 2**32), divmod(0xCD9E8D57 * c[2], 2**32)
            c = (h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0)
            k = ((k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32)
        return c

    numbers = [0, 3, 2**31 + 5, 2**40 + 7, -1]
    words = Draws((WORD, 123456), torch.tensor(numbers), stream=9).words(10)
    for row, number in zip(words.tolist(), numbers, strict=True):
        blocks = [reference((b, 9, number & WORD, (number >> 32) & WORD), (WORD, 123456)) for b in range(3)]
        assert row == [block[place] for place in range(4) for block in blocks][:10]


def test_uniform_numbers():
    values = draws(40).uniform(5000)
    assert float(values.min()) >= 0 and float(values.max()) < 1
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-3
    # Images, streams and neighbours share nothing: correlations of 5,000 numbers scatter by 0.014.
    rows = torch.cat([values[:10], draws(10).branch(0).uniform(5000), draws(10, seed=6).uniform(5000)])
    rows = torch.cat([rows, rows[:1].roll(1, 1)])
    assert float((torch.corrcoef(rows) - torch.eye(len(rows))).abs().max()) < 0.075


def test_branches_are_distinct():
    root = draws(1)
    paths = [root.branch(i) for i in range(15)] + [
        root.branch(i).branch(j) for i in range(15) for j in range(15)
    ]
    assert len({path.stream for path in paths}) == len(paths) == 15 * 16


# Single filters


def test_identity(images, mask):
    out = augment(images, "identity", 0, mask=mask)
    assert torch.equal(out.images, images * mask)
    assert torch.equal(out.mask, mask)
    assert torch.equal(augment(images, "identity", 0).images, images)


def test_noise_is_uniform_up_to_half_the_maximum():
    images, mask = flat(300, 0.2, 32)
    images[:, 3, 4] = 0.6
    out, _ = filters.noise(images, mask, draws(300))
    added = (out - images).flatten(1).numpy()
    assert added.min() >= 0
    assert added.max() <= 0.3
    # The largest of 1,024 uniform numbers is the amplitude to 0.1 %.
    amplitude = added.max(1)
    assert stats.kstest(amplitude, stats.uniform(0, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest((added / amplitude[:, None]).ravel()[::7], "uniform").pvalue > 1e-3


def test_noise_is_clipped():
    out, _ = filters.noise(*flat(20, 0.9), draws(20))
    assert float(out.max()) == 1


def test_salt_and_pepper():
    images, mask = flat(200, 0.4, 64)
    out, _ = filters.salt_and_pepper(images, mask, draws(200))
    assert set(out.unique().tolist()) == {0, 0.4, 1}
    salt, pepper = ((out == value).double().mean((1, 2)).numpy() for value in (1, 0))
    share = salt + pepper
    assert share.max() < 0.11
    assert stats.kstest(share, stats.uniform(0, 0.1).cdf).pvalue > 1e-3
    assert abs(salt.sum() - pepper.sum()) < 5 * np.sqrt(share.sum() / 4096)
    # Salt and pepper alternate at random, without a pattern over rows or columns.
    assert stats.chisquare((out == 1).sum((0, 1))).pvalue > 1e-3
    assert stats.chisquare((out == 1).sum((0, 2))).pvalue > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_blur_is_a_gaussian_mean_of_usable_pixels(images, mask, masked):
    images = images.double()
    if not masked:
        mask = torch.ones_like(mask)
    stream = draws(6)
    out, seen = filters.blur(images, mask, stream)
    assert torch.equal(seen, mask)
    sigmas = 5 * (1 - stream.uniform(1)[:, 0].numpy())
    assert len(set(sigmas)) == 6
    for image, usable, sigma, blurred in zip(images.numpy(), mask.numpy(), sigmas, out.numpy(), strict=True):

        def smooth(field, sigma=sigma):
            return ndimage.gaussian_filter(field, sigma, mode="constant", truncate=30)

        expected = np.where(usable, smooth(image * usable) / smooth(1.0 * usable), 0)
        # Where nearly all of the neighbourhood is masked, sums of tiny weights are divided.
        np.testing.assert_allclose(blurred, expected, rtol=1e-6, atol=1e-12)
        if not masked and sigma < 4:  # far from the edges it is the plain filter
            np.testing.assert_allclose(
                blurred[24:40, 24:40],
                ndimage.gaussian_filter(image, sigma, truncate=6)[24:40, 24:40],
                atol=1e-6,
            )


def test_blur_range():
    sigma = 5 * (1 - draws(2000).uniform(1).numpy())
    assert 0 < sigma.min() < 0.05 and 4.95 < sigma.max() <= 5
    # A point's peak is 1 / (2 pi sigma^2) where sigma is above a pixel.
    images, mask = flat(300, 0, 64)
    images[:, 32, 32] = 1
    peak = filters.blur(images, mask, draws(300))[0][:, 32, 32].numpy()
    wide = sigma[:300, 0] > 1.5
    np.testing.assert_allclose(peak[wide], 1 / (2 * np.pi * sigma[:300, 0][wide] ** 2), rtol=1e-3)


def test_a_blurs_radius_may_be_that_of_the_wolfram_language(images, mask, monkeypatch):
    """Its sigma is half the radius."""
    halved = augment(images.double(), "blur", 3, blur_radius_is="wolfram")
    stream = draws_for(3, Purpose.AUGMENTATION, torch.arange(6)).branch(NAMES.index("blur"))
    for image, blurred, u in zip(images.numpy(), halved.images.numpy(), stream.uniform(1)[:, 0], strict=True):
        expected = ndimage.gaussian_filter(image.astype(float), 2.5 * (1 - float(u)), truncate=6)
        np.testing.assert_allclose(blurred[24:40, 24:40], expected[24:40, 24:40], atol=1e-6)
    first = augment(images, "all", 3, mask=mask)
    wolfram = augment(images, "all", 3, mask=mask, blur_radius_is="wolfram")
    changed = (first.images != wolfram.images).flatten(1).any(1).view(11, 6).any(1)
    assert [name for name, differs in zip(NAMES, changed.tolist(), strict=True) if differs] == [
        "blur", "combination", "realistic"
    ]  # fmt: skip
    monkeypatch.setattr(filters, "BLUR", 2.5)
    assert torch.equal(augment(images, "all", 3, mask=mask).images, wolfram.images)


def test_jitter_moves_pixels_by_few_pixels():
    size = 32
    images = positions(60, size)
    mask = torch.rand(images.shape, generator=torch.Generator().manual_seed(3)) > 0.1
    out, seen = filters.jitter(images * mask, mask, draws(60))
    assert torch.equal(seen, mask)
    source = (out * size**2).round().long()
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    dy, dx = ((source // size - rows) * mask, (source % size - columns) * mask)
    # Sources are usable pixels of the same image; masked ones never show.
    assert mask.flatten(1).gather(1, source.flatten(1)).view_as(mask)[mask].all()
    largest = torch.maximum(dy.abs(), dx.abs()).amax((1, 2))
    assert sorted(set(largest.tolist())) == [1, 2, 3]
    # Far from the edge and where no source is masked, all steps are equally likely.
    out, _ = filters.jitter(images, torch.ones_like(mask), draws(60))
    source = (out * size**2).round().long()
    step = ((source // size - rows + 3) * 7 + (source % size - columns + 3))[:, 4:-4, 4:-4]
    for distance in (1, 2, 3):
        counts = torch.bincount(step[largest == distance].flatten(), minlength=49)
        assert (counts > 0).sum() == (2 * distance + 1) ** 2
        assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_crop_keeps_a_centred_square(monkeypatch):
    monkeypatch.setattr(filters, "BLIND_SPOTS", 0)
    out, mask = filters.crop(*flat(200), draws(200))
    y, x = beam_steps(128)
    reach = np.maximum(abs(y), abs(x))
    halves = []
    for usable in mask.numpy():
        halves.append(reach[usable].max())
        np.testing.assert_array_equal(usable, reach <= halves[-1])
    assert 32 <= min(halves) < 35 and 61 < max(halves) <= 64
    assert torch.equal(out, flat(200)[0] * mask)


@pytest.mark.parametrize(("reach", "most", "largest"), [(1.0, 3, 8.0), (0.5, 1, 5.0)])
def test_crop_has_up_to_three_blind_spots(monkeypatch, reach, most, largest):
    """All numbers are equally likely, and radii are uniform from 2 pixels to the largest."""
    monkeypatch.setattr(filters, "CROP", 0)
    out, mask = filters.crop(*flat(600), draws(600), reach)
    assert torch.equal(out, flat(600)[0] * mask)
    lost = ~mask.numpy()
    assert max(ndimage.label(image)[1] for image in lost) == most
    none = float((~lost.any((1, 2))).mean())
    assert none == pytest.approx(1 / (most + 1), abs=5 * math.sqrt(0.25 / 600))
    # The mean of pi r^2; some 4 % of the area lie beyond the edges, and overlaps are rare.
    area = most / 2 * math.pi * (2**2 + 2 * largest + largest**2) / 3
    assert lost.sum() / 600 == pytest.approx(0.96 * area, rel=0.15)


def test_a_blind_spot_is_a_disc(monkeypatch):
    monkeypatch.setattr(filters, "CROP", 0)
    _, mask = filters.crop(*flat(600), draws(600), 0.5)
    radii = []
    for lost in ~mask.numpy():
        y, x = np.nonzero(lost)
        if len(y) and min(y.min(), x.min()) > 0 and max(y.max(), x.max()) < 127:
            radii.append(math.sqrt(len(y) / math.pi))
            inside = np.hypot(y - y.mean(), x - x.mean())
            assert inside.max() < radii[-1] + 0.8
    assert stats.kstest(radii, stats.uniform(2, 3).cdf).pvalue > 1e-3


def test_hole_is_a_central_disc():
    out, mask = filters.hole(*flat(200), draws(200))
    y, x = beam_steps(128)
    distance = np.hypot(y, x)
    radii = []
    for usable in mask.numpy():
        radii.append(distance[usable].min())
        np.testing.assert_array_equal(usable, distance >= radii[-1])
    assert 2 <= min(radii) < 3 and 15 < max(radii) <= 16.1
    assert torch.equal(out, flat(200)[0] * mask)


def test_shift_is_a_roll_with_the_rest_masked(mask):
    images = positions(6, 64)
    out, seen = filters.shift(images * mask, mask, draws(6))
    for image, usable, moved, still in zip(*(a.numpy() for a in (images, mask, out, seen)), strict=True):
        y, x = np.argwhere(still)[0]
        source = round(moved[y, x] * 64**2)
        by = (y - source // 64, x - source % 64)
        inside = np.zeros((64, 64), dtype=bool)
        inside[max(by[0], 0) : 64 + by[0], max(by[1], 0) : 64 + by[1]] = True
        expected = np.roll(usable, by, (0, 1)) & inside
        np.testing.assert_array_equal(still, expected)
        np.testing.assert_array_equal(moved, np.roll(image, by, (0, 1)) * expected)


def test_shift_range():
    images, mask = flat(4000, 0.5, 32)
    images[:, 16, 16] = 1
    out, _ = filters.shift(images, mask, draws(4000))
    place = (out == 1).flatten(1).long().argmax(1)
    steps = torch.stack([place // 32, place % 32]) - 16
    for axis in steps:
        values, counts = axis.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert stats.chisquare(counts).pvalue > 1e-3


def test_sensitivity_is_a_smooth_gain():
    images, mask = flat(200, 0.5)
    gain = (filters.sensitivity(images, mask, draws(200))[0] / 0.5).numpy()
    np.testing.assert_allclose(gain.mean((1, 2)), 1, atol=1e-12)
    assert gain.min() >= 0.5 and gain.max() <= 1.5
    swing = abs(gain - 1).max((1, 2))
    assert stats.kstest(swing, stats.uniform(0, 0.5).cdf).pvalue > 1e-3
    # Two half waves over the image: neighbours differ by at most a few percent of the largest swing.
    for axis in (1, 2):
        assert (abs(np.diff(gain, axis=axis)).max((1, 2)) < 0.15 * swing).all()
    clipped, _ = filters.sensitivity(*flat(20, 0.9), draws(20))
    assert float(clipped.max()) == 1


# Together


def test_combination_uses_each_filter_half_of_the_time(images):
    """Traces of single filters among 600 combinations; 5 standard deviations are 0.1."""
    out = augment(images[:1].expand(600, -1, -1) * 0.3, "combination", 4)
    holed = ~out.mask[:, 32, 32]  # or, rarely, a blind spot
    # Nothing but salt is 1 here, not even noise.
    salted = (out.images == 1).any(2).any(1)
    edges = (~out.mask[:, 0]).all(1) | (~out.mask[:, :, 0]).all(1)
    assert float(holed.double().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(salted.double().mean()) == pytest.approx(0.5, abs=0.1)
    # A crop takes row 0; of shifts to 9 rows and columns, 5 / 9 leave each in place.
    assert float(edges.double().mean()) == pytest.approx(1 - 0.5 * (0.5 + 0.5 * 25 / 81), abs=0.1)


def test_realistic_shows_all_effects_at_half_reach(images, monkeypatch):
    monkeypatch.setattr(filters, "BLIND_SPOTS", 0)
    out = augment(images[:1].expand(200, -1, -1) * 0.3, "realistic", 4)
    y, x = (torch.as_tensor(steps) for steps in beam_steps(64))
    distance = torch.maximum(y.abs(), x.abs())
    # Holes of 1 to 4.5 pixels and crops from 24, about the beam although the pattern is shifted, by up to 2.
    assert not out.mask[:, 32, 32].any()
    assert out.mask[:, (distance >= 5) & (distance <= 24)].all()
    assert torch.equal(out.mask[:, 28:37, 28:37], out.mask[:, 28:37, 28:37].flip(1, 2))
    # Between noise, at most 0.25 of the maximum on top of a gain of at most 1.25, and salt lies nothing.
    values = out.images[out.mask]
    assert (values == 0).any() and (values == 1).any()
    assert float(values[values < 1].max()) < 0.3 * 1.25 * 1.25


@pytest.mark.parametrize("name", NAMES)
def test_output_holds_the_contract(images, mask, name):
    kept = images.clone(), mask.clone()
    for dtype in (torch.float32, torch.float64):
        out = augment(images.to(dtype), name, 3, mask=mask)
        assert out.images.dtype == dtype and out.images.shape == images.shape
        assert out.mask.dtype == torch.bool and out.mask.shape == images.shape
        assert float(out.images.min()) >= 0 and float(out.images.max()) <= 1
        assert (out.images[~out.mask] == 0).all()
        assert (out.filter_index == NAMES.index(name)).all()
        if "shift" not in name and name not in ("combination", "realistic"):
            assert not (out.mask & ~mask).any()
    assert torch.equal(images, kept[0]) and torch.equal(mask, kept[1])
    # A common mask is each image's mask; what lies under the mask never shows.
    common = augment(images, name, 3, mask=mask[0])
    spoiled = torch.where(mask[0], images, torch.nan)
    assert torch.equal(augment(spoiled, name, 3, mask=mask[0].expand(6, -1, -1)).images, common.images)


@pytest.mark.parametrize("name", [*NAMES, "random"])
def test_an_image_depends_on_seed_and_number_alone(images, mask, name):
    numbers = torch.tensor([4, 0, 7, 2**35, 9, 11])
    out = augment(images, name, 3, numbers, mask)
    order = torch.tensor([5, 2, 0])
    some = augment(images[order], name, 3, numbers[order], mask[order])
    for field, part in zip(out, some, strict=True):
        assert torch.equal(field[order], part)
    alone = augment(images[3:4], name, 3, numbers[3:4], mask[3:4])
    assert torch.equal(alone.images[0], out.images[3]) and torch.equal(alone.mask[0], out.mask[3])
    many = augment(images.repeat(20, 1, 1), name, 3, numbers.repeat(20), mask.repeat(20, 1, 1))
    assert torch.equal(many.images[-6:], out.images)


@pytest.mark.parametrize("name", NAMES[1:])
def test_other_images_and_seeds_draw_anew(images, name):
    same = images[:1].expand(6, -1, -1)
    first, other = augment(same, name, 3), augment(same, name, 4)
    assert len(first.images.flatten(1).unique(dim=0)) > 3
    assert not torch.equal(first.images, other.images)


def test_all_is_the_eleven_in_turn(images, mask):
    out = augment(images, "all", 8, mask=mask)
    assert len(out.images) == len(out.mask) == 11 * 6
    assert out.filter_index.tolist() == [index for index in range(11) for _ in range(6)]
    for index, name in enumerate(NAMES):
        alone = augment(images, name, 8, mask=mask)
        assert torch.equal(out.images[6 * index : 6 * index + 6], alone.images)
    two = augment(images, ["hole", "noise"], 8, mask=mask)
    place = {name: out.images[6 * index : 6 * index + 6] for index, name in enumerate(NAMES)}
    assert torch.equal(two.images, torch.cat([place["hole"], place["noise"]]))


def test_random_is_one_of_the_eleven(images, mask):
    everything = augment(images, "all", 8, mask=mask)
    out = augment(images, "random", 8, mask=mask)
    rows = out.filter_index * 6 + torch.arange(6)
    assert torch.equal(out.images, everything.images[rows])
    assert torch.equal(out.mask, everything.mask[rows])
    many = augment(images[:1, :16, :16].expand(3300, -1, -1), "random", 1)
    counts = torch.bincount(many.filter_index, minlength=11)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_extreme_images(name):
    """Black, white and fully masked images stay finite; no image and one that is not square work."""
    images = torch.stack([torch.zeros(16, 24), torch.ones(16, 24), torch.ones(16, 24)])
    mask = torch.ones(3, 16, 24, dtype=torch.bool)
    mask[2] = False
    out = augment(images, name, 0, mask=mask)
    assert out.images.isfinite().all()
    assert not out.mask[2].any() and not out.images[2].any()
    assert augment(images[:0], name, 0).images.shape == (0, 16, 24)


def test_errors(images, mask):
    with pytest.raises(InputError, match=r"'smear'; choose from identity, noise, .*realistic, all, random"):
        augment(images, "smear", 0)
    with pytest.raises(InputError, match="unknown filter 'random'"):
        augment(images, ["noise", "random"], 0)
    with pytest.raises(InputError):
        augment(images, [], 0)
    with pytest.raises(InputError, match="blur_radius_is must be sigma or wolfram, got 'fwhm'"):
        augment(images, "blur", 0, blur_radius_is="fwhm")
    with pytest.raises(ValueError, match="images must be"):
        augment(images[0], "noise", 0)
    with pytest.raises(ValueError, match="images must be"):
        augment(mask, "noise", 0)
    with pytest.raises(ValueError, match="mask must be"):
        augment(images, "noise", 0, mask=mask[:2])
    with pytest.raises(ValueError, match="mask must be"):
        augment(images, "noise", 0, mask=mask.float())
    with pytest.raises(ValueError, match="numbers must be"):
        augment(images, "noise", 0, torch.arange(5))
    with pytest.raises(ValueError, match="non-negative"):
        augment(images, "noise", -1)

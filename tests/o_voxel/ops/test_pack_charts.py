import numpy as np
import pytest
from comfyui_trellis2.o_voxel.ops import pack_charts as packing
from comfyui_trellis2.o_voxel.ops.pack_charts import Outlines, kernel_cpu, pack, reference, upright


def polygons(shapes):
    """Outlines of counter-clockwise polygons [N, 2]."""
    start = np.concatenate(shapes)
    end = np.concatenate([np.roll(shape, -1, axis=0) for shape in shapes])
    first = np.concatenate(([0], np.cumsum([len(shape) for shape in shapes])))
    area = np.array([(s[:, 0] * np.roll(s[:, 1], -1) - np.roll(s[:, 0], -1) * s[:, 1]).sum() / 2 for s in shapes])
    return Outlines(start, end, first, area)


def stars(count, seed=0):
    """Star-shaped polygons of very different sizes, one of them with a deep notch."""
    random = np.random.default_rng(seed)
    found = []
    for n in range(count):
        angle = np.sort(random.uniform(0, 2 * np.pi, 5 + n % 9))
        radius = random.uniform(0.4, 1.0, len(angle)) * random.choice([0.05, 0.2, 1.0])
        found.append(np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1))
    return polygons([shape for shape in found if polygons([shape]).area[0] > 1e-3])


def placed(outlines, packing, size):
    """Which chart covers each texel's centre [size, size], by crossing numbers; -1 none. Fails where two do."""
    owner = np.full((size, size), -1)
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for k in range(len(outlines.area)):
        rows = slice(outlines.first[k], outlines.first[k + 1])
        ends = []
        for part in (outlines.start[rows], outlines.end[rows]):
            cosine, sine = packing.turn[k]
            turned = np.stack((part[:, 0] * cosine - part[:, 1] * sine, part[:, 0] * sine + part[:, 1] * cosine), 1)
            ends.append(turned * packing.scale + packing.offset[k])
        inside = np.zeros((size, size), bool)
        for (ax, ay), (bx, by) in zip(*ends, strict=True):
            if ay != by:
                inside ^= ((ay <= y) != (by <= y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
        assert (owner[inside] == -1).all()
        owner[inside] = k
        assert np.concatenate(ends).min() >= 0 and np.concatenate(ends).max() <= size
    return owner


def narrowest(owner, most):
    """Fewest free texels between two charts, up to `most`."""
    padded = np.pad(owner, most, constant_values=-1)
    inner = padded[most:-most, most:-most]
    for distance in range(1, most + 1):
        for dy in range(-distance, distance + 1):
            for dx in range(-distance, distance + 1):
                other = np.roll(padded, (dy, dx), (0, 1))[most:-most, most:-most]
                if ((inner >= 0) & (other >= 0) & (inner != other)).any():
                    return distance - 1
    return most


@pytest.mark.parametrize("gutter", [0, 1, 2, 5])
def test_charts_keep_apart(gutter):
    outlines = stars(20)
    packing = pack(outlines, 128, gutter, backend="numba")
    owner = placed(outlines, packing, 128)
    assert narrowest(owner, 6) >= gutter and not packing.overlaps.any()
    half = -(-gutter // 2)
    assert half == 0 or ((owner[:half] == -1).all() and (owner[:, -half:] == -1).all())


@pytest.mark.slow
def test_cells_of_more_than_a_texel_keep_apart():
    outlines = stars(12, seed=3)
    packing = pack(outlines, 1600, 2, backend="numba")
    owner = placed(outlines, packing, 1600)
    assert narrowest(owner, 2) >= 2 and (owner >= 0).mean() > 0.5


@pytest.mark.slow
def test_backends_agree():
    outlines = stars(7)
    first, second = (pack(outlines, 48, 1, backend=backend) for backend in ("numba", "reference"))
    assert first.scale == pytest.approx(second.scale)
    assert np.allclose(first.turn, second.turn) and np.allclose(first.offset, second.offset)


def test_traces_agree():
    outlines = stars(60, seed=2)
    for chart in range(len(outlines.area)):
        rows = slice(outlines.first[chart], outlines.first[chart + 1])
        for turn in ((1.0, 0.0), (0.6, 0.8)):
            mask, origin, twice = reference.trace(outlines, chart, np.array(turn), 20.0)
            runs, high, wide, *rest = kernel_cpu.trace(outlines.start[rows], outlines.end[rows], *turn, 20.0)
            assert mask.shape == (high, wide) and np.array_equal(reference.runs_of(mask), runs)
            assert np.allclose(rest[:2], origin) and rest[2] == twice


def test_trace_sets_agree():
    outlines = stars(9, seed=4)
    turns = np.random.default_rng(0).standard_normal((len(outlines.area), 3, 2))
    turns /= np.linalg.norm(turns, axis=2, keepdims=True)
    first, second = (module.trace_charts(outlines, turns, 17.0) for module in (kernel_cpu, reference))
    halves = [kernel_cpu.trace_charts(outlines.span(*ends), turns[slice(*ends)], 17.0) for ends in ((0, 4), (4, 9))]
    for found in (second, reference.joined(halves)):
        for name in ("runs", "first", "size", "overlaps"):
            assert np.array_equal(getattr(first, name), getattr(found, name))
        assert np.allclose(first.origin, found.origin)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "gutter"), [(63, 0), (64, 1), (65, 2), (130, 1)])
@pytest.mark.parametrize("guided", [False, True])
def test_places_agree(width, gutter, guided):
    outlines = stars(24, seed=5)
    turns = np.broadcast_to([[1.0, 0.0], [0.6, 0.8]], (len(outlines.area), 2, 2))
    traces = reference.trace_charts(outlines, turns, 0.6 * width / np.sqrt(outlines.area.sum()))
    order = np.argsort(-outlines.area, kind="stable")
    low = np.arange(len(order)) % 5 if guided else None
    first, second = (
        module.place_charts(traces, order, (2 * width, width), gutter, low) for module in (kernel_cpu, reference)
    )
    assert first[0] == second[0] > 0 and all(np.array_equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))


@pytest.mark.parametrize("kernels", [kernel_cpu, reference])
def test_a_packing_is_given_up_above_the_rows_that_it_may_take(kernels):
    outlines = stars(6)
    traces = kernels.trace_charts(outlines, np.tile([[[1.0, 0.0]]], (6, 1, 1)), 24 / np.sqrt(outlines.area.sum()))
    order, size = np.arange(6), (200, 40)
    rows, *expected = kernels.place_charts(traces, order, size, 1, np.zeros(6, np.int64))
    assert 0 < rows < 200
    found = kernels.place_charts(traces, order, size, 1, np.zeros(6, np.int64), rows)
    assert found[0] == rows and all(np.array_equal(a, b) for a, b in zip(found[1:], expected, strict=True))
    assert kernels.place_charts(traces, order, size, 1, np.zeros(6, np.int64), rows - 1)[0] == reference.NOWHERE


@pytest.mark.slow
def test_packings_that_are_given_up_are_not_missed(monkeypatch):
    outlines = stars(30)
    expected = pack(outlines, 256, 1)
    every = lambda self, jobs, every: [self._place_at_resolution(*job) for job in jobs]  # noqa: E731 as a method
    monkeypatch.setattr(packing._Packer, "_placed", every)
    found = pack(outlines, 256, 1)
    assert found.scale == expected.scale and np.array_equal(found.offset, expected.offset)


def test_a_chart_that_does_not_fit_is_told():
    outlines = stars(3)
    traces = reference.trace_charts(outlines, np.broadcast_to([[1.0, 0.0]], (len(outlines.area), 1, 2)), 50.0)
    for module in (kernel_cpu, reference):
        assert module.place_charts(traces, np.arange(len(outlines.area)), (20, 20), 1)[0] == reference.NOWHERE


def test_boxes_stand_upright():
    turned = np.array([0.3, 1.2, -0.7])
    box = np.array([[0.0, 0], [3, 0], [3, 1], [0, 1]])
    shapes = [box @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in turned]
    left = (upright(polygons(shapes)) + turned) / (np.pi / 2)
    assert np.abs(left - left.round()).max() < 1e-3


def test_boxes_are_the_same_to_the_bit_on_both_backends():
    outlines = stars(60)
    first = upright(outlines)
    assert np.array_equal(upright(outlines, kernel_cpu.box_areas), first)
    parts = [upright(outlines.span(k, k + 1))[0] for k in range(len(first))]
    assert np.array_equal(parts, first)


def test_threads_do_not_matter(monkeypatch):
    found = []
    for count in (1, 3):
        monkeypatch.setattr(packing, "get_num_threads", lambda count=count: count)
        found.append(pack(stars(30), 256, 2))
    assert found[0].scale == found[1].scale and np.array_equal(found[0].offset, found[1].offset)


@pytest.mark.slow
def test_an_outline_that_winds_twice_is_told():
    angle = np.linspace(0, 4 * np.pi, 40, endpoint=False)
    radius = np.where(angle < 2 * np.pi, 1.0, 0.7)
    spiral = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    for backend in ("numba", "reference"):
        assert pack(polygons([spiral, square]), 64, 1, backend=backend).overlaps.tolist() == [True, False]


@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_squares_fill_most_of_the_texture(count):
    packing = pack(polygons([np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])] * count) if count else empty(), 512, 2)
    assert len(packing.turn) == len(packing.offset) == count
    if count:
        assert count * packing.scale**2 > (0.6 if count == 1000 else 0.8) * 512**2


def empty():
    return Outlines(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(1, np.int64), np.zeros(0))


def test_the_same_bytes_twice():
    first, second = (pack(stars(80), 256, 2) for _ in range(2))
    assert first.scale == second.scale and np.array_equal(first.offset, second.offset)


def test_more_charts_than_texels():
    with pytest.raises(ValueError, match="room for 100 charts"):
        pack(polygons([np.array([[0.0, 0], [1, 0], [0, 1]])] * 100), 16, 2)


def test_progress_may_cancel():
    def stop(done):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pack(stars(5), 64, 1, progress=stop)

"""nvdiffrast as a backend of the rasteriser: by a fake with its interface, and on a GPU by itself where it is there."""

import sys
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core import foreign
from comfyui_trellis2.o_voxel.core.backend import Backend, always
from comfyui_trellis2.o_voxel.ops import raster as op
from comfyui_trellis2.o_voxel.ops.raster import BACKENDS, Raster, library, rasterize
from comfyui_trellis2.o_voxel.ops.raster.reference import pixel_centers

FAKES = Path(__file__).parent / "fakes"
SIZE = (37, 50)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKES))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "nvdiffrast"]:
        del sys.modules[name]


def soup(count, seed, spread=0.7, camera=2.0):
    """Separate triangles in perspective."""
    generator = torch.Generator().manual_seed(seed)
    clip = (
        torch.rand(count, 1, 4, generator=generator) * 3 - 1.5 + torch.randn(count, 3, 4, generator=generator) * spread
    )
    clip[..., 3] = clip[..., 3].abs() * 0.5 + camera
    return clip.reshape(-1, 4), torch.arange(3 * count).view(-1, 3)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_its_interface_is_turned_into_ours(fake, monkeypatch, index):
    monkeypatch.setattr(op, "BACKENDS", (Backend("reference", always), Backend("nvdiffrast", always, automatic=False)))
    clip, faces = soup(60, seed=1)
    # Twice the same faces: of equal depths the lowest wins.
    clip, faces = torch.cat((clip, clip)), torch.cat((faces, faces + len(clip))).to(index)
    strided = torch.zeros(len(clip), 8)
    strided[:, ::2] = clip
    before = strided.clone(), faces.clone()
    expected, found = (rasterize(strided[:, ::2], faces, SIZE, backend=name) for name in ("reference", "nvdiffrast"))
    assert 0.3 < (expected.face >= 0).float().mean() < 1 and int(expected.face.max()) < 60
    assert torch.equal(found.face, expected.face) and found.face.dtype == torch.int32
    assert torch.equal(found.depth, expected.depth)
    torch.testing.assert_close(found.bary, expected.bary, atol=2e-7, rtol=0)
    assert torch.equal(strided, before[0]) and torch.equal(faces, before[1])


@pytest.mark.parametrize("vertices", [0, 3])
def test_no_faces_never_reach_it(vertices):
    """It refuses them, as it does no vertices."""
    drawn = library.rasterize_nvdiffrast(torch.zeros(vertices, 4), torch.zeros(0, 3, dtype=torch.int64), (5, 3))
    raster = Raster(*drawn)
    assert (raster.face == -1).all() and raster.face.dtype == torch.int32
    assert (raster.bary == 0).all() and raster.depth.isposinf().all() and raster.bary.shape == (5, 3, 3)


def test_more_faces_than_it_counts_are_refused(monkeypatch):
    monkeypatch.setattr(library, "MOST_FACES", 2)
    with pytest.raises(ValueError, match="expected fewer than 2 faces, got 2"):
        library.rasterize_nvdiffrast(torch.zeros(3, 4), torch.zeros(2, 3, dtype=torch.int64), (5, 3))


def test_the_check_passes_it_and_sees_what_is_wrong(fake, monkeypatch):
    import nvdiffrast.torch as nvdiffrast

    assert library.check("cpu") == (None, True)
    right = nvdiffrast.rasterize

    def wrongly(change):
        monkeypatch.setattr(nvdiffrast, "rasterize", lambda *given, **more: (change(right(*given, **more)[0]), None))
        return library.check("cpu")[0]

    assert wrongly(lambda shown: shown) is None
    assert "its picture is wrong" in wrongly(lambda shown: shown.flip(1))
    assert "its picture is wrong" in wrongly(torch.zeros_like)
    assert "its picture is wrong" in wrongly(lambda shown: shown.roll(2, dims=2))
    assert "its weights or depths are wrong" in wrongly(lambda shown: shown[..., [1, 0, 2, 3]])
    assert "its weights or depths are wrong" in wrongly(lambda shown: shown * torch.tensor([1, 1, 0.99, 1]))

    def breaks(shown):
        raise RuntimeError("subtriangle count overflow")

    assert wrongly(breaks) == "a test picture failed: RuntimeError: subtriangle count overflow"


def test_what_is_absent_or_not_for_this_device_says_so(fake, monkeypatch):
    monkeypatch.setattr(library, "why_not", lambda *_: pytest.fail("no process is needed to say this"))
    assert library.probe(torch.device("cpu"), torch.float32) == "runs on a GPU, not on cpu"
    with pytest.raises(ValueError, match="'nvdiffrast' does not work on cpu"):
        rasterize(torch.zeros(3, 4), torch.tensor([[0, 1, 2]]), (4, 4), backend="nvdiffrast")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(FAKES)])
    assert library.probe(torch.device("cuda"), torch.float32) == "not installed (no module nvdiffrast.torch)"


def test_auto_never_takes_it_and_its_licence_is_named():
    (backend,) = [choice for choice in BACKENDS if choice.name == "nvdiffrast"]
    assert not backend.automatic and "non-commercial" in backend.licence
    assert [choice.name for choice in BACKENDS if choice.automatic] == ["triton", "numba", "reference"]


# On a GPU


def edge_distance(clip, face, size):
    """Pixels from each centre to the nearest edge line of its face, [H, W]; for faces in front of the camera."""
    height, width = size
    corners = clip.double().view(-1, 3, 4)[face.clamp(min=0).long()]
    points = corners[..., :2] / corners[..., 3:] * torch.tensor([width / 2, height / 2])
    x, y = pixel_centers(size, clip.device)
    here = torch.stack(torch.broadcast_tensors(x * width / 2, (y * height / 2)[:, None]), dim=-1)
    start, along = points, points.roll(-1, dims=2) - points
    offset = here[:, :, None] - start
    across = (along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0]).abs() / along.norm(dim=-1)
    return torch.where(face >= 0, across.amin(dim=2), torch.inf)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(37, 50), (512, 640), (2500, 2100)], ids=str)
def test_it_draws_what_ours_draws_but_for_rounded_corners(size):
    foreign.forget()
    reason = library.probe(torch.device("cuda"), torch.float32)
    if reason is not None:
        pytest.skip(f"nvdiffrast: {reason}")
    clip, faces = soup(300, seed=2)
    ours, theirs = (
        Raster(*(getattr(drawn, part).cpu() for part in ("face", "bary", "depth")))
        for drawn in (rasterize(clip.cuda(), faces.cuda(), size, backend=name) for name in ("triton", "nvdiffrast"))
    )
    same = ours.face == theirs.face
    distance = torch.minimum(edge_distance(clip, ours.face, size), edge_distance(clip, theirs.face, size))
    crossing = (ours.depth - theirs.depth).abs() < 1e-3
    unlike = (~same & (distance > 1.5 * library.SNAP_PIXELS) & ~crossing).sum()
    changed = float((~same).float().mean())
    assert unlike == 0 and changed < 0.03, (int(unlike), changed)
    seen = same & (ours.face >= 0)
    assert (ours.bary - theirs.bary)[seen].abs().max() < 2e-3
    assert (ours.depth - theirs.depth)[seen].abs().max() < 1e-4

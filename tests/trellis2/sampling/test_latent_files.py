"""Files of latents: there and back, equal bytes, other readers, refusals; a run that goes on from them."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import SamplerParams
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.sampling import stages
from comfyui_trellis2.trellis2.sampling.latent_files import read_latents, summary, write_latents
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.values import Latents, Made, ShapeLatent, SparseStructure, TextureLatent
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
LENGTHS, SIDES = (7, 63), (512, 1024)
PARAMS = SamplerParams(
    steps=3, guidance_strength=7.5, guidance_rescale=0.5, guidance_interval=(0.6, 1.0), rescale_t=3.0,
    integrator="heun", times=(1.0, 0.6, 0.25, 0.0),
)  # fmt: skip
MADE = (Made("structure", 2**64 - 1, PARAMS, "mini"), Made("shape", 7, PARAMS, "owner/name"))
HISTORIES = (((8, 16, 16, 16), (7, 32)), ((8, 16, 16, 16), (63, 32)))


def latents():
    generator = torch.Generator().manual_seed(0)

    def items(sides):
        cells = [torch.randperm(side**3, generator=generator)[:n] for side, n in zip(sides, LENGTHS, strict=True)]
        pairs = zip(cells, sides, strict=True)
        return [torch.stack([c // s**2, c // s % s, c % s], 1).to(torch.int32) for c, s in pairs]

    structure = SparseStructure(tuple(items((32, 32))), 32, tuple(h[:1] for h in HISTORIES), made=MADE[:1])
    coords = CoordSet.from_items(items((32, 64)))
    feats = [torch.randn(70, 32, generator=generator) for _ in range(2)]
    shape = ShapeLatent(SparseTensor(feats[0], coords), SIDES, HISTORIES, "abcd", made=MADE)
    return Latents(structure, shape, TextureLatent(SparseTensor(feats[1], coords), SIDES, HISTORIES, "ef"))


def same(ours, theirs):
    for kind in ("shape", "texture"):
        a, b = getattr(ours, kind), getattr(theirs, kind)
        assert type(a) is type(b)
        assert torch.equal(a.slat.feats, b.slat.feats) and a.slat.coords.same_voxels(b.slat.coords)
        assert (a.resolutions, a.noise_history, a.space, a.made) == (b.resolutions, b.noise_history, b.space, b.made)
    a, b = ours.structure, theirs.structure
    assert all(torch.equal(x, y) for x, y in zip(a.items, b.items, strict=True))
    assert (a.resolution, a.noise_history, a.made) == (b.resolution, b.noise_history, b.made)
    return True


def test_there_and_back_and_the_same_bytes_twice(tmp_path):
    first, second, seen = tmp_path / "new" / "a.safetensors", tmp_path / "b.safetensors", []
    size = write_latents(first, latents(), {"workflow": "{}"}, seen.append)
    assert first.stat().st_size == size and seen[-1] == 1
    loaded = read_latents(first)
    assert same(latents(), loaded)
    write_latents(second, loaded, {"workflow": "{}"})
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*.safetensors")) == ["a.safetensors", "b.safetensors"]
    text = "\n".join(summary(loaded))
    assert "shape at 512, 1024: 7, 63 tokens" in text and "shape: owner/name, seed 7, 3 steps, heun" in text


def test_every_field_of_a_latent_is_in_the_file():
    """One that is added has to be written and read too, or a loaded latent decodes to something else."""
    fields = {
        kind: {f.name for f in dataclasses.fields(kind)} for kind in (SparseStructure, ShapeLatent, TextureLatent)
    }
    slat = {"slat", "resolutions", "noise_history", "space", "made", "y_up"}
    structure = {"items", "resolution", "noise_history", "made", "y_up"}
    assert fields == {SparseStructure: structure, ShapeLatent: slat | {"surface"}, TextureLatent: slat}


def test_pixal3ds_frame_is_kept(tmp_path):
    whole = latents()
    turned = {kind: replace(getattr(whole, kind), y_up=True) for kind in whole.kinds}
    write_latents(tmp_path / "a.safetensors", Latents(**turned))
    back = read_latents(tmp_path / "a.safetensors")
    assert all(getattr(back, kind).y_up for kind in back.kinds)
    write_latents(tmp_path / "b.safetensors", whole)
    assert not any(getattr(read_latents(tmp_path / "b.safetensors"), kind).y_up for kind in whole.kinds)
    assert b"y_up" not in (tmp_path / "b.safetensors").read_bytes()  # the bytes of earlier versions
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(content.replace(b'\\"y_up\\": true', b'\\"y_up\\": 1111'))
    with pytest.raises(ValueError, match="y_up: expected true or false"):
        read_latents(tmp_path / "c.safetensors")


def test_an_encoded_shape_keeps_the_voxels_that_its_decoder_follows(tmp_path):
    whole = latents()
    count = len(whole.shape.resolutions)
    surface = CoordSet.from_items([torch.tensor([[i, 5, 7], [i + 1, 0, 31]], dtype=torch.int32) for i in range(count)])
    write_latents(tmp_path / "a.safetensors", Latents(shape=replace(whole.shape, surface=surface)))
    back = read_latents(tmp_path / "a.safetensors").shape
    assert torch.equal(back.surface.rows, surface.rows) and back.surface.lengths == surface.lengths
    far = torch.tensor([[5000, 0, 0]], dtype=torch.int32)
    outside = CoordSet.from_items([far] * count)
    write_latents(tmp_path / "b.safetensors", Latents(shape=replace(whole.shape, surface=outside)))
    with pytest.raises(ValueError, match="expected 0 to"):
        read_latents(tmp_path / "b.safetensors")


def test_another_reader_opens_it(tmp_path):
    from safetensors import safe_open

    write_latents(tmp_path / "a.safetensors", latents())
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "trellis2-latents"
        assert np.array_equal(file.get_tensor("shape.feats"), latents().shape.slat.feats.numpy())
        assert np.array_equal(file.get_tensor("shape.voxels"), latents().shape.slat.coords.voxels.numpy())
        assert len(file.keys()) == 5


def test_one_kind_alone_and_what_does_not_fit(tmp_path):
    path, whole = tmp_path / "a.safetensors", latents()
    write_latents(path, Latents(texture=whole.texture))
    assert read_latents(path).kinds == ("texture",)
    with pytest.raises(ValueError, match="got none"):
        Latents()
    with pytest.raises(ValueError, match="expected the same number of objects"):
        Latents(shape=whole.shape, structure=replace(whole.structure, noise_history=((),)))
    moved = SparseTensor(whole.texture.slat.feats, CoordSet(whole.texture.slat.coords.rows.flip(0), LENGTHS))
    with pytest.raises(ValueError, match="its voxels are not those of the shape"):
        write_latents(path, replace(whole, texture=replace(whole.texture, slat=moved)))
    with pytest.raises(ValueError, match="extras: expected other keys"):
        write_latents(path, whole, {"shape": ""})
    assert read_latents(path).kinds == ("texture",)


def spoil(path, change):
    """Changes the header of a file: change(header, its metadata by kind)."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = {kind: json.loads(header["__metadata__"][kind]) for kind in ("structure", "shape", "texture")}
    change(header, about)
    header["__metadata__"] |= {kind: json.dumps(value) for kind, value in about.items()}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def at(where, key, value):
    """A change of one entry: where(header, about)[key] = value."""
    return lambda header, about: where(header, about).__setitem__(key, value)


def shape(header, about):
    return about["shape"]


def feats(header, about):
    return header["shape.feats"]


REFUSED = {
    "another format": (at(lambda h, a: h["__metadata__"], "format", "x"), "another safetensors file"),
    "a later version": (at(lambda h, a: h["__metadata__"], "version", "2"), "expected version 1 of the format, got 2"),
    "another dtype": (at(feats, "dtype", "F16"), "shape.feats: expected .* F32"),
    "a huge shape": (at(feats, "shape", [1 << 60, 32]), "shape.feats: expected bytes"),
    "a negative shape": (at(feats, "shape", [-1, 32]), "whole numbers"),
    "offsets elsewhere": (at(feats, "data_offsets", [0, 8960]), "expected bytes"),
    "no metadata": (lambda h, a: h.pop("__metadata__") and h.update(__metadata__={}), "another safetensors file"),
    "a tensor too many": (lambda h, a: h.update({"x.feats": h["shape.feats"] | {"data_offsets": [0, 0]}}), "x.feats"),
    "lengths": (at(shape, "lengths", [8, 63]), "shape: lengths: expected"),
    "a fraction": (at(shape, "lengths", [7.0, 63]), "whole numbers"),
    "a coarser grid": (at(shape, "resolutions", [16, 1024]), "voxels: expected 0 to 0, got"),
    "no such resolution": (at(shape, "resolutions", [512, 1 << 20]), "resolutions: expected"),
    "noise without end": (at(shape, "noise_history", [[[1 << 40]], []]), "noise_history"),
    "histories": (at(shape, "noise_history", [[]]), "noise_history: expected a list of 2"),
    "settings": (at(shape, "made", [{"stage": "shape"}]), "made: expected stage"),
    "a structure's grid": (at(lambda h, a: a["structure"], "resolutions", [48, 48]), "expected 32 or 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(tmp_path, case):
    path = tmp_path / "a.safetensors"
    write_latents(path, latents())
    change, message = REFUSED[case]
    spoil(path, change)
    with pytest.raises(ValueError, match=rf"^a\.safetensors: .*{message}"):
        read_latents(path)


@pytest.mark.parametrize("content", [b"", b"{}", bytes(40), b"\xff" * 40, (30).to_bytes(8, "little") + b"[" * 40])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.safetensors: expected"):
        read_latents(path)


def test_damage_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_latents(path, latents())
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"\0", whole[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^a\.safetensors: expected"):
            read_latents(path)
    for end, message in ((b"\0\0\xc0\x7f", "finite"), (whole[-4:], None)):
        path.write_bytes(whole[:-4] + end)
        if message:
            with pytest.raises(ValueError, match=message):
                read_latents(path)
    assert same(read_latents(path), latents())


# A run that goes on from a file


def test_where_a_run_begins(pipeline, monkeypatch):
    called = []
    whole = latents()
    single = SimpleNamespace(batch_size=2)
    monkeypatch.setattr(Pipeline, "condition", lambda self, *_, resolution, **__: called.append(resolution) or single)
    for name, value in (("sample_structure", 0), ("sample_shape", 1), ("cascade_shape", 1), ("sample_texture", 2)):
        part = (whole.structure, replace(whole.shape, resolutions=(512, 512)), whole.texture)[value]
        monkeypatch.setattr(stages, name, lambda *_, name=name, part=part, **__: called.append(name) or part)

    def stages_of(start, kind):
        called.clear()
        made = pipeline.starting_from(start).sample([[None]] * 2, pipeline_type=kind)
        assert made.kinds[-2:] == ("shape", "texture")
        return list(called)

    coarse = replace(whole.shape, resolutions=(512, 512))
    assert stages_of(Latents(shape=coarse), None) == [512, "sample_texture"]
    assert stages_of(Latents(shape=whole.shape), None) == [1024, "sample_texture"]
    assert stages_of(Latents(shape=coarse), "1536_cascade") == [1536, "cascade_shape", "sample_texture"]
    assert stages_of(Latents(shape=whole.shape), "1024_cascade") == [1024, "sample_texture"]
    assert stages_of(Latents(structure=whole.structure), "512") == [512, "sample_shape", "sample_texture"]
    for start, kind in ((Latents(shape=whole.shape), "512"), (Latents(structure=whole.structure), "1024")):
        with pytest.raises(ValueError, match="pipeline_type: expected"):
            stages_of(start, kind)
    with pytest.raises(ValueError, match="got a texture alone"):
        stages_of(Latents(texture=whole.texture), None)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """(a file of one small object, the mesh file that this process decodes it to, its picture)"""
    folder = tmp_path_factory.mktemp("saved")
    picture = Image.new("RGBA", (64, 64))
    picture.paste((200, 40, 30, 255), (16, 16, 48, 48))
    picture.save(folder / "a.png")
    patch = pytest.MonkeyPatch()
    found = stages.occupied_voxels
    patch.setattr(stages, "occupied_voxels", lambda *given: [voxels[:20] for voxels in found(*given)])
    options = ["--model", str(tiny), "--device", "cpu", "--background", "none", "--steps", "2", "--resolution", "512"]
    out, file = folder / "out.glb", folder / "a.safetensors"
    assert main(["generate", str(folder / "a.png"), "-o", str(out), *options, "--save-latents", str(file)]) == 0
    patch.undo()
    return file, out, folder / "a.png"


@pytest.mark.slow
def test_a_new_process_decodes_a_file_to_the_same_bytes(saved, tiny, tmp_path):
    file, out, _ = saved
    again = tmp_path / "again.glb"
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest\n"
    start += "from comfyui_trellis2.trellis2.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = ["decode", str(file), "-o", str(again), "--model", str(tiny), "--device", "cpu"]
    subprocess.run([sys.executable, "-c", start, str(ROOT / "tests"), *command], check=True, timeout=300)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.slow
def test_a_saved_shape_gets_another_texture(saved, tiny, tmp_path):
    """What the stages give that go on in memory, with the noise that follows the shape's."""
    file, _, picture = saved
    options = ["--model", str(tiny), "--device", "cpu", "--background", "none", "--steps", "2"]
    other, kept = tmp_path / "other.glb", tmp_path / "other.safetensors"
    given = ["--from-latents", str(file), "--seed", "5", "--save-latents", str(kept)]
    assert main(["generate", str(picture), "-o", str(other), *options, *given]) == 0
    first, second = read_latents(file), read_latents(kept)
    assert torch.equal(first.shape.slat.feats, second.shape.slat.feats)
    assert not torch.equal(first.texture.slat.feats, second.texture.slat.feats)
    assert [made.seed for made in second.texture.made] == [42, 42, 5]
    assert second.texture.made[-1].model == tiny.name
    assert second.texture.noise_history == first.texture.noise_history


def test_decode_refuses_before_a_model_is_opened(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Pipeline, "load", lambda *a, **k: pytest.fail("loaded"))
    whole, path = latents(), tmp_path / "a.safetensors"
    for value, message in ((Latents(texture=whole.texture), "expected a shape"), (whole, "names 'owner/name'")):
        write_latents(path, value)
        assert main(["decode", str(path), "-o", str(tmp_path / "a.glb"), "--device", "cpu"]) == 1
        assert message in capsys.readouterr().err

"""What a folder or a table says is to be made."""

import dataclasses
from inspect import signature

import pytest
from comfyui_trellis2.o_voxel.asset import PRESETS, Surface
from comfyui_trellis2.trellis2.batch import rows as module
from comfyui_trellis2.trellis2.batch.rows import PARSERS, RowOptions, read_rows
from comfyui_trellis2.trellis2.checkpoint.config import INTEGRATORS
from comfyui_trellis2.trellis2.image import BACKGROUNDS
from comfyui_trellis2.trellis2.pipeline import PIPELINE_TYPES, Pipeline

PLAIN = RowOptions()


def table(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    return path


def test_a_folder_is_its_pictures_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    rows = read_rows(tmp_path, PLAIN)
    assert [(row.file, row.image.name, row.problem) for row in rows] == [("a.glb", "a.JPG", ""), ("b.glb", "b.png", "")]


def test_a_table_replaces_settings_row_by_row(tmp_path):
    head = "Image, seed ,name,resolution,preset,project_picture,format"
    text = f"{head}\na.png,7,,1024,Game Low,yes,OBJ\nsub/b.png,,bee,,,,\n\n"
    rows = read_rows(table(tmp_path, text), RowOptions(seed=3, steps=4))
    first = RowOptions(
        seed=7, steps=4, pipeline_type="1024_cascade", preset="game low", project_picture=True, format="obj"
    )
    assert [(row.file, row.options, row.problem) for row in rows] == [
        ("a.obj", first, ""),
        ("bee.glb", RowOptions(seed=3, steps=4), ""),
    ]
    assert rows[1].image == tmp_path / "sub" / "b.png"


@pytest.mark.parametrize("text", ["\ufeffimage;seed\r\na.png;5\r\n", 'image,seed\n"a.png","5"'])
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    assert [row.options.seed for row in read_rows(table(tmp_path, text), PLAIN)] == [5]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("image,seed\na.png,-1", "seed: expected a whole number from 0"),
        ("image,steps\na.png,many", "steps: expected a whole number from 1 to 200, got 'many'"),
        ("image,preset\na.png,best", "preset: expected one of preview, game low"),
        ("image,fov\na.png,nan", "fov: expected an angle"),
        ("image,name\na.png,../x", "name: expected a file name without folders"),
        ("image,name\na.png,C:x", "name: expected a file name without folders"),
        ("image,name\n,x", "image: expected a file name, got an empty cell"),
        ("image,project_picture\na.png,yes", "project_picture: expected a preset too"),
        ("image,step_cache,sampler\na.png,yes,heun", "step_cache: expected sampler euler"),
    ],
)
def test_a_wrong_cell_is_its_rows_problem(tmp_path, cells, problem):
    head, line = cells.split("\n")
    extra = "," * head.count(",")
    rows = read_rows(table(tmp_path, f"{head}\n{line}\ngood.png{extra}"), PLAIN)
    assert rows[0].problem.startswith(problem) and rows[1].problem == ""
    assert "/" not in rows[0].file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"picture\na.png\n", "columns"),
        (b"image,colour\na.png,red\n", "unknown columns"),
        (b"image,seed\n", "expected a row for each picture, got none"),
        (b"", "without image"),
        (b"image\n\xff\xfe\x00", "as text"),
        (b'image\n"' + b"x" * 200_000 + b'"\n', "as text"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, words):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_rows(tmp_path / "list.csv", PLAIN)


def test_what_is_neither_folder_nor_table_is_refused(tmp_path):
    for source in (tmp_path / "absent", tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ValueError, match="expected"):
            read_rows(source, PLAIN)


def test_rows_of_one_name_get_names_of_their_own(tmp_path):
    for name in ("a.png", "a.jpg", "A.webp", "b.png"):
        (tmp_path / name).touch()
    assert {row.file for row in read_rows(tmp_path, PLAIN)} == {"A_webp.glb", "a_jpg.glb", "a_png.glb", "b.glb"}
    text = "image,name,seed\na.png,x,1\na.png,X,2\na.png,,3\na.png,,4\n"
    files = [row.file for row in read_rows(table(tmp_path, text), PLAIN)]
    assert files == ["x.glb", "X_2.glb", "a_png.glb", "a_png_2.glb"]


def test_a_picture_that_may_not_be_read_is_a_problem(tmp_path):
    rows = read_rows(table(tmp_path, "image\n../secret.png\na.png"), PLAIN, lambda path: path.name == "a.png")
    assert [bool(row.problem) for row in rows] == [True, False]


def test_the_choices_are_those_of_the_library():
    """rows.py imports nothing heavy, so it repeats them."""
    assert tuple(PRESETS) == module.PRESETS and set(module.SURFACES) == set(Surface.__args__)
    assert tuple(PIPELINE_TYPES) == module.TYPES and set(INTEGRATORS) == set(module.SAMPLERS)
    assert set(module.BACKGROUNDS.values()) == set(BACKGROUNDS)
    names = {field.name for field in dataclasses.fields(RowOptions)}
    assert names | {"resolution"} == set(PARSERS)
    assert {"seed", "pipeline_type", "steps", "max_tokens", "step_cache"} <= set(signature(Pipeline.sample).parameters)

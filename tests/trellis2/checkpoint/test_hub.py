"""Where files are looked for, in which order, and what a user is told when they are nowhere."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_trellis2.trellis2.checkpoint import download
from comfyui_trellis2.trellis2.checkpoint.hub import FileSource, MissingFileError, download_command, hub_download
from comfyui_trellis2.trellis2.checkpoint.layouts import MICROSOFT, Checkpoint
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

DECODER = "microsoft/TRELLIS-image-large/ckpts/ss_dec_conv3d_16l8_fp16"


class Hub:
    """A fake download: notes what is asked, and gives the files it has, by repository and name."""

    def __init__(self, files: dict[tuple[str, str], Path] | None = None) -> None:
        self.files = files or {}
        self.asked: list[tuple[str, str, Path | None]] = []

    def __call__(self, repository: str, name: str, folder: Path | None) -> Path:
        self.asked.append((repository, name, folder))
        if (repository, name) not in self.files:
            raise MissingFileError(f"{name}: not on the fake hub in {repository}")
        return self.files[repository, name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hub" / "a.json"
    path.parent.mkdir()
    path.write_text("{}", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "owner" / "ours"
    path.mkdir(parents=True)
    return path


def refused(call) -> str:
    with pytest.raises(MissingFileError) as caught:
        call()
    return str(caught.value)


def test_a_file_in_the_folder_is_taken_without_the_hub(folder):
    hub = Hub()
    (folder / "ckpts").mkdir()
    (folder / "ckpts" / "a.json").write_text("{}", encoding="utf-8")
    source = FileSource.open(str(folder), MICROSOFT, download=hub)
    assert source.get("ckpts/a.json") == folder / "ckpts" / "a.json" == source.find("ckpts/a.json")
    assert source.find("ckpts/b.json") is None
    assert hub.asked == []


def test_a_missing_file_of_a_folder_is_not_downloaded_but_explained(folder):
    hub = Hub()
    message = refused(lambda: FileSource.open(str(folder), MICROSOFT, download=hub).get("ckpts/a.json"))
    assert f"ckpts/a.json is missing from {folder}" in message
    assert "It belongs to microsoft/TRELLIS.2-4B" in message
    assert message.splitlines()[-1].strip() == f'hf download microsoft/TRELLIS.2-4B ckpts/a.json --local-dir "{folder}"'
    assert hub.asked == []


def test_a_repository_is_downloaded_into_the_cache(file):
    hub = Hub({("owner/name", "a.json"): file})
    source = FileSource.open("owner/name", MICROSOFT, download=hub)
    assert source.find("a.json") is None
    assert source.get("a.json") == file
    assert hub.asked == [("owner/name", "a.json", None)]


def test_a_repository_is_downloaded_into_a_folder_only_when_it_is_not_there(folder, file):
    hub = Hub({("owner/name", "a.json"): file})
    source = FileSource.open("owner/name", MICROSOFT, folder, download=hub)
    assert source.get("a.json") == file
    assert hub.asked == [("owner/name", "a.json", folder)]
    shutil.copy(file, folder / "a.json")
    assert source.get("a.json") == folder / "a.json"
    assert len(hub.asked) == 1


def test_a_folder_wins_over_a_repository_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert FileSource.open("owner/name", MICROSOFT).folder == Path("owner/name")
    assert FileSource.open("owner/other", MICROSOFT).repository == "owner/other"


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "/absent/folder", "./absent/", "../absent", "o w/n"])
def test_what_is_neither_folder_nor_repository_is_refused(source):
    message = refused(lambda: FileSource.open(source, MICROSOFT, download=Hub()))
    assert "expected a folder that exists, or a hub repository" in message and source in message


@pytest.mark.parametrize("place", ["inside", "inside_short", "beside", "beside_short", "above"])
def test_a_path_that_leaves_the_checkpoint_is_found_beside_it(tmp_path, folder, place):
    other = {
        "inside": folder / "microsoft" / "TRELLIS-image-large",
        "inside_short": folder / "TRELLIS-image-large",
        "beside": folder.parent / "microsoft" / "TRELLIS-image-large",
        "beside_short": folder.parent / "TRELLIS-image-large",
        "above": tmp_path / "models" / "microsoft" / "TRELLIS-image-large",
    }[place]
    (other / "ckpts").mkdir(parents=True)
    wanted = other / "ckpts" / "ss_dec_conv3d_16l8_fp16.json"
    wanted.write_text("{}", encoding="utf-8")
    hub = Hub()
    source, name = FileSource.open(str(folder), MICROSOFT, download=hub).elsewhere(DECODER)
    assert name == "ckpts/ss_dec_conv3d_16l8_fp16"
    assert source.get(f"{name}.json") == wanted
    message = refused(lambda: source.get(f"{name}.safetensors"))
    assert "hf download microsoft/TRELLIS-image-large ckpts/ss_dec_conv3d_16l8_fp16.safetensors" in message
    assert str(other) in message
    assert hub.asked == []


def test_a_path_that_leaves_the_checkpoint_is_downloaded_last(folder, file):
    name = "ckpts/ss_dec_conv3d_16l8_fp16.json"
    hub = Hub({("microsoft/TRELLIS-image-large", name): file})
    for source in (FileSource.open(str(folder), MICROSOFT, download=hub), FileSource.open("o/n", "o/n", download=hub)):
        other, rest = source.elsewhere(DECODER)
        assert other.get(f"{rest}.json") == file
    assert hub.asked == [("microsoft/TRELLIS-image-large", name, None)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["owner/microsoft/TRELLIS-image-large", "TRELLIS-image-large"])
def test_a_checkpoint_uses_the_decoder_beside_it(tiny, tmp_path, place):
    ours = tmp_path / "models" / "owner" / "ours"
    shutil.copytree(tiny, ours)
    checkpoint = Checkpoint.open(str(ours), download=Hub())
    inside = checkpoint.layout.files("sparse_structure_decoder")
    assert inside == [ours / f"{DECODER}.json", ours / f"{DECODER}.safetensors"]
    target = tmp_path / "models" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(ours / "microsoft" / "TRELLIS-image-large", target)
    moved = checkpoint.layout.files("sparse_structure_decoder")
    assert [path.relative_to(target).as_posix() for path in moved] == [
        "ckpts/ss_dec_conv3d_16l8_fp16.json",
        "ckpts/ss_dec_conv3d_16l8_fp16.safetensors",
    ]
    checkpoint.load_model("sparse_structure_decoder")


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[dict]:
    asked = []

    def hf_hub_download(repository: str, name: str, local_dir: Path | None = None) -> str:
        asked.append({"repository": repository, "name": name, "local_dir": local_dir})
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.setattr(download, "_ask", lambda repository, name: None)
    return asked


def answered(kind: type[Exception], text: str) -> Exception:
    return kind(text, response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize("where", [None, Path("/models/dinov3")])
def test_a_gated_repository_is_explained(monkeypatch, where):
    asked = failing(monkeypatch, answered(GatedRepoError, "403"))
    message = refused(lambda: hub_download("facebook/dinov3", "model.safetensors", where))
    assert "model.safetensors" in message and "facebook/dinov3 is gated" in message
    assert "licence" in message and "hf auth login" in message
    assert message.splitlines()[-1].strip() == download_command("facebook/dinov3", "model.safetensors", where)
    assert asked == [{"repository": "facebook/dinov3", "name": "model.safetensors", "local_dir": where}]


@pytest.mark.parametrize(
    "error",
    [LocalEntryNotFoundError("offline"), answered(RepositoryNotFoundError, "404"), OSError("full")],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_is_explained(monkeypatch, error):
    failing(monkeypatch, error)
    folder = Path("/models/name")
    message = refused(lambda: hub_download("owner/name", "ckpts/a.json", folder))
    assert "ckpts/a.json" in message and "owner/name" in message and type(error).__name__ in message
    assert message.splitlines()[-1].strip() == f'hf download owner/name ckpts/a.json --local-dir "{folder}"'


def test_a_repository_name_that_the_hub_refuses_is_explained(monkeypatch):
    failing(monkeypatch, HFValidationError("Cannot have -- or .. in repo_id"))
    assert "owner/my--model" in refused(lambda: hub_download("owner/my--model", "pipeline.json", None))


def test_a_download_that_works_is_a_path(monkeypatch, file):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, local_dir=None: str(file))
    monkeypatch.setattr(download, "_ask", lambda repository, name: None)
    assert hub_download("owner/name", "a.json", None) == file


def test_the_command():
    folder = Path("/my models/x")
    assert download_command("o/n", "a/b.json", None) == "hf download o/n a/b.json"
    assert download_command("o/n", "a/b.json", folder) == f'hf download o/n a/b.json --local-dir "{folder}"'


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x.json", "/tmp/x.json", "a\\..\\x.json", "C:x", "a/..", "a//b", "a\0"]
)
def test_a_name_that_leads_out_of_a_repository_is_not_downloaded(folder, name):
    hub = Hub()
    with pytest.raises(MissingFileError, match="expected the name of a file in owner/other"):
        FileSource(folder, "owner/other", "owner/other", hub).get(name)
    assert hub.asked == []

"""Released models: they load by name, are what their cards say, and are refused when they are not whole."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import image_transformer as it
from image_transformer.checkpoint import READ, DamagedError, find, read_state
from image_transformer.cli.main import main
from image_transformer.released import card_of, folder_of, model_names

every_released = pytest.mark.parametrize("name", model_names())
MOST_MB = 12


def mini(model, count=None):
    data = it.load_data("cifar10-mini", "test", shape=model.config.shape).some(count)
    return data.images, model.of(data, only=model.untold)


@every_released
def test_bits_per_dim_on_the_embedded_images_are_those_of_the_card(name):
    model = it.load(name)
    images, told = mini(model, 30)
    card = card_of(name)
    assert it.bits_per_dim(model, images, **told) == pytest.approx(card.mini_30_bits_per_dim, abs=0.001)
    assert sum(p.numel() for p in model.parameters()) == card.parameters
    assert read_state(folder_of(name)).images_seen == card.images_seen
    assert abs(card.lost_by_rounding) <= 0.002


@pytest.mark.slow
@every_released
def test_bits_per_dim_on_all_of_the_embedded_images_are_those_of_the_card(name):
    model = it.load(name)
    images, told = mini(model)
    assert it.bits_per_dim(model, images, **told) == pytest.approx(card_of(name).mini_bits_per_dim, abs=0.001)


def test_all_of_them_fit_into_the_package_and_are_listed(capsys):
    files = [file for name in model_names() for file in folder_of(name).iterdir()]
    assert sum(file.stat().st_size for file in files) <= MOST_MB * 1e6
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for name in model_names():
        assert name in printed and f"{card_of(name).bits_per_dim:.3f}" in printed


@every_released
def test_a_flipped_bit_is_refused(name, tmp_path):
    shutil.copytree(folder_of(name), tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.safetensors is truncated or damaged"):
        it.load(tmp_path / "copy")


def test_formats_that_were_released_stay_readable():
    for name in model_names():
        assert read_state(folder_of(name)).format in READ


@pytest.fixture
def release(monkeypatch, tmp_path):
    """A world in which one small model is released, called ducks."""
    model = it.ImageModel(it.Modern(shape=(3, 4, 4), depth=1, width=8, heads=2))
    run = it.RunConfig("ducks", model.config, it.DataConfig(size=(4, 4)))
    from image_transformer import checkpoint

    checkpoint.save(tmp_path / "run", 0, checkpoint.model_files(run, checkpoint.State(), model.state_dict()))
    it.export(tmp_path / "run", tmp_path / "home" / "ducks")
    (tmp_path / "home" / "ducks" / "card.json").write_text("{}")
    monkeypatch.setattr("image_transformer.released.HOME", tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    return model


def test_names_are_taken_where_a_model_is_wanted_but_folders_come_first(release, tmp_path, capsys):
    assert main(["sample", "ducks", "--count", "2"]) == 0
    assert (tmp_path / "samples.png").exists()
    (tmp_path / "ducks").mkdir()  # a folder of pictures, perhaps
    assert find("ducks") == tmp_path / "home" / "ducks"
    it.export(tmp_path / "run", tmp_path / "ducks" / "own")
    shutil.copytree(tmp_path / "ducks" / "own", tmp_path / "ducks", dirs_exist_ok=True)
    assert str(find("ducks")) == "ducks"
    capsys.readouterr()
    assert main(["sample", "duks"]) == 1
    assert capsys.readouterr().err.strip().endswith("did you mean 'ducks'?")


def test_a_model_asked_for_what_it_cannot_do_says_what_it_can(release, capsys):
    assert main(["sample", "ducks", "--label", "cat"]) == 2
    error = capsys.readouterr().err
    assert "--label: this model is not class-conditional" in error and "it is told nothing" in error
    assert main(["superres", "ducks", "photo.png"]) == 1
    assert "super-resolution" in capsys.readouterr().err


def test_an_exported_model_is_the_model_in_16_bits(tmp_path, release):
    exported = it.load(it.export(tmp_path / "run", tmp_path / "light", temperature=0.9))
    assert exported.config.temperature == 0.9
    for name, tensor in release.state_dict().items():
        assert (exported.state_dict()[name] == tensor.half()).all(), name
    assert next(exported.parameters()).dtype == it.load(tmp_path / "run").dtype
    with pytest.raises(FileExistsError, match="is there already"):
        it.export(tmp_path / "run", tmp_path / "light")
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "light"), "--calibrate", "500"]) == 2


@pytest.mark.parametrize("flags", [["--data", "x"], ["--size", "8", "8"], ["--skip-bad"]], ids=lambda flags: flags[0])
def test_images_are_not_fitted_where_none_are_read(flags, tmp_path, release, capsys):
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "light"), *flags]) == 2
    assert f"{flags[0]} is for --calibrate and --coding" in capsys.readouterr().err


def test_a_weight_that_16_bits_cannot_hold_is_kept_whole(tmp_path, release):
    from image_transformer import checkpoint

    with torch.no_grad():
        release.network.head.weight[0, 0] = 1e5
    run = it.RunConfig("ducks", release.config)
    checkpoint.save(tmp_path / "wide", 0, checkpoint.model_files(run, checkpoint.State(), release.state_dict()))
    exported = it.load(it.export(tmp_path / "wide", tmp_path / "kept"))
    assert exported.network.head.weight[0, 0] == 1e5


def test_calibration_is_built_in_and_released_folders_stay_as_they_are(tmp_path, release, capsys):
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (60, 3, 4, 4)).astype(np.uint8))
    assert main(["export", "ducks", "--to", "right", "--calibrate", "3", "--data", "images.npy"]) == 0
    said = capsys.readouterr()
    built_in = it.load("right").config.temperature
    assert f"built in: temperature {built_in:g}" in said.out and "gap" in said.err
    before = {file: file.read_bytes() for file in (tmp_path / "home" / "ducks").iterdir()}
    release_config = find("ducks") / "config.yaml"
    assert release_config in before
    assert main(["evaluate", "ducks", "--data", "images.npy", "--gap", "2"]) == 0
    assert main(["sample", "ducks"]) == 0
    assert main(["report", "ducks", "--images", "2"]) == 0
    assert (tmp_path / "reports" / "ducks" / "report.html").exists()
    assert not (tmp_path / "runs").exists()  # where a run of that name may be
    assert {file: file.read_bytes() for file in (tmp_path / "home" / "ducks").iterdir()} == before


# ---- for others ----


def test_an_exported_folder_says_what_it_is_and_the_hub_takes_it(tmp_path, release):
    """Through the mixin's own functions, without the network; nothing in the folder is pickled."""
    from image_transformer.hub import HubModel

    HubModel.from_run(tmp_path / "run").save_pretrained(tmp_path / "pushed")
    names = {"README.md", "SHA256SUMS", "config.json", "config.yaml", "model.safetensors", "state.json"}
    assert {file.name for file in (tmp_path / "pushed").iterdir()} == names
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = it.load(tmp_path / "pushed").log_prob(images)
    assert torch.equal(HubModel.from_pretrained(str(tmp_path / "pushed")).log_prob(images), expected)
    torch.testing.assert_close(release.eval().log_prob(images), expected, rtol=1e-2, atol=1e-2)
    tuned = HubModel.from_pretrained(str(tmp_path / "pushed"))
    config, state, weights = tuned.run
    tuned.run = config, replace(state, validation_bpd=3.25), weights
    tuned.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        tuned.network.head.weight.add_(1.0)
    tuned.save_pretrained(tmp_path / "tuned")
    assert not torch.equal(it.load(tmp_path / "tuned").log_prob(images), expected), "what is in memory is shared"
    said = [(tmp_path / name / "README.md").read_text() for name in ("same", "tuned")]
    assert "3.2500 bits/dim on validation" in said[0] and "on validation" not in said[1], "no figure of other weights"
    with pytest.raises(ValueError, match="comes from a run"):
        HubModel(tuned.config).save_pretrained(tmp_path / "none")
    config = json.loads((tmp_path / "pushed" / "config.json").read_text())
    assert config["model"]["width"] == 8 and config["library_name"] == "image-transformer"
    card = (tmp_path / "pushed" / "README.md").read_text()
    count = sum(p.numel() for p in release.parameters())
    assert card.startswith("---\nlibrary_name") and f"{count:,} parameters" in card
    code = card.split("```python\n")[1].split("```")[0].replace("this folder", str(tmp_path / "pushed"))
    exec(code, {})


@pytest.mark.parametrize(("classes", "factor"), [
    ((), None), pytest.param(("a", "b"), 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_program_scores_as_the_model_does(tmp_path, classes, factor, monkeypatch):
    """For batches of other sizes than it was made with; one that would not is refused."""
    from conftest import make_model

    from image_transformer.sharing import PROGRAM, program_of

    model = make_model(shape=(3, 4, 4), classes=classes, factor=factor, mix=2).float()
    (tmp_path / PROGRAM).write_bytes(program_of(model))
    program = torch.export.load(tmp_path / PROGRAM).module()
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    given = model.given(5, {"label": "b" if classes else None, "low": it.box_mean(images, 2) if factor else None})
    torch.testing.assert_close(program(images, *given.values()), model.score(images, given))
    score = type(model).score
    monkeypatch.setattr(type(model), "score", lambda *a: score(*a) + (torch.compiler.is_compiling() * 0.01))
    with pytest.raises(RuntimeError, match="the exported program differs"):
        program_of(model)

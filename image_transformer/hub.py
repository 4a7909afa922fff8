"""Models on the hub of Hugging Face, by its own mixin. Needs `pip install image-transformer-pytorch[hub]`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor

from image_transformer import checkpoint
from image_transformer.config.run import RunConfig
from image_transformer.model import ImageModel
from image_transformer.sharing import write


class HubModel(ImageModel, ModelHubMixin):
    """A model with `save_pretrained`, `push_to_hub` and `from_pretrained`: the folders of `export`.

    `HubModel.from_run("runs/tiny").push_to_hub("user/name")`, then anywhere `HubModel.from_pretrained("user/name")`.
    """

    run: tuple[RunConfig, checkpoint.State, dict[str, Tensor]] | None = None  # that it comes from, and its weights

    @classmethod
    def from_run(cls, path: str | Path) -> HubModel:
        """The model of a run folder, of a checkpoint, or released by name. CheckpointError as in `load`."""
        folder = checkpoint.find(path)
        found = checkpoint.load(folder)
        model = cls(found.config)
        model.load_state_dict(found.state_dict())
        weights = {name: value.cpu().clone() for name, value in found.state_dict().items()}
        model.run = checkpoint.read_config(folder), checkpoint.read_state(folder), weights
        return model.to(found.device).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.run is None:
            raise ValueError("only a model that comes from a run can be shared: HubModel.from_run(PATH)")
        config, state, loaded = self.run
        weights = {name: value.cpu() for name, value in self.state_dict().items()}
        if any(not torch.equal(value, loaded[name]) for name, value in weights.items()):
            state = replace(state, validation_bpd=None)  # which was of other weights
        made = Path(save_directory) / ".made"
        write(config, state, weights, made)
        for file in made.iterdir():
            file.replace(made.parent / file.name)
        made.rmdir()

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None, **options: Any) -> HubModel:
        where = ("cache_dir", "force_download", "local_files_only", "token")
        asked = {name: options[name] for name in where if name in options}
        local = Path(model_id).is_dir()
        return cls.from_run(model_id if local else snapshot_download(model_id, revision=revision, **asked))

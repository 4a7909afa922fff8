"""What the verbs about a model begin with: the model, its run, and the data that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from image_transformer.checkpoint import find, load, read_config
from image_transformer.cli.flags import Fitted, say
from image_transformer.conditions.frames import Frames
from image_transformer.config.data import DataConfig
from image_transformer.config.run import RunConfig
from image_transformer.data import clips, loading
from image_transformer.data.images import ImageData, NoSplitError
from image_transformer.data.stream import HELD_OUT
from image_transformer.model import ImageModel
from image_transformer.training.run import load_split

FITTED = Fitted()


@dataclass(frozen=True)
class Trained:
    """A trained model and where it comes from."""

    path: Path  # as the user gave it
    folder: Path  # of the checkpoint
    config: RunConfig
    model: ImageModel

    def data(self, split: str, asked: Fitted = FITTED) -> ImageData:
        """The data asked for, or what the model was trained on, in the model's shape."""
        own = self.config.data
        if asked.data is None:
            data = replace(own, size=asked.size or own.size, skip_bad=asked.skip_bad or own.skip_bad)
        else:
            data = DataConfig(asked.data, size=asked.size, skip_bad=asked.skip_bad, edits=own.edits)
        found = load_split(replace(self.config, model=self.model.config, data=data), split)
        return found.some(HELD_OUT) if data.stream else found

    def tested(self, asked: Fitted, split: str | None = None) -> ImageData:
        """The split asked for; if none is, the test split, or all of other data that are not divided already.

        Data without a test split give their validation split, and say so.
        """
        source = asked.data
        if split is None and source is not None and Path(source).resolve() != Path(self.config.data.source).resolve():
            kind = clips if self.model.config.condition(Frames) is not None else loading
            split = None if kind.has_splits(source) else "all"
        try:
            return self.data(split or "test", asked)
        except NoSplitError:
            if split is not None:
                raise
            say("there is no test split: on the validation split, by which the checkpoint was chosen")
            return self.data("validation", asked)


def load_trained(path: Path) -> Trained:
    """The model at a run folder or checkpoint."""
    folder = find(path)
    return Trained(path, folder, read_config(folder), load(folder))

"""`image-transformer report`: all measures of a run, as one page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from image_transformer.cli.flags import Fitted, arguments, say
from image_transformer.config.sampling import Plan


@dataclass(frozen=True)
class Report(Fitted, Plan):
    """Measure a model on test images, and write the run's page with all figures and pictures: report.html.

    For super-resolution: samples beside nearest, bicubic and regression enlargements. With two more models, an
    unconditional one of the low-resolution images and one of the images, the chain rule of their likelihoods.
    """

    data: str | None = None
    """Data set, folder or file to measure on, all of it if it has no test split; what the model was trained on if not
    given. The page is then below reports/."""
    chain: tuple[Path, Path] | None = None
    """Two more models, of the low-resolution images and of the images, both unconditional."""


def run(args: list[str]) -> None:
    (path,), chosen = arguments(Report, "report RUN", args)

    from image_transformer.checkpoint import load
    from image_transformer.cli.trained import load_trained
    from image_transformer.measures.assessment import assess
    from image_transformer.measures.chain_rule import check_chain, follow_chain_rule
    from image_transformer.released import HOME
    from image_transformer.show.page import write_report

    trained = load_trained(path)
    chain = chosen.chain and (load(chosen.chain[0]), load(chosen.chain[1]))
    if chain:
        check_chain(trained.model, *chain)
    folder = trained.folder
    home = own = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    if folder.parent == HOME:  # what came with the package stays as it is
        home = Path("reports") / folder.name
    if chosen.data is not None:
        home = Path("reports") / f"{path.name}-{Path(chosen.data).stem}"
    test = trained.tested(chosen)
    found = assess(trained.model, partial(trained.data, "train"), test, chosen, say)
    if chain:
        say("the chain rule")
        found.tables.append(follow_chain_rule(trained.model, *chain, test.some(chosen.images).images))
    found.save(home)
    print("\n\n".join(table.markdown() for table in found.tables))
    print(f"\nreport: {write_report(home, None if home == own else path)}")

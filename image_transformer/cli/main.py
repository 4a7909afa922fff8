"""The entry point: finds the verb, and turns every error into one line.

A verb is a file beside this one with a function `run`. Only what a verb needs is imported when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib import import_module
from textwrap import shorten

from image_transformer import __version__
from image_transformer.cli import UsageError
from image_transformer.processes import together
from image_transformer.words import did_you_mean

VERBS = (
    "demo", "models", "recipes", "train", "status", "evaluate", "report", "sample", "complete", "superres", "edit",
    "read", "rollout", "record", "plan", "compress", "decompress", "info", "score", "export", "reproduce",
)  # fmt: skip
SHARED = (  # with the processes of torchrun
    "train", "evaluate", "report", "sample", "complete", "superres", "edit", "read",
)  # fmt: skip
LONGEST = 1000  # characters of an error: a compiler's can fill a book
USAGE = """usage: image-transformer VERB ...

Autoregressive image models with exact likelihoods.

  demo                     train, measure and sample a small model in a few minutes
  models                   list the released models, which need no training
  recipes                  list what can be trained
  train RECIPE             train a model (RECIPE may also be the config.yaml of a run)
  status RUN               where a run stands, and whether it lives
  evaluate MODEL           exact bits/dim on held-out images
  report RUN               all measures of a run, with pictures, as one page
  sample MODEL             a picture of new images
  complete MODEL [IMAGE..] complete images of which a part is given
  superres MODEL IMAGE...  enlarge images of any size, in several ways
  edit MODEL IMAGE...      edit images by instruction
  read MODEL IMAGE...      which of some texts fits an image
  rollout MODEL [CLIP]     continue a clip
  record ENVIRONMENT       record play of a gymnasium environment, to train on
  plan MODEL ENVIRONMENT   play an environment by plans that a world model imagines
  compress FILE...         image files without loss, smaller than PNG, WebP or JPEG XL
  decompress FILE...       and back, every bit, on any machine
  info FILE...             what compressed files hold
  score FILE...            bits/dim of each image, and its rank among others, to find what does not belong
  export MODEL             the model alone, in 16 bits, to pass on
  reproduce STUDY...       run an experiment again, and write its page

MODEL is a run folder, a checkpoint in it, or the name of a released model (of which train makes others: --init MODEL).
image-transformer VERB --help shows the flags of a verb; with --debug an error shows where it comes from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        _dispatch(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, not at the end, it is heard that nobody reads on
    except UsageError as error:
        if _rank() == "0":  # all processes have the same command line
            _complain(error)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt as stop:
        _complain(stop if str(stop) else "interrupted")
        return 128 + getattr(stop, "number", signal.SIGINT)  # as a shell says it: schedulers know 143 as preemption
    except Exception as error:
        if debug:
            raise
        message = str(error) or type(error).__name__
        if not isinstance(error, ValueError | OSError | ImportError | RuntimeError):  # a mistake of the program's
            message = f"{type(error).__name__}: {error} (--debug shows where)"
        _complain(shorten(message, LONGEST, placeholder=" ... (--debug shows the rest)"))
        return 1
    return 0


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif args[0] == "--version":
        print(__version__)
    elif args[0] in VERBS:
        _run(args[0], args[1:])
    else:
        raise UsageError(f"unknown verb {args[0]!r}; {did_you_mean(args[0], VERBS)}")


def _run(verb: str, args: list[str]) -> None:
    """The verb, done together by all processes that `torchrun` has started; the first one prints."""
    with together() as processes, ExitStack() as silence:
        if processes.several and verb not in SHARED:
            raise UsageError(f"{verb} is done by one process: start it without torchrun")
        if not processes.first:
            nowhere = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # whoever names a file wants it read, however large it is
        import_module(f"image_transformer.cli.{verb}").run(args)


def _complain(what: object) -> None:
    who = "image-transformer" if _rank() == "0" else f"image-transformer, process {_rank()}"
    print(f"{who}: {what}", file=sys.stderr)


def _rank() -> str:
    return os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "0"


def run() -> None:
    """The entry point of the installed command."""
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # an interpreter that ends beside threads of gloo may abort
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)

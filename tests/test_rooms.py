"""The house: imports go one way, names mean one thing, and what stands in a docstring runs."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import random_images, tiny_config

import image_transformer as it

PACKAGE = Path(it.__file__).parent
ORDER = (
    "processes", "files", "words", "released", "geometry", "data", "conditions", "likelihoods", "config", "show",
    "networks", "model", "checkpoint", "sharing", "hub", "inference", "play", "codec", "measures", "training",
    "recipes", "reproduce", "api", "cli", "__main__",
)  # fmt: skip
# A protocol and the names that a room offers may be seen from below it.
TORCH_FREE = (
    "processes", "files", "words", "released", "geometry", "data", "conditions", "config", "show", "recipes", "cli",
)  # fmt: skip


def modules():
    return [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path):
    return path.parts[0].removesuffix(".py")


def imports(path, everywhere=True):
    """The modules of this package that a file imports: anywhere in it, or only when it is imported itself."""
    tree = ast.parse((PACKAGE / path).read_text())
    skipped = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    if not everywhere:
        skipped += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    hidden = {id(inner) for node in skipped for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("image_transformer"):
            parts = node.module.split(".")[1:]
            for name in node.names:
                yield ".".join(parts) if parts else name.name
        if isinstance(node, ast.Import):
            yield from (name.name.split(".", 1)[1] for name in node.names if name.name.startswith("image_transformer."))


def test_every_room_has_its_place_in_the_order():
    assert {room(path) for path in modules()} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_down(path):
    """From later rooms to earlier ones; what a function imports when it runs counts, too."""
    for name in imports(path):
        other = name.split(".")[0]
        if other != "__version__":
            assert ORDER.index(other) <= ORDER.index(room(path)), f"{path} imports {name}"


def test_imports_inside_rooms_form_no_circle():
    graph = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): set(imports(path)) for path in modules()}
    known = set(graph)
    for name, found in graph.items():
        graph[name] = {one for one in found if one in known and one != name}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_every_module_can_be_the_first_to_be_imported(every):
    """Names that the package offers are found without importing what offers them."""
    names = [
        ".".join(("image_transformer", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in modules()[::every]
    ]
    code = f"""
import sys, importlib, image_transformer
for name in {[name for name in names if not name.endswith("__main__")]}:
    for old in [old for old in sys.modules if old.startswith("image_transformer")]:
        del sys.modules[old]
    importlib.import_module(name)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent).returncode == 0


def test_a_name_that_needs_no_torch_does_not_import_it():
    use = "it.recipe('tiny'), it.Label(('a',)), it.__all__"
    code = f"import sys, image_transformer as it; {use}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent).returncode == 0


def test_the_walk_sees_an_import_that_runs_up(tmp_path, monkeypatch):
    (tmp_path / "geometry").mkdir()
    (tmp_path / "geometry" / "order.py").write_text("def f():\n    from image_transformer.model import ImageModel\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    with pytest.raises(AssertionError, match="imports model"):
        test_imports_go_down(Path("geometry/order.py"))


@pytest.mark.parametrize("name", TORCH_FREE)
def test_rooms_without_torch(name):
    files = [path for path in modules() if room(path) == name and not (name == "conditions" and "limits" in path.name)]
    names = [".".join(("image_transformer", *path.with_suffix("").parts)).removesuffix(".__init__") for path in files]
    names = [name for name in names if not name.endswith(("cli.trained", "show.progress"))]
    code = f"import sys, importlib\nfor m in {names}: importlib.import_module(m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent).returncode == 0


def test_the_init_of_every_room_is_light():
    for path in modules():
        if path.name == "__init__.py" and room(path) != "recipes":
            assert not list(imports(path)), path


# ---- names ----


def test_no_name_is_both_a_module_and_a_function():
    found = {module.name.split(".")[-1] for module in pkgutil.walk_packages([str(PACKAGE)])}
    assert not found & set(it.__all__)
    for path in modules():
        if path.name == "__init__.py":
            package = importlib.import_module(".".join(("image_transformer", *path.parent.parts)))
            inside = {module.name for module in pkgutil.iter_modules(package.__path__)}
            callables = {name for name, value in vars(package).items() if callable(value)}
            assert not inside & callables, path


def test_public_names_can_be_listed_and_mistyped_ones_are_attribute_errors():
    assert set(it.__all__) <= set(dir(it)) and "generate" in it.__all__
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        it.genrate  # noqa: B018
    assert (PACKAGE / "py.typed").exists()


GENERIC = [
    "training", "inference/sampling.py", "inference/steps.py", "inference/memory.py", "inference/scoring.py",
    "inference/completion.py", "show", "measures/assessment.py", "model.py", "cli",
]  # fmt: skip


def test_what_works_for_every_condition_names_none():
    """Neither the attributes nor the keywords of the two conditions; what is about enlarging has files of its own."""
    own = {"cli/superres.py", "show/charts.py"}  # the labels and lows of charts are others
    words = re.compile(r"\b(label|low|factor|classes)=|\.(label|low|factor|classes)\b|\b(class_labels|box_mean)\b")
    for path in modules():
        if str(path) in own or not any(str(path).startswith(prefix) for prefix in GENERIC):
            continue
        tree = ast.parse((PACKAGE / path).read_text())
        for node in ast.walk(tree):  # comments and docstrings may
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        text = ast.unparse(tree)
        assert not words.findall(text), (path, words.findall(text))
        assert not re.search(r"import (Label|Low|Text)\b", text), path


# ---- what stands in docstrings ----


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the examples name: a few images, three models, and a run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("examples")
        patch.chdir(folder)
        patch.setenv("IMAGE_TRANSFORMER_CACHE", str(folder / "cache"))
        config = tiny_config(folder)
        it.train(config, "runs/tiny", show_progress=False)
        shape = {"shape": (3, 8, 8), "depth": 1, "width": 16, "heads": 2}
        torch.manual_seed(0)
        yield {
            "it": it,
            "torch": torch,
            "config": config,
            "images": random_images(2, (3, 8, 8)),
            "model": it.load("runs/tiny"),
            "by_class": it.ImageModel(it.Modern(**shape, conditions=(it.Label(("cat", "dog")),))),
            "by_words": it.ImageModel(it.Modern(**shape, conditions=(it.Text(32),))),
            "superres": it.ImageModel(it.Modern(**shape, conditions=(it.Low(2),))),
            "editor": it.ImageModel(it.Modern(**shape, conditions=(it.Source(), it.Text(32)))),
            "video": it.ImageModel(it.Modern(shape=(1, 8, 8), depth=1, width=16, heads=2, conditions=(it.Frames(),))),
            "clip": random_images(2, (1, 8, 8))[None],
            "photo": random_images(1, (3, 5, 7)),
        }


def public():
    return [name for name in it.__all__ if inspect.isfunction(getattr(it, name))]


@pytest.mark.parametrize("name", [*public(), "ImageModel"])
def test_every_public_function_has_an_example_that_runs(name, world):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(it, name), name, globs=dict(world))
    assert test.examples, f"{name} has no example"
    assert any(example.want for example in test.examples), f"the example of {name} shows nothing"
    assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0


def test_the_example_of_the_package_runs(world):
    test = doctest.DocTestParser().get_doctest(it.__doc__, dict(world), "image_transformer", None, 0)
    assert len(test.examples) == 5 and doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
    assert test.globs["new"].shape == (16, 3, 8, 8)


def test_python_m_is_the_command():
    said = subprocess.run([sys.executable, "-m", "image_transformer", "--version"], capture_output=True, text=True)
    assert said.stdout.strip() == it.__version__ and said.returncode == 0

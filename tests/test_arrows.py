"""Imports point down one stair, every module stands on it, and heavy or special things stay in their room."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from the lines above its own, and nothing else; those on one line do not know each other.
# `name.*` is a room: a package whose modules may import one another. The numbers are those of docs/design.md.
STAIR = (
    ("errors", "demo", "demo.draft", "library", "distributed"),  # 1: the ground floor (the last four import nothing)
    ("arguments", "files", "seeds", "shell", "distributed.rank_files"),
    ("config.*",),  # 2: what a model is
    ("distributed.part",),  # which part of one a rank holds
    ("distributed.cuts", "distributed.stages"),  # as data: the cuts of tensors, the blocks of a pipeline's ranks
    ("device.*",),  # 3: what this machine has
    ("distributed.hosts", "distributed.channel", "distributed.guard"),  # where the ranks are, and messages between them
    ("distributed.host_file", "distributed.rank_process"),  # where they are to be, and a process of one
    ("distributed.hello",),  # what a rank says of itself
    ("distributed.watch", "distributed.reception"),  # one that fails is named
    ("distributed.ranks",),  # a process among them
    ("distributed.meeting",),  # they meet and are judged
    ("models.*", "engine.*", "text.*"),  # 4: three rooms that do not know each other
    ("store.*",),  # 5: files to arrays, and a directory to a model
    ("distributed.wire",),  # requests and plans as messages
    ("distributed.leader", "distributed.facts"),  # the engine of rank 0; what a rank says of itself
    ("distributed.following",),  # that of the others
    ("library.names", "library.download"),  # 6: names and the network
    ("library.hub_cache", "library.hub_errors", "library.copies"),
    ("library.hub", "library.local", "library.recommended"),
    ("library.mirrors", "library.upload"),
    ("library.here", "distributed.joining"),  # the last: a process becomes a rank for a model
    ("convert.*",),  # 7
    ("library.pull",),  # 8: from a name to a directory, which asks convert inside the functions that need it
    ("library.push",),
    ("api.*",),  # 9
    ("elm_mlx",),  # the public face
    ("protocols.*",),  # 10: over the face, as tests, benchmarks and examples are
    ("bench.*", "doctor", "jobs.*", "llm_plugin.*", "server.*", "sidecar.*"),
    ("distributed.follower", "distributed.published"),  # a rank above 0 from start to end; shapes to plan for
    ("distributed.launch", "distributed.planning"),
    ("evaluate.*", "train.*"),  # it reads lines of rows as jobs does
    ("cli.*",),  # 11
    ("__main__",),
)
FACES = {"elm_mlx", "cli.group", "store.mlx_lm_classes"}  # where modules are imported by name, when they are first used
POLICY = {"device", "device.cpu"}  # where the CPU backend may be mentioned; the last offers a name of it
# package -> the room it works in; that of an extra is imported nowhere else, and never with its module
ONLY_IN: dict[str, str | tuple[str, ...]] = {
    "click": "cli",
    "rich": "cli",
    "huggingface_hub": ("library.hub", "library.hub_errors", "library.upload"),
    "mlx_lm": ("bench.theirs", "store.mlx_lm_classes"),
}
ONLY_IN |= {"llguidance": "text.grammar", "starlette": "server", "uvicorn": "server", "h11": "server"}
ONLY_IN |= {"lm_eval": "evaluate"}
# a room that only another program imports, by its entry point -> what that program brings
PLUGINS = {"llm_plugin": {"llm", "pydantic"}}
# what the base does not bring -> the extra that does
EXTRAS = {"mlx_lm": "mlx-lm", "llguidance": "structure", "lm_eval": "eval"}
EXTRAS |= dict.fromkeys(("starlette", "uvicorn", "h11"), "serve")
NEVER_AT_IMPORT = {"torch", "transformers", "llm", *EXTRAS}
FILES = {"io", "json", "mmap", "os", "pathlib", "safetensors", "shutil", "tempfile"}


class Import(NamedTuple):
    """One imported module by its full name; `top` unless a function imports it when called."""

    name: str
    top: bool


def short(name: str) -> str:
    """`elm_mlx.store.load` -> `store.load`; the package itself keeps its name."""
    return name.removeprefix("elm_mlx.")


def module_name(path: Path) -> str:
    """The name under which a file of either tree is imported: elm_mlx/convert is a link to convert/, so a file there
    has two paths, and both give this one name."""
    parts = path.resolve().relative_to(ROOT.resolve()).with_suffix("").parts
    return ".".join(("elm_mlx",) * (parts[0] == "convert") + parts).removesuffix(".__init__")


@cache
def sources() -> dict[str, ast.Module]:
    """Every module as it is written."""
    return {
        module_name(path): ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("elm_mlx", "convert")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imports(node: ast.AST, top: bool = True) -> Iterator[Import]:
    """Every import under `node`: in functions, in branches and under TYPE_CHECKING too."""
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, top) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.module, f"line {node.lineno}: imports are absolute here"
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            if submodule != "elm_mlx.__version__":
                yield Import(submodule if submodule in sources() else node.module, top)
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):  # which holds no statement, so no import
            yield from imports(child, top and not function)


@cache
def all_imports() -> dict[str, list[Import]]:
    """What every module imports."""
    return {module: list(imports(tree)) for module, tree in sources().items()}


def step(module: str) -> tuple[int, str]:
    """(line on the stair, entry there) of a module; LookupError for one without a place."""
    room = short(module).partition(".")[0] + ".*"
    for number, line in enumerate(STAIR):
        for entry in {short(module), room} & set(line):
            return number, entry
    raise LookupError(f"{module} stands nowhere: give it a line in STAIR, and in docs/design.md")


def test_docs_design_names_every_module() -> None:
    page = set(re.findall(r"\w+", (ROOT / "docs" / "design.md").read_text(encoding="utf-8")))
    modules = [path.stem for folder in ("elm_mlx", "convert") for path in (ROOT / folder).rglob("*.py")]
    assert {name for name in modules if not name.startswith("__")} - page == set()


def inside(module: str, room: str) -> bool:
    return f"{short(module)}.".startswith(f"{room}.")


def packages(module: str, *, top_only: bool = False) -> set[str]:
    """The first names of what a module imports."""
    return {one.name.partition(".")[0] for one in all_imports()[module] if one.top or not top_only}


def test_the_reader_sees_imports_wherever_they_are() -> None:
    tree = ast.parse(
        "import json\nif TYPE_CHECKING:\n    from elm_mlx.api import load\n"
        "class A:\n    def f(self):\n        from elm_mlx.device import cpu\n        return lambda: __import__\n"
    )
    assert list(imports(tree)) == [("json", True), ("elm_mlx.api", True), ("elm_mlx.device.cpu", False)]
    assert {"elm_mlx", "elm_mlx.store.load", "elm_mlx.convert", "elm_mlx.convert.output.pipeline"} <= set(sources())


def test_the_reader_sees_through_the_link_to_the_converter() -> None:
    """What is imported as elm_mlx.convert lies in another tree. An import that led nowhere would hide an arrow, so none
    may; and arrows into the converter and out of it are there."""
    for path in ("convert/output/target.py", "elm_mlx/convert/output/target.py"):
        if (ROOT / path).exists():  # some ways of unpacking an archive lose links
            assert module_name(ROOT / path) == "elm_mlx.convert.output.target"
    for module, found in all_imports().items():
        assert {one.name for one in found if one.name.partition(".")[0] == "elm_mlx"} <= set(sources()), module
    arrows = {
        (short(m).partition(".")[0], short(one.name).partition(".")[0]) for m in sources() for one in all_imports()[m]
    }
    assert {("library", "convert"), ("cli", "convert"), ("convert", "store"), ("convert", "config")} <= arrows


def test_every_module_stands_on_the_stair() -> None:
    for module in sources():
        step(module)


def test_no_import_points_up_or_sideways() -> None:
    wrong = []
    for module, found in all_imports().items():
        line, entry = step(module)
        for one in found:
            if one.name.partition(".")[0] == "elm_mlx":
                other_line, other = step(one.name)
                same_room = other == entry and entry.endswith("*")
                wrong += [f"{module} imports {one.name}"] * (other_line >= line and not same_room)
    assert not wrong


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({m: {one.name for one in found} for m, found in all_imports().items()}).prepare()


def test_the_public_face_shows_the_api_alone_and_lazily() -> None:
    own = {one.name for one in all_imports()["elm_mlx"] if one.name.startswith("elm_mlx")}
    assert own == {
        "elm_mlx.api",
        "elm_mlx.convert.merge",
        "elm_mlx.device.blas",
        "elm_mlx.errors",
        "elm_mlx.library.local",
        "elm_mlx.library.pull",
    }
    for statement in sources()["elm_mlx"].body:
        assert isinstance(statement, ast.If) or not any(one.name in own for one in imports(statement))


def test_modules_are_imported_by_name_in_the_two_faces_only() -> None:
    hidden = {m for m, tree in sources().items() if mentions(tree) & {"import_module", "__import__"}}
    assert {short(module) for module in hidden} == FACES


@pytest.mark.parametrize("room", ["models", "engine"])
def test_the_model_and_the_engine_know_no_files(room: str) -> None:
    for module in (module for module in sources() if inside(module, room)):
        assert not packages(module) & FILES
        assert "elm_mlx.files" not in {one.name for one in all_imports()[module]}
        assert not mentions(sources()[module]) & {"open", "load", "save", "save_safetensors", "savez"}


def test_generation_knows_no_text() -> None:
    for module in (module for module in sources() if inside(module, "engine")):
        assert not packages(module) & {"tokenizers", "transformers", "tiktoken"}


def test_conversion_knows_no_sampling() -> None:
    found = {one.name for module in sources() if inside(module, "convert") for one in all_imports()[module]}
    assert not [name for name in found if inside(name, "engine")]


def test_loading_imports_no_engine() -> None:
    found = {one.name for module in sources() if inside(module, "store") for one in all_imports()[module]}
    assert not [name for name in found if inside(name, "engine")]


def test_the_command_line_uses_the_doors_of_the_converter_alone() -> None:
    found = {one.name for module in sources() if inside(module, "cli") for one in all_imports()[module]}
    assert {name for name in found if inside(name, "convert")} == {
        "elm_mlx.convert",
        "elm_mlx.convert.merge",
        "elm_mlx.convert.verify",
    }


def rooms_of(room: str | tuple[str, ...]) -> tuple[str, ...]:
    """One room or several as several."""
    return (room,) if isinstance(room, str) else room


def test_packages_stay_in_the_room_where_they_work() -> None:
    for module in sources():
        for package, room in ONLY_IN.items():
            assert package not in packages(module) or any(inside(module, one) for one in rooms_of(room)), module


def brought_to(module: str) -> set[str]:
    """What the program brings that imports this module's room."""
    return {package for room, all_of_it in PLUGINS.items() if inside(module, room) for package in all_of_it}


def test_heavy_packages_are_not_imported_with_a_module() -> None:
    for module in sources():
        assert not packages(module, top_only=True) & NEVER_AT_IMPORT - brought_to(module), module


def test_a_plugin_is_imported_by_its_program_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for room in PLUGINS:
        importers = {m for m, found in all_imports().items() if any(inside(one.name, room) for one in found)}
        assert {m for m in importers if not inside(m, room)} == set()
    entries = [place for group in project["entry-points"].values() for place in group.values()]
    assert entries == [f"elm_mlx.{room}.hooks" for room in PLUGINS]
    assert set(entries) <= set(sources())


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower().replace("-", "_") for line in project["dependencies"]}
    declared = {"yaml" if name == "pyyaml" else name for name in names} | {"elm_mlx"} | sys.stdlib_module_names
    for module in sources():
        assert packages(module) <= declared | EXTRAS.keys() | brought_to(module), module
    for package, extra in EXTRAS.items():
        assert package not in declared
        lines = [line.replace("-", "_") for line in project["optional-dependencies"][extra]]
        assert any(line.startswith((extra.replace("-", "_"), package)) for line in lines)


def test_the_cpu_backend_is_mentioned_by_its_policy_alone() -> None:
    for module, tree in sources().items():
        if short(module) not in POLICY:
            assert not mentions(tree) & {"cpu", "gpu", "DeviceType", "default_device", "set_default_device"}, module
            assert "elm_mlx.device.cpu" not in {one.name for one in all_imports()[module]}, module


def mentions(tree: ast.AST) -> set[str]:
    """Names, attributes and whole strings in the code."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | attributes | {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}

"""Rules that the sources keep: imports point one way, families stay in their files, files small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlrt_export import families as export_families
from vlrt_runtime import families as runtime_families

ROOT = Path(__file__).parents[2]
FOLDERS = {"vlrt": ROOT, "vlrt_export": ROOT / "export", "vlrt_runtime": ROOT / "runtime"}
SHARED = ("cores", "digest", "errors", "manifest", "version")  # of the runtime, with the exporter
REFERENCE = {"torch", "transformers"}
HEAVY = REFERENCE | {
    *("onnx", "onnxscript", "onnx_ir", "huggingface_hub", "safetensors", "ml_dtypes"),
}
FILE_LINES = 350
FAMILY_LINES = 200
GREEDY_LINES = 30


def sources(package: str) -> dict[str, Path]:
    folder = FOLDERS[package]
    return {str(path.relative_to(ROOT)): path for path in (folder / package).rglob("*.py")}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names(node: ast.AST) -> Iterator[str]:
    """The dotted names that an import statement asks for; nothing for other nodes."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def when_imported(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: none of functions or for type checkers."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from when_imported(child)


def found(package: str, *, everywhere: bool) -> set[tuple[str, str]]:
    walk = ast.walk if everywhere else when_imported
    return {
        (file, name)
        for file, path in sources(package).items()
        for node in walk(parse(path))
        for name in names(node)
    }


def root(name: str) -> str:
    return name.partition(".")[0]


def test_the_checks_see_imports():
    code = ast.parse(
        "import a.b\nfrom c import d as e\nif TYPE_CHECKING:\n import no\nelse:\n import f\n"
        "class C:\n import g\n def m(self):\n  import no\n"
    )
    seen = [name for node in when_imported(code) for name in names(node)]
    assert seen == ["a.b", "c.d", "f", "g"]


def test_the_runtime_knows_neither_exporter_nor_front():
    imports = found("vlrt_runtime", everywhere=True)
    assert any(root(name) == "vlrt_runtime" for _, name in imports)
    assert {each for each in imports if root(each[1]) in ("vlrt", "vlrt_export")} == set()


def test_the_exporter_shares_the_manifest_and_little_else_with_the_runtime():
    imports = found("vlrt_export", everywhere=True)
    of_runtime = {each for each in imports if root(each[1]) == "vlrt_runtime"}
    shared = tuple(f"vlrt_runtime.{module}." for module in SHARED)
    assert {each for each in of_runtime if not each[1].startswith(shared)} == set()
    assert {each for each in imports if root(each[1]) == "vlrt"} == set()


def test_no_torch_on_the_export_path():
    imports = found("vlrt_export", everywhere=True) | found("vlrt_runtime", everywhere=True)
    assert {each for each in imports if root(each[1]) in REFERENCE} == set()


@pytest.mark.parametrize("package", ["vlrt", "vlrt_runtime"])
def test_nothing_heavy_is_imported_at_the_top(package: str):
    imports = found(package, everywhere=False)
    assert {each for each in imports if root(each[1]) in HEAVY} == set()


def compared(tree: ast.AST) -> Iterator[str]:
    """The string literals that are compared with something, or matched."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.match_case):
            compared_part = node if isinstance(node, ast.Compare) else node.pattern
            for part in ast.walk(compared_part):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_the_check_sees_comparisons():
    code = "x == 'a' or 'b' in (y, 'c')\nmatch x:\n case 'd' | 'e':\n  f('no')"
    assert sorted(compared(ast.parse(code))) == ["a", "b", "c", "d", "e"]


def test_no_branch_on_a_family_outside_families():
    known = {*export_families.FAMILIES, *runtime_families.FAMILIES}
    assert {
        (file, name)
        for package in FOLDERS
        for file, path in sources(package).items()
        if "families" not in Path(file).parts
        for name in compared(parse(path))
        if name in known
    } == set()


def test_files_fit_in_one_sitting():
    lengths = {
        file: (len(path.read_text(encoding="utf-8").splitlines()), "families" in Path(file).parts)
        for package in FOLDERS
        for file, path in sources(package).items()
    }
    assert len(lengths) > 30
    limit = {True: FAMILY_LINES, False: FILE_LINES}
    assert {file: lines for file, (lines, family) in lengths.items() if lines > limit[family]} == {}


def test_the_greedy_loop_fits_on_a_screen():
    tree = parse(FOLDERS["vlrt_runtime"] / "vlrt_runtime" / "greedy.py")
    (loop,) = [each for each in tree.body if getattr(each, "name", "") == "greedy"]
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno + 1 <= GREEDY_LINES

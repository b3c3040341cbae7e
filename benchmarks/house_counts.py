"""Counts the structure of a checkout: lines, import depth, circles, long functions, private uses.

    python benchmarks/house_counts.py [--code CHECKOUT]

Imports inside `if TYPE_CHECKING` and inside functions count like all others.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ctrdist", "preprocessing", "cluster", "jobs")
THIRD_PARTY = ("torch", "torchrec", "ray", "mlflow", "jsonargparse", "fbgemm_gpu", "fsspec", "s3fs")
FRAGMENTS = ("Of", "What", "Which", "Whether", "How", "Where", "That", "Who", "As")
Graph = dict[str, set[str]]


def sources(code: Path) -> list[Path]:
    """All source files of the four packages: Python, C, and templates."""
    suffixes = {".py", ".c", ".h", ".jinja"}
    return sorted(f for p in PACKAGES for f in (code / p).rglob("*") if f.suffix in suffixes)


def import_graph(code: Path, package: str) -> Graph:
    """Module → the modules of the same package that it imports, from grimp."""
    sys.path.insert(0, str(code))
    import grimp

    graph = grimp.build_graph(package, cache_dir=None)
    return {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}


def circles(graph: Graph) -> list[set[str]]:
    """Sets of nodes that import one another, directly or through others."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        reach[start] = seen
    found = {frozenset(n for n in reach[a] if a in reach[n]) for a in graph if a in reach[a]}
    return [set(circle) for circle in found]


def longest_chain(graph: Graph) -> list[str]:
    """The longest chain of imports; a circle counts as one node with the name of its first."""
    head = {m: min(c) for c in circles(graph) for m in c}
    merged: Graph = defaultdict(set)
    for module, targets in graph.items():
        one = head.get(module, module)
        merged[one] |= {head.get(t, t) for t in targets} - {one}
    known: dict[str, list[str]] = {}

    def chain(module: str) -> list[str]:
        if module not in known:
            tails = [chain(t) for t in sorted(merged.get(module, ()))]
            known[module] = [module, *max(tails, key=len, default=[])]
        return known[module]

    return max((chain(m) for m in sorted(merged)), key=len)


def by_room(graph: Graph, depth: int) -> Graph:
    """The same graph between rooms: the first `depth` parts of each module's name."""
    rooms: Graph = defaultdict(set)
    for module, targets in graph.items():
        room = ".".join(module.split(".")[:depth])
        rooms[room] |= {".".join(t.split(".")[:depth]) for t in targets} - {room}
    return dict(rooms)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def private_uses(path: Path) -> Counter[str]:
    """Uses of private names of third-party libraries: imports of them, and attributes.

    An attribute counts where the name before the first dot was imported from such a library. Uses
    through an object whose type the syntax does not show are not seen.
    """
    tree = ast.parse(path.read_text())
    imported: dict[str, str] = {}
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            library = node.module.split(".")[0]
            for alias in node.names:
                imported[alias.asname or alias.name] = library
                private = re.search(r"(^|\.)_[a-z]", f"{node.module}.{alias.name}")
                if library in THIRD_PARTY and private:
                    found[library] += 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            base: ast.expr = node.value
            while isinstance(base, ast.Attribute | ast.Call | ast.Subscript):
                base = base.func if isinstance(base, ast.Call) else base.value
            library = imported.get(base.id, "") if isinstance(base, ast.Name) else ""
            if library in THIRD_PARTY:
                found[library] += 1
    return found


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Docstrings of modules, classes, functions, and of the fields of classes."""
    for node in ast.walk(tree):
        constant = node.value if isinstance(node, ast.Expr) else None
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
            yield constant.value.strip()


def report(code: Path) -> None:
    """Prints all counts of a checkout."""
    files = sources(code)
    python = {f: ast.parse(f.read_text()) for f in files if f.suffix == ".py"}
    lines = {f: len(f.read_text().splitlines()) for f in files}
    print(f"source lines ({', '.join(PACKAGES)}; .py .c .h .jinja): {sum(lines.values()):,}")
    for package in PACKAGES:
        print(f"    {package}: {sum(n for f, n in lines.items() if package in f.parts):,}")
    print(f"files over 400 lines: {sum(n > 400 for n in lines.values())}")
    long = [
        f"{f.relative_to(code)}:{node.name} ({node.end_lineno - node.lineno + 1})"
        for f, tree in python.items()
        for node in functions(tree)
        if node.end_lineno and node.end_lineno - node.lineno + 1 > 60
    ]
    print(f"functions over 60 lines: {len(long)}", *long, sep="\n    ")
    graph = import_graph(code, "preprocessing")
    chain = longest_chain(graph)
    print(f"import depth of preprocessing: {len(chain)}: {' > '.join(chain)}")
    found = circles(graph)
    print(f"import circles among modules of preprocessing: {len(found)}", *found, sep="\n    ")
    rooms = by_room(graph, 2)
    chain = longest_chain(rooms)
    print(f"depth of its rooms: {len(chain)}: {' > '.join(chain)}")
    found = circles(rooms)
    print(f"import circles among its rooms: {len(found)}", *found, sep="\n    ")
    top = [f for f in (code / "preprocessing").glob("*.py") if f.name != "__init__.py"]
    print(f"files at the top of preprocessing: {len(top)}")
    uses = {f: private_uses(f) for f in python}
    for library in THIRD_PARTY:
        where = {str(f.relative_to(code)): n[library] for f, n in uses.items() if n[library]}
        if where:
            one = max(where, key=lambda f: where[f])
            outside = sum(where.values()) - where[one]
            print(f"private names of {library}: {sum(where.values())} in {len(where)} files,")
            print(f"    {outside} outside the one with most: {where}")
    starts = Counter(
        words[0] for tree in python.values() for d in docstrings(tree) if (words := d.split())
    )
    fragments = {word: starts[word] for word in FRAGMENTS if starts[word]}
    print(f"docstrings that begin with a fragment: {sum(fragments.values())} {fragments}")


def main() -> None:
    """Parses the command line and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout to count")
    report(parser.parse_args().code.resolve())


if __name__ == "__main__":
    main()

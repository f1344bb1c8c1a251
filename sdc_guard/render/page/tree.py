"""The watched model as a tree, with its findings and the place where it first went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sdc_guard.document.schema import Entry, Report
from sdc_guard.document.text import module_name
from sdc_guard.document.verdicts import SEVERITY
from sdc_guard.render.page.groups import first_entry
from sdc_guard.render.page.text import counted, short_op


@dataclass
class Node:
    """A module; ``own`` are its findings, ``num_below`` counts those of all modules inside, and
    modules of equal ``shape`` have the same classes under the same names all the way down."""

    name: str
    path: str
    kind: str = ""
    own: list[Entry] = field(default_factory=list)
    children: dict[str, Node] = field(default_factory=dict)
    num_below: int = 0
    shape: int = 0
    first: Entry | None = None

    @property
    def count(self) -> int:
        return sum(e.finding.repeats for e in self.own)

    @property
    def verdict(self) -> str:
        """The worst verdict of its own findings, "" without any."""
        return min((e.verdict.value for e in self.own), key=SEVERITY.index, default="")

    @property
    def ops(self) -> list[str]:
        return list(dict.fromkeys(short_op(e.finding.op) for e in self.own))


@dataclass(frozen=True)
class Row:
    """One line of the tree: a module at its depth, or a word on equal ones left out."""

    depth: int
    node: Node | None
    note: str = ""


@dataclass(frozen=True)
class Tree:
    """``rows`` from the root down; ``num_more`` rows did not fit."""

    rows: tuple[Row, ...]
    num_modules: int
    num_more: int
    first: Entry | None


def tree_of(report: Report, *, max_rows: int) -> Tree | None:
    """The tree of the run with the most modules, and of every module that has a finding; None
    where no module is known at all."""
    modules = max((run.modules for run in report.runs), key=len, default=())
    findings = [e for e in report.findings if e.verdict.value != "not tested"]
    if not modules and not any(e.finding.module for e in findings):
        return None
    root = Node("(model)", "")
    for module in modules:
        _at(root, module.name).kind = module.kind
    for entry in findings:
        _at(root, _path(entry)).own.append(entry)
    first = first_entry(report)
    if first is not None:
        _at(root, _path(first[0])).first = first[0]
    _count(root)
    rows = list(_rows(root))
    kept = _kept(rows, max_rows)
    return Tree(rows=tuple(kept), num_modules=len(modules), num_more=len(rows) - len(kept),
                first=first[0] if first is not None else None)


def _path(entry: Entry) -> str:
    module = entry.finding.module
    return module_name(module) if module == "?" else module


def _at(root: Node, path: str) -> Node:
    node = root
    for depth, part in enumerate(path.split(".")[:64] if path else ()):
        if part not in node.children:
            inside = ".".join(path.split(".")[:depth + 1])
            node.children[part] = Node(part, inside)
        node = node.children[part]
    return node


def _count(node: Node) -> int:
    node.num_below = sum(_count(child) for child in node.children.values())
    node.shape = hash((node.kind, *((c.name, c.shape) for c in node.children.values())))
    return node.num_below + node.count


def _rows(root: Node) -> Iterator[Row]:
    """Depth first; of sisters without a finding that look alike (``blocks.1`` ... ``blocks.11``)
    the first is shown and the others are counted."""
    stack: list[tuple[int, Node | None, str]] = [(0, root, "")]
    while stack:
        depth, node, note = stack.pop()
        yield Row(depth, node, note)
        if node is None:
            continue
        following: list[tuple[int, Node | None, str]] = []
        seen: set[int] = set()
        num_alike = 0
        for child in node.children.values():
            is_numbered = child.name.isdigit()
            if is_numbered and child.shape in seen and not child.num_below and not child.count:
                num_alike += 1
                continue
            seen.add(child.shape)
            following.append((depth + 1, child, ""))
        if num_alike:
            following.append((depth + 1, None, f"{counted(num_alike, 'more module')} alike, "
                                               "without a finding"))
        stack.extend(reversed(following))


def _kept(rows: Sequence[Row], max_rows: int) -> list[Row]:
    """The rows with findings in or below them, and as many of the others as fit, in order."""
    if len(rows) <= max_rows:
        return list(rows)
    marked = [i for i, row in enumerate(rows)
              if row.node is not None and (row.node.count or row.node.num_below)][:max_rows]
    chosen = set(marked)
    for i in range(len(rows)):
        if len(chosen) >= max_rows:
            break
        chosen.add(i)
    return [row for i, row in enumerate(rows) if i in chosen]

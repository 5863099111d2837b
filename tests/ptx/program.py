"""PTX as basic blocks of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import networkx

END = 1 << 30
"""The block after the last one."""

_SKIPPED = (".loc", ".file", ".pragma", ".section", "{", "}", ".version", ".target", ".address_size")
_YIELDS = re.compile(r"(atom|red)\.|ld\.global\S*\.acquire|bar\.sync|barrier\.sync")


class UnsupportedError(Exception):
    """An instruction that the checker does not know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        line: its number in the text.
        predicate: the register that says for which threads it counts, or "".
        negated: whether it counts where the register is 0.
        name: its words, such as ("add", "f32").
        operands: as they are written; those in braces are one.
    """

    line: int
    predicate: str
    negated: bool
    name: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass
class Block:
    """Instructions of which threads run all or none.

    Attributes:
        branch: what ends it; its threads go to `target` if it counts for them, else to `following`.
        target, following: the number of a block, or END.
    """

    instructions: list[Instruction] = field(default_factory=list)
    branch: Instruction | None = None
    target: int = END
    following: int = END

    @property
    def successors(self) -> set[int]:
        """Where its threads may go."""
        if self.branch is None:
            return {self.following}
        return {self.target} | ({self.following} if self.branch.predicate else set())


@dataclass
class Program:
    """A kernel.

    Attributes:
        blocks: in an order in which threads that part meet again if those that are furthest behind run first: what
            follows a branch comes before where its ways meet, and a loop before what follows it.
        registers: name → kind and bits, such as "b32" and "pred".
        parameters: name → kind, in order.
        constants: name → the bytes of a table.
        local: bytes of memory of a thread.
        grain: bytes of the smallest access to shared memory.
    """

    blocks: list[Block]
    registers: dict[str, str]
    parameters: dict[str, str]
    constants: dict[str, bytes]
    local: int
    grain: int


def parsed(text: str) -> Program:
    """A kernel's PTX."""
    bare = re.sub(r"//[^\n]*", "", text)
    entry = re.search(r"\.entry\s+\w+\s*\((.*?)\)", bare, re.DOTALL)
    assert entry is not None, "the text has no kernel"
    end = bare.index("\n}", entry.end())
    body = bare[entry.end() : end]
    registers: dict[str, str] = {}
    for kind, name, count in re.findall(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>;", body):
        registers |= {f"%{name}{i}": kind for i in range(int(count))}
    registers |= {f"%{name}": kind for kind, name in re.findall(r"\.reg\s+\.(\w+)\s+%(\w+);", body)}
    tables = re.findall(r"\.global \.align \d+ \.b8 (\S+)\[(\d+)\] = \{([^}]*)\}", bare)
    local = re.search(r"\.local .*?\[(\d+)\]", body)
    return Program(
        _blocks(body, bare.count("\n", 0, entry.end()) + 1),
        registers,
        {name: kind for kind, name in re.findall(r"\.param \.(\w+).*?(\w+)\s*(?:,|$)", entry[1])},
        {n: bytes(int(v, 0) for v in values.split(",")).ljust(int(size), b"\0") for n, size, values in tables},
        int(local[1]) if local else 0,
        min([_bytes(kind) for kind in re.findall(r"(?:ld|st)\.shared\S*\.\w?(\d+)\b", body)] or [16]),
    )


def _bytes(bits: str) -> int:
    return int(bits) // 8


_DIRECTIVES = (".reg", ".local", ".reqntid", ".maxntid", ".maxnreg", ".minnctapersm")


def _blocks(text: str, first: int) -> list[Block]:
    """All blocks of a text whose first line has this number; threads start at the first."""
    blocks, labels = [Block()], {}
    jumps: list[tuple[Block, str]] = []
    for number, line in enumerate(text.splitlines(), first):
        for part in map(str.strip, line.split(";")):
            while (label := re.match(r"(\$?\w+):\s*", part)) is not None:
                labels[label[1]] = len(blocks)
                blocks.append(Block())
                part = part[label.end() :]
            if not part or part.startswith((*_SKIPPED, *_DIRECTIVES)):
                continue
            one = _instruction(number, part)
            if one.name[0] in ("bra", "ret", "exit"):
                blocks[-1].branch = one
                if one.name[0] == "bra":
                    jumps.append((blocks[-1], one.operands[0]))
                blocks.append(Block())
                continue
            blocks[-1].instructions.append(one)
            if _YIELDS.match(".".join(one.name)):
                blocks.append(Block())
    for block, name in jumps:
        block.target = labels[name]
    for i, block in enumerate(blocks[:-1]):
        block.following = i + 1
    order = _ordered(blocks)
    rank = {old: new for new, old in enumerate(order)} | {END: END}
    for old in order:
        blocks[old].target, blocks[old].following = (
            rank.get(i, END) for i in (blocks[old].target, blocks[old].following)
        )
    return [blocks[i] for i in order]


def _ordered(blocks: list[Block]) -> list[int]:
    """The numbers of the blocks that can be reached, in the order that `Program.blocks` has."""
    graph = networkx.DiGraph((i, j) for i, block in enumerate(blocks) for j in block.successors if j != END)
    graph.add_node(0)
    graph = graph.subgraph({0} | networkx.descendants(graph, 0))
    order: list[int] = []

    def place(nodes: set[int], entry: int) -> None:
        """Add the blocks of a loop, or of all, which is entered at one of them."""
        without = networkx.DiGraph((i, j) for i, j in graph.subgraph(nodes).edges if j != entry)
        without.add_nodes_from(nodes)
        parts = networkx.condensation(without)
        for part in networkx.topological_sort(parts):
            inner = parts.nodes[part]["members"]
            if len(inner) == 1:
                order.extend(inner)
                continue
            place(inner, min(i for i in inner if any(j not in inner for j in graph.predecessors(i))))

    place(set(graph.nodes), 0)
    return order


def _instruction(line: int, text: str) -> Instruction:
    found = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", text)
    if found is None:
        raise UnsupportedError(f"line {line}: {text}")
    negated, predicate, name, rest = found.groups()
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
    return Instruction(
        line, predicate or "", negated == "!", tuple(name.replace("::", ".").split(".")), tuple(operands)
    )

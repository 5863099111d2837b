"""What `LEFT_OUT` of kernels/hot.py has to be with the tiles of the table: the kernels that spill.

python -m bench.left_out 90 "tanh, half"    # an architecture, and a part of "network, kind of product"

Compiles each kernel that the package may bring, seconds each; exits with 1 where the answer is another than the file's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from gradnets_fast.kernels import compiler, configuration, hot

Place = tuple[int, str, str, str]
Widths = tuple[tuple[int, ...], tuple[int, ...]]


def fits(architecture: int, launch: compiler.Launch) -> bool:
    """Whether a kernel neither spills nor takes more shared memory than there is."""
    return compiler.Resources.of(compiler.compiled(launch, architecture)).fits(architecture)


def found(architecture: int, words: str) -> dict[Place, Widths]:
    """The entries of LEFT_OUT for "network, kind" with these words."""
    listed = [(key, launch) for key, launch in hot.wanted(architecture) if words in f"{key[0]}, {key[1]}"]
    spilled: dict[Place, tuple[set[int], set[int]]] = {}
    with ProcessPoolExecutor() as pool:
        answers = pool.map(fits, [architecture] * len(listed), [launch for _, launch in listed])
        for ((name, kind, d, even), launch), answer in zip(listed, answers):
            if not answer:
                place = (architecture, name, launch.kernel, kind)
                spilled.setdefault(place, (set(), set()))[not even].add(d)
                print(*place, d, "even" if even else "uneven", flush=True)
    return {place: (tuple(sorted(even)), tuple(sorted(odd))) for place, (even, odd) in sorted(spilled.items())}


def present(architecture: int, words: str) -> Iterator[tuple[Place, Widths]]:
    """Those of the file."""
    for place, widths in hot.LEFT_OUT.items():
        if place[0] == architecture and words in f"{place[1]}, {place[3]}":
            yield place, widths


def main(arguments: list[str]) -> int:
    """The exit code."""
    architectures = [int(word) for word in arguments[:1]] or list(configuration.ARCHITECTURES)
    words = " ".join(arguments[1:])
    same = True
    for architecture in architectures:
        now = found(architecture, words)
        same &= now == dict(present(architecture, words))
        for place, widths in now.items():
            print(f"    {place}: {widths},")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Builds the site from docs/*.md, the examples and the docstrings, warnings being errors, and follows its links.

python -m docs.site build/docs
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from docs.site import links, staging
from gradnets_fast.errors import message

HERE = Path(__file__).parent


def build(out: Path, gallery: bool = True) -> None:
    """Writes the site to a folder; exits where Sphinx warns or a link leads nowhere.

    Args:
        out: the folder, whose former content goes but for what a build uses again.
        gallery: whether the examples run; without, their pages have no pictures.
    """
    import torch
    from sphinx.cmd.build import main as sphinx

    started = time.monotonic()
    work = out.with_name(f"{out.name}-work")
    sources, doctrees = work / "sources", work / "doctrees"
    staging.write(sources)
    shutil.rmtree(out, ignore_errors=True)
    options = ["-W", "--keep-going", "-n", "-q", "-E", "-b", "html", "-c", str(HERE), "-d", str(doctrees)]
    if not gallery:
        options += ["-D", "plot_gallery=0"]
    os.environ["MPLBACKEND"] = "Agg"
    torch.set_num_threads(1)  # the examples are small, and machines that build sites are shared
    status = sphinx([*options, str(sources), str(out)])
    if status:
        sys.exit("docs.site: Sphinx has warned, above; mend it, or the site is not built")
    broken = links.broken(out)
    if broken:
        sys.exit("\n".join(["docs.site: links that lead nowhere:", *broken]))
    pages = len(list(out.rglob("*.html")))
    print(f"docs.site: {pages} pages in {time.monotonic() - started:.0f} s: {out / 'index.html'}")


def main() -> None:
    """Builds the site."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--no-gallery", action="store_true", help="do not run the examples, for a quick look at a text")
    arguments = parser.parse_args()
    if arguments.out.exists() and not (arguments.out / "index.html").exists() and any(arguments.out.iterdir()):
        fix = "name another folder: a build deletes what is there"
        sys.exit(message("docs.site", "out", "an empty folder, or one with a site", str(arguments.out), fix))
    build(arguments.out.resolve(), gallery=not arguments.no_gallery)


if __name__ == "__main__":
    main()

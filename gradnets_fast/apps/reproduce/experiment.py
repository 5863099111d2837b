"""What an experiment is: units of work, each with its result, and the table and figures made of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...errors import message

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings = Mapping[str, Any]
"""What a run is made with, by name: plain JSON values."""
Case = Mapping[str, Any]
"""What tells one unit of work from the others, its seed included: plain JSON values."""
Row = dict[str, Any]
"""What was found of one case: plain JSON values."""

EXTRAS = {"density": ("sklearn", "zuko"), "images": ("skimage",), "reproduce": ("ot", "pywt", "skimage", "torchdiffeq")}
"""The modules that an extra of pyproject.toml installs, as far as experiments need them."""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: as on the command line.
        title: one sentence: what is compared with what.
        source: paper and equation or table, or where the setting comes from.
        settings: of a full run.
        quick: what `--quick` changes of them; such a run takes less than a minute on two cores.
        cases: settings -> the cases, in the order in which they run; equal settings give equal cases.
        run: (case, settings) -> its row.  The random numbers of PyTorch are seeded with the case's "seed", or 0.
        table: rows -> Markdown.  Here and in `figures` a row is that of `run` with the case's own entries, and
            "seconds", which it took.
        figures: (rows, settings) -> figures by name; there may be none.
        extra: the extra of pyproject.toml that it needs, a name in EXTRAS.
    """

    name: str
    title: str
    source: str
    settings: Settings
    quick: Settings
    cases: Callable[[Settings], Sequence[Case]]
    run: Callable[[Case, Settings], Row]
    table: Callable[[Sequence[Row]], str]
    figures: Callable[[Sequence[Row], Settings], Mapping[str, Figure]]
    extra: str | None = None

    def chosen(self, quick: bool, seeds: int | None) -> Settings:
        """The settings of a run.

        Raises:
            ValueError: there are seeds to choose, and the experiment has none.
        """
        settings = {**self.settings, **(self.quick if quick else {})}
        if seeds is None:
            return settings
        if "seeds" not in settings:
            fix = "leave --seeds out"
            raise ValueError(message("reproduce", "seeds", f"none, as {self.name} has no seeds", seeds, fix))
        return {**settings, "seeds": seeds}

    def check_installed(self) -> None:
        """Raises ModuleNotFoundError, with what to install, where the extra is missing."""
        lacking = [name for name in EXTRAS[self.extra] if find_spec(name) is None] if self.extra else []
        if lacking:
            fix = f"pip install 'gradnets_fast[{self.extra}]'"
            expected = f"what the extra {self.extra} installs"
            raise ModuleNotFoundError(message("reproduce", self.name, expected, f"no {', '.join(lacking)}", fix))

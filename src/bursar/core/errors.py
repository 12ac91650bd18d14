"""Every error that a person may see is a BursarError: one sentence, one stable code, one status."""

from collections.abc import Mapping
from typing import Any, ClassVar

EXIT_CODES = {401: 4, 403: 4, 404: 3, 409: 5}  # everything else ends a command with 1


class BursarError(Exception):
    """The base of all errors; the class stands above the function that raises it.

    The docstring of each class is its line in docs/reference/errors.md.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    exit_code: ClassVar[int]
    registry: ClassVar[dict[str, type["BursarError"]]] = {}
    by_sqlstate: ClassVar[dict[str, type["BursarError"]]] = {}

    def __init_subclass__(
        cls, *, status: int, code: str, exit_code: int | None = None, sqlstate: str | None = None
    ) -> None:
        """`sqlstate` is what functions in the database raise for it (core/database_errors.py)."""
        super().__init_subclass__()
        cls.status, cls.code = status, code
        cls.exit_code = EXIT_CODES.get(status, 1) if exit_code is None else exit_code
        if code in BursarError.registry:
            raise TypeError(f"two errors share the code {code}")
        BursarError.registry[code] = cls
        if sqlstate is not None:
            BursarError.by_sqlstate[sqlstate] = cls

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
        **extra: Any,
    ) -> None:
        """`errors` points at each bad field; `extra` becomes members of the problem document."""
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors
        self.extra = extra


class NotFound(BursarError, status=404, code="not_found"):
    """There is nothing at this address, or it is not yours."""


class InvalidInput(BursarError, status=422, code="invalid_input"):
    """One or more fields are wrong; `errors` points at each of them."""

    @classmethod
    def at(cls, pointer: str, detail: str, code: str = "value_error") -> "InvalidInput":
        """The error for one field, named by its JSON pointer."""
        return cls(detail, errors=[{"pointer": pointer, "detail": detail, "code": code}])

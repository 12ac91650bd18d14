"""While an Embedded is entered its database runs, and when it is left nothing of it does."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bursar.core.embedded.account import StopRequested
from bursar.core.embedded.errors import EmbeddedError
from bursar.core.embedded.folder import DATABASE, OWNER, Address
from bursar.core.embedded.keeper import Orders, keep


class Embedded:
    """The server of one data folder: started or taken over on entering, stopped on leaving.

    All work is done in a thread of its own, so that a signal which interrupts the main program
    never interrupts a start or a stop halfway. `say` gets each line that a person should read.
    If the server keeps dying, `failed` is called with the error, from that thread; it is also in
    `failure`, and is raised on leaving.
    """

    def __init__(
        self,
        data: Path,
        *,
        say: Callable[[str], None],
        failed: Callable[[EmbeddedError], None] | None = None,
    ) -> None:
        self._data = data
        self._say = say
        self._failed = failed
        self._address: Address | None = None
        self._bug: BaseException | None = None
        self.failure: EmbeddedError | None = None

    @property
    def address(self) -> Address:
        """Where the server can be reached; the same after each restart."""
        if self._address is None:
            raise EmbeddedError("The database is not running.")
        return self._address

    def url(self, role: str = OWNER, database: str = DATABASE) -> str:
        return self.address.url(role, database)

    def __enter__(self) -> "Embedded":
        self._process_id = os.getpid()
        self._orders = Orders()
        self._settled = threading.Event()  # it runs, or it never will
        self._over = threading.Event()
        self.failure = self._bug = None
        self._thread = threading.Thread(target=self._work, name="embedded-postgres")
        try:
            self._thread.start()
            self._settled.wait()
            self._raise_failure()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if error is None:
            self._raise_failure()

    def _work(self) -> None:
        try:
            keep(self._data, say=self._say_safely, orders=self._orders, ready=self._set_ready)
        except StopRequested:
            pass
        except EmbeddedError as error:
            self.failure = error
            if self._settled.is_set() and self._failed is not None:
                self._failed(error)
        except BaseException as error:
            self._bug = error
        finally:
            self._settled.set()
            self._over.set()

    def _say_safely(self, line: str) -> None:
        with suppress(Exception):  # a closed terminal is no reason to lose the database
            self._say(line)

    def _set_ready(self, address: Address) -> None:
        self._address = address
        self._settled.set()

    def _raise_failure(self) -> None:
        problem = self.failure or self._bug
        if problem is not None:
            raise problem

    def _end(self) -> None:
        """Stop and wait for the end; an interruption of that means: faster, not by halves."""
        if os.getpid() != self._process_id:
            return  # a forked child that leaves the block is not who entered it
        interrupted: BaseException | None = None
        while True:
            try:
                self._orders.request_stop()
                # Not join(): interrupted, it takes the thread for ended (Python 3.11 and 3.12).
                if self._thread.ident is not None:
                    self._over.wait()
                break
            except BaseException as error:
                interrupted = error
                self._orders.hurry.set()
        self._orders.close()
        self._address = None
        if interrupted is not None:
            raise interrupted

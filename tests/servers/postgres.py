"""A real PostgreSQL for tests, on a Unix socket in its own folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from stream_worker.errors import UserError
from stream_worker.lifeline import tied

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian keeps what PATH lacks, a folder a version."""
UNPRIVILEGED = "nobody"
"""Who it runs as where the tests run as root, which PostgreSQL refuses."""
QUICK = {"fsync": "off", "full_page_writes": "off", "max_connections": "50", "shared_buffers": "16MB"}
USER = "tester"
STOP_S = 20.0


def installed() -> Path | None:
    """The folder of initdb and postgres, of the newest version that Debian has where PATH has none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [one.parent for one in DEBIAN.glob("*/bin/initdb")]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


class PostgresServer:
    """One server with its data in `folder`, which becomes its user's. It dies with the thread that started it."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder.absolute()
        self._programs = programs
        self._user = pwd.getpwnam(UNPRIVILEGED) if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server's first process, which takes connections."""
        assert self._process is not None
        return self._process.pid

    def variables(self, database: str) -> dict[str, str]:
        """The variables that name a database of this server to libpq's programs."""
        return {"PGHOST": str(self._folder), "PGUSER": USER, "PGDATABASE": database}

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the superuser, every statement committed by itself."""
        return psycopg.connect(host=str(self._folder), user=USER, dbname=database, autocommit=True)

    def start(self, timeout_s: float = 60.0) -> None:
        """Start (again, on the same data) and return when it answers."""
        data = self._folder / "data"
        if not data.exists():
            if self._user is not None:
                os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
            self._initialize(data)
        options = [f"{name}={value}" for name, value in QUICK.items()]
        where = ["-D", str(data), "-k", str(self._folder), "-h", ""]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                tied(self._own("postgres", *where, *(part for option in options for part in ("-c", option)))),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = (self._folder / "server.log").read_text(errors="replace")
                raise UserError(f"PostgreSQL did not start: {said[-1000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash would; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(STOP_S)
            finally:
                self._process.kill()
                self._process = None

    def _initialize(self, data: Path) -> None:
        options = ["-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(self._own("initdb", *options), cwd=self._folder, capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"initdb failed: {made.stderr[-1000:]}")

    def _own(self, program: str, *arguments: str) -> list[str]:
        """The command line of a program of PostgreSQL's, without the rights of root.

        SIGQUIT at the parent's death, and not SIGKILL: it ends its children and gives its shared memory back.
        """
        user = self._user
        drop = [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return ["setpriv", *drop, "--pdeathsig=QUIT", str(self._programs / program), *arguments]

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

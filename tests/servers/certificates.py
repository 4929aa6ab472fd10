"""Certificates as an authority of one's own would make them: the openssl program's, made anew for every test run."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

EXPIRED = ("20200101000000Z", "20200201000000Z")
"""From when to when."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key (PKCS 8), as PEM files. `both`: one file with the two of them."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """A private authority in a folder: its certificate, and those that it signs."""

    def __init__(self, folder: Path, name: str = "an authority for tests") -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.ca_file = folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\nunique_subject=no\n"
            "default_md=sha256\npolicy=any\ncopy_extensions=copy\n[any]\ncommonName=supplied\n"
        )
        subject = ["-subj", f"/CN={name}"]
        self._openssl("req", "-x509", *_KEY, "-days", "30", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", *subject)

    def sign(
        self,
        name: str,
        *hosts: str,
        validity: tuple[str, str] | None = None,
        password: str | None = None,
        common_name: str | None = None,
    ) -> Certificate:
        """A certificate for `CN=name`, and for these hosts (`DNS:localhost`, `IP:127.0.0.1`).

        `validity`: other times than from now on for 30 days. `password`: of the key. `common_name`: not `name`, which
        is then that of the files alone.
        """
        extension = ["-addext", f"subjectAltName={','.join(hosts)}"] if hosts else []
        locked = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        self._openssl(
            *(
                "req",
                "-new",
                *_KEY,
                *locked,
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.csr",
                "-subj",
                f"/CN={common_name or name}",
            ),
            *extension,
        )
        times = ["-startdate", validity[0], "-enddate", validity[1]] if validity else ["-days", "30"]
        self._openssl(
            *("ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", *times),
            *("-in", f"{name}.csr", "-out", f"{name}.pem"),
        )
        made = Certificate(*(self._folder / f"{name}.{kind}" for kind in ("pem", "key", "both")))
        made.both.write_bytes(made.key.read_bytes() + made.certificate.read_bytes())
        return made

    def keystore(self, certificate: Certificate, password: str) -> Path:
        """The same as a PKCS 12 file, as Java programs want it."""
        file = certificate.both.with_suffix(".p12")
        self._openssl(
            "pkcs12", "-export", "-in", str(certificate.both), "-out", str(file), "-passout", f"pass:{password}"
        )
        return file

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


_KEY = ("-newkey", "rsa:2048")


def available() -> bool:
    """Whether this machine has the program."""
    return shutil.which("openssl") is not None

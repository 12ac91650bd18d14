"""A mail server as a process of its own, which does what a file in its folder says at the moment.

python -m tests.smtp_program '{"folder": "/tmp/…", "security": "starttls", "password": "…"}'
"""

import asyncio
import datetime as dt
import ipaddress
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.programs import new_folder, until

USER = "bursar"


class MailServer:
    """The server as a test sees it: what it does next, and the mails that it has taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def port(self) -> int:
        return int((self.folder / "port").read_text())

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    def mode(self, word: str) -> None:
        """accept · 451 · 550 · quote · drop · hold (has taken the mail, does not say so yet)"""
        draft = self.folder / "mode.draft"
        draft.write_text(word)
        draft.rename(self.folder / "mode")

    def envelopes(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def mails(self) -> list[EmailMessage]:
        taken = [
            message_from_string(one["data"], policy=policy.default) for one in self.envelopes()
        ]
        return [mail for mail in taken if isinstance(mail, EmailMessage)]

    def settings(self, **given: Any) -> dict[str, Any]:
        """What a worker needs to send by this server."""
        place = {"smtp_host": "127.0.0.1", "smtp_port": self.port, "smtp_security": "none"}
        return {**place, "mail_from": "billing@acme.example", **given}


@contextmanager
def mail_server(security: str = "none", password: str = "") -> Iterator[MailServer]:
    server = MailServer(new_folder())
    server.mode("accept")
    if security != "none":
        make_certificate(server.folder)
    options = {"folder": str(server.folder), "security": security, "password": password}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.smtp_program", json.dumps(options)],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.DEVNULL,  # what it says of connections that break
    )
    try:
        until(lambda: (server.folder / "port").exists(), "the mail server's port")
        yield server
    finally:
        process.kill()
        process.wait(10)


def make_certificate(folder: Path) -> None:
    """One that only whoever is told to trust it believes."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail of a test")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1)).add_extension(here, False)
    signed = builder.sign(key, hashes.SHA256())
    (folder / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Handler:
    """Answers as the file `mode` says; each mail that it takes becomes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken = 0

    @property
    def mode(self) -> str:
        return (self.folder / "mode").read_text()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, _: list[str]
    ) -> str:
        if self.mode == "451":
            return f"451 4.7.1 <{address}> come back later"
        if self.mode == "550":
            return f"550 5.1.1 <{address}> is nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        data = envelope.content.decode()
        if self.mode == "quote":
            plain = message_from_string(data, policy=policy.default).get_body(("plain",))
            (link,) = re.findall(r"https?://\S+", plain.get_content())  # type: ignore[union-attr]
            (token,) = re.findall(r"token=([\w-]+)", link)
            return f"554 5.7.1 is {link} a trap? token {token} looks like one"
        if self.mode == "drop":
            server.transport.abort()
            return "451 nobody hears this"
        self.keep({"from": envelope.mail_from, "to": envelope.rcpt_tos, "data": data})
        while self.mode == "hold":
            await asyncio.sleep(0.02)
        return "250 taken"

    def keep(self, envelope: dict[str, Any]) -> None:
        self.taken += 1
        draft = self.folder / "draft"
        draft.write_text(json.dumps(envelope))
        draft.rename(self.folder / f"{self.taken:04}.json")


async def main(options: dict[str, Any]) -> None:
    from aiosmtpd.smtp import SMTP, AuthResult

    folder, security = Path(options["folder"]), options["security"]
    handler, how = Handler(folder), dict[str, Any]()
    context = None
    if security != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    if security == "starttls":
        how |= {"tls_context": context, "require_starttls": True}
    if options["password"]:

        def authenticate(*given: Any) -> Any:
            said = given[-1]
            right = (said.login, said.password) == (USER.encode(), options["password"].encode())
            return AuthResult(success=right, handled=False)

        how |= {"authenticator": authenticate, "auth_required": True}
        how |= {"auth_require_tls": security == "starttls"}
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="mail.test", **how),
        "127.0.0.1",
        0,
        ssl=context if security == "tls" else None,
    )
    draft = folder / "port.draft"
    draft.write_text(str(server.sockets[0].getsockname()[1]))
    draft.rename(folder / "port")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

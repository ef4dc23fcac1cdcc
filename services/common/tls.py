"""Certificates: of a server, read again when their files change, and of a client."""

import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.settings import PREFIX, ClientSettings, SettingsError

logger = logging.getLogger(__name__)
SYSTEM = "system"
"""Stands for the certificates that everybody trusts, as they come with grpc."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerTls:
    """The files of a server's certificate."""

    cert: Path
    """Certificate and its chain, PEM."""
    key: Path
    """Its private key, PEM, without a password."""
    client_ca: Path | None = None
    """Certificates, PEM, one of which must have signed that of every client; None asks clients for none."""
    prefix: str
    """What the names of the settings begin with: "PAPERROUTE_GATEWAY__TLS_"."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials; new connections get what the files hold by then.

        Raises:
            SettingsError: a file cannot be read, holds something else, or the key is not that of the certificate.
        """
        changed = _Changed(self)
        return grpc.dynamic_ssl_server_credentials(
            changed.first(),
            changed,  # type: ignore[arg-type] # None means no change: so says grpc, but not its types
            require_client_authentication=self.client_ca is not None,
        )

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return what the files hold.

        Raises:
            SettingsError: as above.
        """
        cert = _checked(f"{self.prefix}CERT", self.cert, _is_certificate)
        key = _checked(f"{self.prefix}KEY", self.key, lambda path: _fits(self.cert, path))
        roots = _checked(f"{self.prefix}CLIENT_CA", self.client_ca, _is_certificate) if self.client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when one of the files is replaced or written.

        Raises:
            OSError: one is not there.
        """
        found = [path.stat() for path in (self.cert, self.key, self.client_ca) if path]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


class _Changed:
    """Tells grpc before each handshake, in one of its threads, whether there are new certificates."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen: object = None

    def first(self) -> grpc.ServerCertificateConfiguration:
        with contextlib.suppress(OSError):  # `read` says which file is missing
            self._seen = self._tls.state()
        return self._tls.read()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            state = self._tls.state()
            if state == self._seen:
                return None
            configuration = self._tls.read()
            if self._tls.state() != state:  # they are being replaced, one after the other: the next connection looks
                return None
        except OSError:
            return None
        except SettingsError as error:
            self._seen = state
            logger.warning("new certificates cannot be used, the old ones stay: %s", error)
            return None
        self._seen = state
        logger.info("new certificates were read from %s", self._tls.cert)
        return configuration


def client_credentials(client: ClientSettings) -> grpc.ChannelCredentials | None:
    """Return the credentials for channels to a gateway; None where nothing is to be encrypted.

    Raises:
        SettingsError: a file cannot be read or holds something else, or one of certificate and key is missing.
    """
    if not (client.ca or client.client_cert or client.client_key):
        return None
    if bool(client.client_cert) != bool(client.client_key):
        raise SettingsError([f"{PREFIX}CLIENT_CERT, {PREFIX}CLIENT_KEY: both or none of them"])
    roots = None if client.ca in {"", SYSTEM} else _checked(f"{PREFIX}CA", Path(client.ca), _is_certificate)
    cert = key = None
    if client.client_cert and client.client_key:
        own = client.client_cert
        cert = _checked(f"{PREFIX}CLIENT_CERT", own, _is_certificate)
        key = _checked(f"{PREFIX}CLIENT_KEY", client.client_key, lambda path: _fits(own, path))
    return grpc.ssl_channel_credentials(roots, private_key=key, certificate_chain=cert)


def _checked(variable: str, path: Path, problem_of: Callable[[Path], str]) -> bytes:
    """Return what a file holds.

    Raises:
        SettingsError: it cannot be read, or there is a problem with it.
    """
    try:
        problem = problem_of(path)
        if not problem:
            return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror or type(error).__name__})"
    raise SettingsError([f"{variable}={str(path)!r}: {problem}"])


def _is_certificate(path: Path) -> str:
    """Return what is wrong with a file of certificates; nothing when it is one."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "holds no certificate in PEM form"
    return ""


def _fits(cert: Path, key: Path) -> str:
    """Return what is wrong with the key of a certificate; nothing when it is one."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")  # nobody is there to be asked
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"is not the key of the certificate in {str(cert)!r}"
        return "holds no private key in PEM form that can be read without a password"
    return ""

"""The way to PostgreSQL: a connection, or one sentence about what is wrong with TLS.

A DSN says all of it, as in libpq: `?sslmode=verify-full&sslrootcert=…&sslcert=…&sslkey=…`.
"""

import ssl
from typing import Any, Final, TypeAlias

import asyncpg

_Direct: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_OTHER_HOST: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_EXPIRED: Final = 10
"""X509_V_ERR_CERT_HAS_EXPIRED."""


_REFUSED: Final = (
    "the server closed the connection when it saw the certificate in sslcert of the DSN: give one that is valid and"
    " from the CA in the server's ssl_ca_file"
)


class NoTrust(ConnectionError):
    """TLS to PostgreSQL failed, for a reason that the message says with its remedy; nothing was sent in the clear."""


async def connect(dsn: str, **settings: Any) -> _Direct:
    """`asyncpg.connect`; raises NoTrust where TLS is at fault."""
    try:
        return await asyncpg.connect(dsn, **settings)
    except Exception as error:
        if (fault := tls_fault(error)) is not None:
            raise NoTrust(fault) from error
        if isinstance(error, asyncpg.ConnectionDoesNotExistError | ConnectionResetError) and "sslcert=" in dsn:
            # In TLS 1.3 a server that refuses our certificate just closes, after we believed to be connected.
            raise NoTrust(_REFUSED) from error
        raise


def tls_fault(error: BaseException) -> str | None:
    """What is wrong with TLS and what mends it; None when the fault is another."""
    match error:
        case ssl.SSLCertVerificationError():
            return _distrusted(error)
        case ssl.SSLError() if error.reason in ("NO_CERTIFICATE_OR_CRL_FOUND", "PEM_LIB", "NO_START_LINE"):
            return "sslrootcert, sslcert or sslkey of the DSN is no PEM file: give certificates and key as PEM"
        case ssl.SSLError() if error.reason == "KEY_VALUES_MISMATCH":
            return "sslkey of the DSN is not the key of the certificate in sslcert: give the two that belong together"
        case ssl.SSLError():
            return f"TLS with the server failed ({error.reason}): see its log, and sslcert and sslkey of the DSN"
        case FileNotFoundError() if error.filename is None:
            return "a file that sslrootcert, sslcert or sslkey of the DSN names does not exist: correct the path"
        case PermissionError() if error.filename is None:
            return "a file that sslrootcert, sslcert or sslkey of the DSN names may not be read: let the service's user"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return "the server does not speak TLS, which sslmode of the DSN demands: set ssl = on there"
        case asyncpg.ClientConfigurationError() if "root certificate" in str(error):
            return "sslmode of the DSN demands to know the server's CA: add sslrootcert, the path of its certificate"
        case asyncpg.InvalidAuthorizationSpecificationError() if "no encryption" in str(error):
            return "the server takes connections with TLS only: add sslmode=verify-full and sslrootcert to the DSN"
        case asyncpg.InvalidAuthorizationSpecificationError() if "client certificate" in str(error):
            return f"the server wants a certificate of the client ({error}): add sslcert and sslkey to the DSN"
        case _:
            return None


def _distrusted(error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message
    if error.verify_code in _OTHER_HOST:
        return f"the server's certificate is for another host ({said}): connect by a name that is in it"
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired: give the server a new one"
    return f"the server's certificate is not from the CA in sslrootcert of the DSN ({said}): give that CA's"

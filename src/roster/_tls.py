"""TLS for clients: the context that a URL's files make."""

from __future__ import annotations

import ssl

from roster._address import Tls
from roster.errors import ConfigError


def client_context(tls: Tls, display: str) -> ssl.SSLContext:
    """Return the context of a connection with TLS.

    Args:
        tls: which files.
        display: the URL without secrets, for the error.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be, or certificate and key are not a pair.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            # Without a password of its own OpenSSL would ask for one at the terminal, and wait.
            context.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        raise ConfigError(
            f"the TLS files of {display} cannot be used ({error}): they are PEM, the key without a password"
        ) from error
    return context

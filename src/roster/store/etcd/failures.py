"""What etcd and gRPC say when something fails, in the words of this package's errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from roster._text import safe
from roster.errors import (
    LeaseLostError,
    LimitError,
    RevisionCompactedError,
    StoreDeniedError,
    StoreError,
)

# Everything else that etcd answers is its last word on the matter.
_AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "ABORTED", "DATA_LOSS"}
# Nothing was sent, or etcd turned it away before it was proposed to the cluster.
_NOT_DONE = (
    "failed to connect to all addresses",
    "errors resolving",
    "DNS resolution failed",
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
)
# "User name is empty" is what a member says to a client without a token, after authentication was switched on.
_BAD_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
# The cancel reason of a watch, and gRPC's own texts, name the code in words.
_IN_WORDS = re.compile(r"code = (\w+) desc = (.*)", re.DOTALL)
_CODES = {"Unauthenticated": "UNAUTHENTICATED", "PermissionDenied": "PERMISSION_DENIED"}
# What gRPC says of a connection that could not be made.
_ANOTHER_NAME = "its certificate was made out to another name: write that name in the URL"
_REASONS = (
    ("Connection refused", "connection refused"),
    ("Domain name not found", "this host name is not known"),
    ("errors resolving", "its host name could not be looked up"),
    ("DNS resolution failed", "its host name could not be looked up"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not one that we trust: name its authority with ?ca=FILE",
    ),
    ("Hostname Verification Check failed", _ANOTHER_NAME),
    ("is not in peer certificate", _ANOTHER_NAME),
    ("TSI_DATA_CORRUPTED", "it does not accept our certificate: name one with ?cert=FILE&key=FILE"),
    ("Expected SETTINGS frame", "what answers there is not etcd"),
    ("before receiving SETTINGS", "it takes connections and says nothing"),
    ("Received http2 header with status", "what answers there is not etcd"),
)
# Before a connection stands, that means something else than later.
_BROKEN = ("Socket closed", "Connection reset")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    Attributes:
        code: of gRPC, such as `UNAVAILABLE`.
        text: what the server or gRPC said; not safe to show.
        compacted: the newest revision whose changes are gone, where the server says so.
    """

    NO_LEADER: ClassVar[Failure]
    LEARNER: ClassVar[Failure]
    SILENT: ClassVar[Failure]
    ENDED: ClassVar[Failure]
    GARBLED: ClassVar[Failure]

    code: str
    text: str
    compacted: int = 0

    @classmethod
    def of_reason(cls, reason: str) -> Failure:
        """Return what the cancel reason of a watch says."""
        found = _IN_WORDS.search(reason)
        if found is None:
            code = "PERMISSION_DENIED" if "permission denied" in reason else "UNAVAILABLE"
            return cls(code, reason)
        return cls(_CODES.get(found[1], "UNAVAILABLE"), found[2])

    @property
    def away(self) -> bool:
        """Whether the server is out of reach, silent or not in order: another one may do better."""
        return self.code in _AWAY or "etcdserver: too many requests" in self.text

    @property
    def not_done(self) -> bool:
        """Whether it is certain that nothing was done."""
        return any(words in self.text for words in _NOT_DONE)

    @property
    def no_leader(self) -> bool:
        """Whether the members are electing a leader, or this one is cut off from the others."""
        return self.NO_LEADER.text in self.text

    @property
    def bad_token(self) -> bool:
        """Whether the server wants to know anew who we are."""
        return any(words in self.text for words in _BAD_TOKEN)

    @property
    def reason(self) -> str:
        """The cause in a few words."""
        for words, reason in _REASONS:
            if words in self.text:
                return reason
        if any(words in self.text for words in _BROKEN):
            if "failed to connect" in self.text:
                return "it closed the connection: does it speak TLS (etcds://) or not (etcd://)?"
            return "the connection broke off"
        if self.code == "DEADLINE_EXCEEDED":
            return "no answer in time"
        return said(self.text) or self.code


Failure.NO_LEADER = Failure("UNAVAILABLE", "etcdserver: no leader")
Failure.LEARNER = Failure("UNAVAILABLE", "etcdserver: rpc not supported for learner")
Failure.SILENT = Failure("DEADLINE_EXCEEDED", "")
Failure.ENDED = Failure("UNAVAILABLE", "it broke off")
Failure.GARBLED = Failure("INTERNAL", "what it answered cannot be read: is it etcd?")


class FailedError(Exception):
    """A request failed; never leaves this package."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.code)


def said(text: str) -> str:
    """Return words of a server as one short line."""
    line = safe(text.removeprefix("etcdserver: "))
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def refusal(failure: Failure, store: str, who: str, doing: str) -> StoreError:
    """Return the error for a request that etcd answered with a no.

    Args:
        failure: the answer.
        store: the store's URL without secrets.
        who: the user, in words.
        doing: what was asked, such as `write '/ai-team/nodes/default/a'`.
    """
    text = failure.text
    if "requested lease not found" in text:
        return LeaseLostError(f"the lease of this write has ended ({doing}): grant another")
    if failure.code == "PERMISSION_DENIED" or "permission denied" in text:
        return StoreDeniedError(f"{who} may not {doing} on {store}: grant the right to a role of this user")
    if failure.bad_token:
        return StoreDeniedError(
            f"{store} asks for a user and a password: put them into the URL, or into ROSTER_REGISTRY_USER and "
            "ROSTER_REGISTRY_PASSWORD"
        )
    if "authentication failed" in text or failure.code == "UNAUTHENTICATED":
        return StoreDeniedError(f"{store} does not accept {who}: user name or password is wrong")
    if "database space exceeded" in text:
        return StoreError(
            f"{store} is full and takes no writes ({doing}): compact and defragment it or raise "
            "--quota-backend-bytes, then run etcdctl alarm disarm"
        )
    if "request is too large" in text or "larger than max" in text or "too many operations" in text:
        return LimitError(
            f"{store} takes no request of this size ({doing}): write less at once, or raise --max-request-bytes"
        )
    if "required revision" in text:
        return RevisionCompactedError(
            f"{store} does not keep this revision ({doing}): list again", failure.compacted
        )
    return StoreError(f"{store} refused to {doing}: {said(text) or failure.code}")

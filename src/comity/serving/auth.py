"""Keys of the gateway: who asks, for which tenant, and what they may do.

A key's secret is shown once, when it is made; the book of record holds its SHA-256 alone, which
is enough for a secret of 256 random bits. The tenant comes from the key and from nowhere else.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Literal, NamedTuple

from comity.memory.memory import Memory
from comity.memory.store import AccessKey
from comity.serving.wire import Refused

Role = Literal["client", "editor", "approver", "auditor", "admin"]
Act = Literal[
    "ask", "read rules", "change rules", "approve rules", "read decisions", "erase", "keys"
]

MAY: Mapping[Role, frozenset[Act]] = {
    "client": frozenset({"ask"}),
    "editor": frozenset({"ask", "read rules", "change rules"}),
    "approver": frozenset({"ask", "read rules", "approve rules"}),
    "auditor": frozenset({"read rules", "read decisions"}),
    "admin": frozenset(
        {"ask", "read rules", "change rules", "approve rules", "read decisions", "erase", "keys"}
    ),
}
"""What each role may do. Nobody but an admin may both change rules and approve them."""

_PREFIX = "comity-"


class Principal(NamedTuple):
    """Who asks."""

    key: str
    """Id of the key; stands as author in the history of rules."""
    tenant: str
    role: Role

    def may(self, act: Act) -> bool:
        """Whether the role allows it."""
        return act in MAY[self.role]


class Made(NamedTuple):
    """A new key, and the secret that is never shown again."""

    key: AccessKey
    secret: str


def create_key(memory: Memory, tenant: str, role: Role, note: str = "") -> Made:
    """Make a key for a tenant; it holds at once, in every process."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    key = AccessKey(
        id=f"k-{secrets.token_hex(6)}",
        hash=hash_of(secret),
        tenant=tenant,
        role=role,
        note=note,
        made_at=memory.clock(),
    )
    memory.store.add_key(key)
    return Made(key, secret)


def hash_of(secret: str) -> str:
    """SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def principal(memory: Memory, authorization: str | None) -> Principal:
    """Who holds the key of an `Authorization: Bearer …` header. Raises `Refused` (401).

    A key is looked up in the book of record at every request, so that a revoked one ends at once.
    """
    scheme, _, secret = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unknown("give your key as: Authorization: Bearer comity-…")
    key = memory.store.key(hash_of(secret.strip()))
    if key is None or key.revoked_at is not None or key.role not in MAY:
        raise _unknown("this key is unknown or was revoked")
    return Principal(key.id, key.tenant, key.role)  # type: ignore[arg-type]  # checked above


def allow(who: Principal, act: Act) -> None:
    """Raises `Refused` (403) where the role does not allow it."""
    if not who.may(act):
        roles = ", ".join(role for role, acts in MAY.items() if act in acts)
        raise Refused(
            403,
            f"a key of role {who.role} may not do this ({act}); roles that may: {roles}",
            kind="permission_error",
            code="forbidden",
        )


def _unknown(message: str) -> Refused:
    return Refused(
        401,
        message,
        kind="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )

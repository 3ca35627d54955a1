"""Refuse clients whose TLS handshake is known from attacks."""

from gate import Api, Event

KNOWN = {"t13d000000_000000000000_000000000000", "t12d111111_111111111111_111111111111"}


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny by JA4."""
    context = event.security_context
    if context is not None and context.ja4 in KNOWN:
        api.access.deny("fingerprint_blocked", "You are not allowed to register.")

"""Deny sign-ups from browsers with a known bad TLS fingerprint."""

import logging

from gate import Api, Event, Messages

logger = logging.getLogger(__name__)

MESSAGES = Messages(
    {
        "en": "Your browser could not be trusted. Please try another one.",
        "de": "Diesem Browser können wir nicht vertrauen. Bitte versuche es mit einem anderen.",
        "es": "No podemos confiar en tu navegador. Prueba con otro, por favor.",
    },
    default="en",
)


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny if JA3 or JA4 is on the lists in `config`."""
    fingerprints = event.security_context

    if fingerprints is None:  # plain HTTP, or a proxy that does not pass them on
        return

    if fingerprints.ja3 in event.config["ja3"] or fingerprints.ja4 in event.config["ja4"]:
        logger.info("on the list: ja3=%s ja4=%s", fingerprints.ja3, fingerprints.ja4)
        api.access.deny("suspicious_tls_fingerprint", MESSAGES.for_event(event))

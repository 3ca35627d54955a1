"""Refuse sign-ups from North America, in the visitor's language."""

from gate import Api, Event

MESSAGES = {"en": "You are not allowed to register.", "es": "No tienes permitido registrarte."}


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny by continent."""
    if event.request.geoip.continent_code == "NA":
        api.access.deny("no_signups_from_north_america", MESSAGES.get(event.request.language or "en", MESSAGES["en"]))

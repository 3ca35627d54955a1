"""Store the id that the person has in another system."""

import logging

import httpx

from gate import Api, Event, Messages

logger = logging.getLogger(__name__)
TIMEOUT_S = 2

MESSAGES = Messages(
    {
        "en": "We could not look up your account. Please try again in a minute.",
        "de": "Wir konnten dein Konto nicht abrufen. Bitte versuche es in einer Minute noch einmal.",
        "es": "No hemos podido consultar tu cuenta. Vuelve a intentarlo en un minuto.",
    },
    default="en",
)


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Ask the user service; whom it does not know cannot register, and nobody can while it is down."""
    try:
        response = await api.http.get(
            event.secrets["USER_SERVICE_URL"],
            params={"email": event.user.email},
            headers={"Idempotency-Key": event.attempt_id or ""},  # after a crash this may run again
            timeout=TIMEOUT_S,
        )
        remote_user = response.raise_for_status().json()
        api.user.set_app_metadata("remote_user_id", remote_user["id"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        logger.warning("no id from the user service: %s", type(error).__name__)
        api.validation.error("user_service_failed", MESSAGES.for_event(event))

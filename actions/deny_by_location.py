"""Deny sign-ups from some continents, in the person's language."""

from gate import Api, Event, Messages

CONTINENTS = {
    "AF": "africa",
    "AN": "antarctica",
    "AS": "asia",
    "EU": "europe",
    "NA": "north_america",
    "OC": "oceania",
    "SA": "south_america",
}

MESSAGES = Messages(
    {
        "en": "You cannot register from where you are.",
        "es": "No puedes registrarte desde donde estás.",
        "pt": "O registo não está disponível no lugar onde está.",
    },
    default="en",
)


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny if the request comes from one of `config.continents`."""
    continent = event.request.geoip.continent_code

    if continent is not None and continent in event.config["continents"]:
        api.access.deny(f"no_signups_from_{CONTINENTS.get(continent, continent)}", MESSAGES.for_event(event))

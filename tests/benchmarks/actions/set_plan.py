"""Give everybody the free plan, and note where they came from."""

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Set metadata for the new user."""
    api.user.set_user_metadata("plan", "free")
    api.user.set_app_metadata("signup", {"country": event.request.geoip.country_code, "host": event.request.hostname})

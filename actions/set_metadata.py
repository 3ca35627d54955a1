"""Give every new user a screen name."""

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Take the nickname, the user name, or what stands before the @."""
    user = event.user
    screen_name = user.nickname or user.username or (user.email or "").partition("@")[0]

    if screen_name:
        api.user.set_user_metadata("screen_name", screen_name)

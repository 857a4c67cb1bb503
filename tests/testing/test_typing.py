"""The public typing surface: what tests/typing says of it holds at run time too; mypy reads it with the rest."""

from __future__ import annotations

from tests.typing import testing_api

import roster.testing


async def test_what_users_write_is_typed_and_runs() -> None:
    await testing_api.async_team()


def test_what_users_write_without_async_is_typed_and_runs() -> None:
    testing_api.plain_team()


def test_every_public_name_is_documented() -> None:
    for name in roster.testing.__all__:
        thing = getattr(roster.testing, name)
        assert thing.__doc__
        for inner, member in vars(thing).items():
            if not inner.startswith("_") and callable(member):
                assert member.__doc__, f"{name}.{inner}"

"""The people of the sandbox and the client registered there. Constants: nothing here is a real credential."""

from __future__ import annotations

from dataclasses import dataclass

Face = str  # names of simulated providers; those of `families` begin with `families.`
FACES: tuple[Face, ...] = ("slack", "google", "company")


@dataclass(frozen=True, slots=True)
class Person:
    """One person with an account at both faces of the simulator."""

    name: str
    display_name: str
    email: str
    slack_id: str
    google_id: str
    time_zone: str


PEOPLE: dict[str, Person] = {
    person.name: person
    for person in (
        Person(
            "alice", "Alice Example", "alice@example.com", "U0SBALICE01", "100000000000000000001", "Europe/Amsterdam"
        ),
        Person("bob", "Bob Example", "bob@example.com", "U0SBBOB0001", "100000000000000000002", "America/New_York"),
        Person("carol", "Carol Example", "carol@example.com", "U0SBCAROL01", "100000000000000000003", "Asia/Tokyo"),
    )
}


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """An OAuth client known to both faces. `redirect_uris` None accepts any loopback http or any https address.

    `is_public`: a Slack app with PKCE turned on. It needs no secret, and each of its refresh tokens ends after 30 days.
    `user_scopes`: the scopes that a Slack app may request from a person; None: all. `rotates`: token rotation is on.
    `api_enabled`: the client's project at Google has the Calendar API. `test_users`: the people, by the names in
    `PEOPLE`, whom a Google app in Testing admits; None: it is published.
    """

    client_id: str
    client_secret: str
    name: str
    redirect_uris: tuple[str, ...] | None = None
    is_public: bool = False
    user_scopes: frozenset[str] | None = None
    rotates: bool = True
    api_enabled: bool = True
    test_users: frozenset[str] | None = None


CLIENT_ID = "sandbox-client"
PUBLIC_CLIENT_ID = "public-client"
CLIENT_SECRET = "sandbox-secret"  # a constant that the documentation prints, like the rest of this file
CLIENTS: dict[str, RegisteredClient] = {
    client.client_id: client
    for client in (
        RegisteredClient(CLIENT_ID, CLIENT_SECRET, "Sandbox app"),
        RegisteredClient("second-client", "second-secret", "Second sandbox app"),
        RegisteredClient(PUBLIC_CLIENT_ID, "public-secret", "Sandbox app with PKCE", is_public=True),
    )
}

"""Google Calendar with google-api-python-client: make and find an event, with a handle."""

import os

from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build

calendar = build(
    "calendar",
    "v3",
    credentials=Credentials(token=os.environ["HANDLE"]),
    client_options={"api_endpoint": os.environ["API_BASE_URL"]},
)

event = {
    "summary": "Plan the garden",
    "start": {"dateTime": "2030-05-02T10:00:00Z"},
    "end": {"dateTime": "2030-05-02T11:00:00Z"},
}
created = calendar.events().insert(calendarId="primary", body=event).execute()
found = calendar.events().list(calendarId="primary", q="garden").execute()["items"]
print(created["id"] in [one["id"] for one in found])

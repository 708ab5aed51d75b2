"""GitHub with PyGithub: open an issue, comment, and list, with a handle."""

import os

from github import Auth, Github

github = Github(auth=Auth.Token(os.environ["HANDLE"]), base_url=os.environ["API_BASE_URL"], per_page=2)

repository = github.get_repo("alice/garden")
issue = repository.create_issue(title="Water the roses", body="Every evening")
issue.create_comment("Done today")
print(issue.number, len(list(repository.get_issues(state="open"))))

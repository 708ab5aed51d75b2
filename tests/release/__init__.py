"""`make release` and `make version`: the files of a release, each installed into an empty place and tried there."""

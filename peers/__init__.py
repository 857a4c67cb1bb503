"""What others build for the same work, each in an environment of its own, to be measured and broken beside Roster."""

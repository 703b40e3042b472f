"""Work on all users of a store, by a repository's own graphs in this process."""

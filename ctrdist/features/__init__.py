"""The encoding of raw values as pure functions, which preprocessing and serving share."""

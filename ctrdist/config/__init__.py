"""Configuration: plain dataclasses (:mod:`.experiment`) and how they are read (:mod:`.parse`). Free of torch."""

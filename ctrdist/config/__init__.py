"""Configuration: plain dataclasses (`experiment`) and how they are read (`parse`). No torch."""

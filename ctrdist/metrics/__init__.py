"""Metrics of click-through predictions. Import the modules: some of them need no torch."""

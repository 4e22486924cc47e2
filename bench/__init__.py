"""Jobwire beside BullMQ: the same work, on the same store, in one run. `python -m bench` runs it; README.md says how it measures."""

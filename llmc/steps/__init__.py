"""The steps of a run that need more than one room: what `llmc/run.py` calls in order."""

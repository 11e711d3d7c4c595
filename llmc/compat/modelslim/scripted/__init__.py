"""msModelSlim's guide for scripts: its sessions, its dumps of calls, its `sample_video.py`."""

"""Pictures to start videos from, computed from nothing but numbers: land, sea, towns, rooms, planets, drawings."""

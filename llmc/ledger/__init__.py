"""What a run writes down about itself: its folder, what it used, what was seen, the digests of what was judged."""

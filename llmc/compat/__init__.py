"""Words of other tools, translated into ours: nothing else in the house knows them."""

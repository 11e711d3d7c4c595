"""Everything that can be refused before hours are spent: inputs, outputs, recipes, layers, attentions."""

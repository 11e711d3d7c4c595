"""The YAML: a typed schema, a reader that remembers lines, checks against the disk, and errors that say what to do."""

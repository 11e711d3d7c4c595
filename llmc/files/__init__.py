"""Files that others wrote: each is opened, bounded and taken apart here alone, and refused in words if it is odd."""

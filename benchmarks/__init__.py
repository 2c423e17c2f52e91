"""How fast this library is beside the others, measured in one run on one machine."""
